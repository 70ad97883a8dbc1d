"""What each stage hands to training and quantization: images, start, recipe, seed, parent."""

import numpy as np
import own
import pytest
import torch
from conftest import score_of
from little import CURVE
from standin import LONE, ORDER, SEEDS

from netpress.core.artifacts import read_spec
from netpress.core.context import Method
from netpress.core.measure import count_params
from netpress.core.networks import build_edited, build_model
from netpress.factorize.methods import tucker2
from netpress.factorize.run import factorize_network
from netpress.prune.common.channels import remove_channels


def same(one, other):
    """Whether two networks hold the same tensors under the same names."""
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(
        value.shape == other[name].shape and torch.equal(value, other[name]) for name, value in one.items()
    )


def magnitude():
    return score_of(CURVE["method"], CURVE["method_options"])


def cut(network, example=(2, 1, 28, 28)):
    """What a round of the curve starts from."""
    remove_channels(network, torch.zeros(*example), CURVE["rate"], CURVE["round_to"], magnitude())
    return network


def test_every_training_is_on_training_images_and_validated_on_validation_images(stages):
    assert {call.stage for call in stages.calls} == {f"{s}/{v}" for s, v in ORDER if s not in ("quantize", "test")}
    for call in stages.calls:
        for split, name in ((call.train, "train"), (call.val, "val")):
            images, labels = stages.arrays(name)
            np.testing.assert_array_equal(split.images.numpy(), images, err_msg=call.label)
            np.testing.assert_array_equal(split.labels.numpy(), labels, err_msg=call.label)
            assert list(split.mean) == stages.manifest["mean"]
            assert list(split.std) == stages.manifest["std"]


def test_what_is_measured_besides_is_measured_on_validation_images(stages):
    """A parent before it is pruned, a network before its tuning, a quantized one."""
    images, _ = stages.arrays("val")
    besides = [look for look in stages.looked_at if not look[0].startswith("test of ")]
    for where, split, _ in besides:
        np.testing.assert_array_equal(split.images.numpy(), images, err_msg=where)
    # For each seed: one start and two rounds of a curve, one and one of the other, a factorized and two quantized.
    assert len(besides) == len(SEEDS) * (3 + 2 + 1 + 2)


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("train/teacher", {"width": 0.5}),
        ("distill/kd", {"width": 0.25}),
        ("lowrank/depthwise", {"groups": "depthwise", "width": 0.25}),
    ],
)
def test_each_seed_starts_with_weights_of_its_own(stages, stage, options):
    starts = {}
    for seed, (call,) in stages.of(stage).items():
        torch.manual_seed(seed)
        assert same(call.start, build_model("compact_cnn", 10, 1, **options))
        starts[seed] = call.start
    assert not same(*starts.values())


@pytest.mark.parametrize(
    ("stage", "kind", "lr", "expected"),
    [
        ("train/teacher", "", 0.1, [(4, 0)]),
        ("distill/kd", "", 0.1, [(4, 0)]),
        ("lowrank/depthwise", "", 0.1, [(4, 0)]),
        ("factorize/tucker", "", 0.05, [(3, 0)]),
        ("prune/main", "round", 0.05, [(3, 0), (2, 3)]),
        ("prune/main", "control", 0.07, [(6, 0), (6, 0)]),
    ],
)
def test_recipe_epochs_and_first_epoch_are_those_of_the_item(stages, stage, kind, lr, expected):
    for calls in stages.of(stage, kind).values():
        assert [(call.schedule.epochs, call.schedule.first_epoch) for call in calls] == expected
        assert [call.schedule.recipe.lr for call in calls] == [lr] * len(expected)


def test_a_student_is_taught_by_the_teacher_of_its_seed_in_eval_mode(stages):
    """The objective against Hinton's formula in numpy, on the teacher's logits as its file gives them."""
    temperature, weight = 4.0, 0.7
    batch, logits = stages.example()
    student, targets = logits.numpy(), batch.targets.numpy()
    q, hard = own.softmax(student / temperature), -(targets * np.log(own.softmax(student))).sum(1).mean()
    seen = set()
    for seed, (call,) in stages.of("distill/kd").items():
        teacher = stages.model("train/teacher", seed).network
        assert same(teacher, stages.of("train/teacher")[seed][0].end)
        with torch.inference_mode():
            p = own.softmax(teacher(batch.images).numpy() / temperature)
        soft = (p * (np.log(p) - np.log(q))).sum(1).mean() * temperature**2
        expected = (1 - weight) * hard + weight * soft
        assert call.losses == pytest.approx([expected] * 2, rel=1e-4)  # in train mode it would change besides
        seen.add(expected)
    assert len(seen) == len(SEEDS)


def test_a_factorized_network_starts_from_the_parent_of_its_seed(stages):
    for seed, (call,) in stages.of("factorize/tucker").items():
        network = stages.model("train/teacher", seed).network
        factorize_network(
            network,
            Method("tucker2", tucker2, tucker2.Options(choose="share", rank=0.5, min_channels=8)),
            lambda: iter(()),
        )
        assert same(call.start, network)


def test_each_round_starts_from_the_one_before_and_the_first_from_the_parent(stages):
    for seed, calls in stages.of("prune/main", "round").items():
        for number, call in enumerate(calls, 1):
            before = f"prune/main/round_{number - 1}" if number > 1 else "train/teacher"
            assert same(call.start, cut(stages.model(before, seed).network))
            assert same(call.end, stages.model(f"prune/main/round_{number}", seed).network)


def test_a_control_is_the_rounds_shape_with_fresh_weights_of_its_seed(stages):
    starts = []
    for seed, calls in stages.of("prune/main", "control").items():
        for number, call in enumerate(calls, 1):
            loaded = stages.model(f"prune/main/round_{number}", seed)
            torch.manual_seed(seed)
            fresh = build_edited("compact_cnn", 10, 1, loaded.spec.options, loaded.spec.edits)
            assert same(call.start, fresh)
            assert count_params(fresh) == loaded.spec.params
            wide = [name for name, value in fresh.state_dict().items() if value.ndim > 1]
            assert not any(torch.equal(fresh.state_dict()[n], loaded.network.state_dict()[n]) for n in wide)
        starts.append(calls[0].start)
    assert not same(*starts)


def test_a_curve_of_a_factorized_model_keeps_its_chains(stages):
    for seed in SEEDS:
        loaded = stages.model("prune_sweep/tucker", seed)
        assert [edit["edit"] for edit in loaded.spec.edits] == ["replace", "resize"]
        parent = stages.model("factorize/tucker", seed)
        assert loaded.spec.parent_sha256 == parent.spec.weights_sha256
        assert loaded.spec.params < parent.spec.params


def test_calibration_is_on_training_images_drawn_for_the_seed(stages):
    images, _ = stages.arrays("train")
    known = {row.tobytes(): k for k, row in enumerate(images)}
    mean, std = (np.array(stages.manifest[key]) for key in ("mean", "std"))
    drawn = []
    for call in stages.quantized[: len(SEEDS)]:
        assert call.calibration.shape == (64, 1, 28, 28)
        pixels = np.rint((call.calibration.transpose(0, 2, 3, 1) * std + mean) * 255).astype(np.uint8)
        drawn.append([known[row.tobytes()] for row in pixels])  # a KeyError: it is no training image
    assert all(len(set(indices)) == 64 for indices in drawn)
    assert all(max(indices) >= 128 for indices in drawn)  # of all, not of the first
    assert drawn[0] != drawn[1]


def test_what_is_quantized_and_measured_is_the_parents_file_of_the_seed(stages):
    right = np.mean(stages.arrays("val")[1] == 3)
    for seed, call in zip(SEEDS, stages.quantized[: len(SEEDS)], strict=True):
        parent, made = stages.model("prune/main", seed), stages.folder / f"models/quantize/int8/seed_{seed}"
        assert call.onnx == (parent.folder / "model.onnx").read_bytes()
        assert call.measured == call.given == (made / "model.onnx").read_bytes()
        spec = read_spec(made)
        assert (spec.weight_bytes, spec.onnx_bytes) == (len(call.given) + 1, len(call.given))
        assert (spec.params, spec.macs) == (parent.spec.params, parent.spec.macs)
        assert (spec.quantized, spec.method, spec.seed) == (True, "int8_static", seed)
        assert (spec.parent, spec.parent_sha256) == (parent.spec.model_id, parent.spec.weights_sha256)
    found = stages.metrics("quantize/int8")
    assert found["val_acc"] == pytest.approx(right)
    assert found["val_acc_by_class"] == [float(k == 3) for k in range(10)]
    assert (found["epochs"], found["checkpoint_bytes"]) == (0, len(stages.quantized[0].given))


def test_a_child_of_a_parent_of_one_seed_has_seeds_of_its_own(stages):
    for seed in SEEDS:
        spec = read_spec(stages.folder / f"models/quantize/single/seed_{seed}")
        assert spec.seed == seed
        assert spec.parent_sha256 == stages.model("train/single", LONE).spec.weights_sha256
