"""What each stage makes of a trained network: specs, metrics, rows of curves, test accuracies, fingerprints."""

import dataclasses
import statistics

import numpy as np
import pytest
import torch
from little import SECTIONS
from safetensors.torch import load_file
from standin import BEST, LAST, SEEDS
from torch import nn

from netpress.core import artifacts
from netpress.core.artifacts import load
from netpress.core.context import open_context
from netpress.core.metrics import unpacked
from netpress.distill.teaching import soft_targets


@pytest.mark.parametrize(
    ("model_id", "parent"),
    [
        ("train/teacher", None),
        ("distill/kd", "train/teacher"),
        ("lowrank/depthwise", None),
        ("factorize/tucker", "train/teacher"),
        ("prune/main", "train/teacher"),
    ],
)
def test_the_spec_of_each_seed_says_what_it_is_and_comes_from(stages, model_id, parent):
    for seed in SEEDS:
        spec = stages.model(model_id, seed).spec
        assert spec.seed == seed
        assert spec.classes == stages.manifest["classes"] != sorted(spec.classes)
        assert (spec.mean, spec.std) == (stages.manifest["mean"], stages.manifest["std"])
        assert (spec.in_channels, spec.height, spec.width) == (1, 28, 28)
        assert spec.parent == parent
        assert spec.parent_sha256 == (stages.model(parent, seed).spec.weights_sha256 if parent else None)
    shipped = stages.model(model_id, SEEDS[0])
    found = stages.metrics(model_id)
    assert found["weights_sha256"] == shipped.spec.weights_sha256
    assert found["parent_sha256"] == shipped.spec.parent_sha256
    assert artifacts.read_seeds(stages.folder / "models" / model_id) == found["seeds"] == SEEDS
    assert load(stages.folder / "models" / model_id).folder == shipped.folder


@pytest.mark.parametrize("model_id", ["lowrank/depthwise", "factorize/tucker", "prune/main/round_1"])
def test_counts_are_those_of_layers_and_files(stages, model_id):
    """Multiply-adds are counted at each layer's output."""
    loaded, counts = stages.model(model_id, SEEDS[0]), []
    tensors = load_file(loaded.folder / "model.safetensors")

    def count(module, _, output):
        if isinstance(module, nn.Conv2d | nn.Linear):
            counts.append(output[0].numel() * module.weight[0].numel())

    for module in loaded.network.modules():
        module.register_forward_hook(count)
    loaded.network(torch.zeros(1, 1, 28, 28))
    spec = loaded.spec
    assert spec.macs == sum(counts)
    assert spec.params == sum(t.numel() for n, t in tensors.items() if not n.endswith(("mean", "var", "tracked")))
    assert spec.weight_bytes == sum(t.numel() * t.element_size() for t in tensors.values())
    assert spec.onnx_bytes == (loaded.folder / "model.onnx").stat().st_size
    base, _, number = model_id.partition("/round_")
    found = stages.metrics(base)
    row = found["rounds"][int(number)] if number else found
    assert row["checkpoint_bytes"] == (loaded.folder / "model.safetensors").stat().st_size
    for key in ("macs", "params", "weight_bytes", "onnx_bytes"):
        assert row[key] == getattr(spec, key)


@pytest.mark.parametrize("model_id", ["train/teacher", "distill/kd", "lowrank/depthwise", "factorize/tucker"])
def test_metrics_are_of_the_last_epoch_and_of_the_trained_network(stages, model_id):
    found, (item,) = stages.metrics(model_id), [SECTIONS[model_id.split("/")[0]][model_id.split("/")[1]]]
    assert found["val_acc"] == pytest.approx(statistics.fmean(LAST[seed] for seed in SEEDS))
    assert found["val_acc_by_seed"] == [LAST[seed] for seed in SEEDS]
    assert found["val_acc_best"] == BEST
    assert found["val_loss"] == 11.0 - item["epochs"]
    assert found["val_acc_std"] == pytest.approx(abs(LAST[SEEDS[0]] - LAST[SEEDS[1]]) / 2**0.5)
    assert found["epochs"] == item["epochs"]
    ends = [stages.of(model_id)[seed][0].end for seed in SEEDS]
    on_val, on_train = ([stages.quality(end, split) for end in ends] for split in ("val", "train"))
    assert found["train_acc"] == pytest.approx(statistics.fmean(q["accuracy"] for q in on_train))
    assert found["val_ece"] == pytest.approx(statistics.fmean(q["ece"] for q in on_val), rel=1e-3)
    by_class = np.array([q["by_class"] for q in on_val]).mean(0)
    assert found["val_acc_by_class"] == pytest.approx(by_class)


def test_the_agreement_is_with_the_teacher_of_the_seed(stages):
    shares = []
    for seed in SEEDS:
        networks = stages.of("distill/kd")[seed][0].end, stages.model("train/teacher", seed).network
        one, other = (stages.logits(network, "val").argmax(1) for network in networks)
        shares.append(float(np.mean(one == other)))
    assert stages.metrics("distill/kd")["teacher_agreement"] == pytest.approx(statistics.fmean(shares))
    assert max(shares) < 1


def test_the_accuracy_before_tuning_is_that_of_the_start(stages):
    started = [stages.quality(stages.of("factorize/tucker")[seed][0].start)["accuracy"] for seed in SEEDS]
    assert stages.metrics("factorize/tucker")["val_acc_before_tuning"] == pytest.approx(statistics.fmean(started))
    for number, row in enumerate(stages.metrics("prune/main")["rounds"][1:]):
        started = [stages.quality(stages.of("prune/main", "round")[seed][number].start)["accuracy"] for seed in SEEDS]
        assert row["val_acc_before_tuning"] == pytest.approx(statistics.fmean(started))


def channels(network):
    return sum(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d))


def test_the_curves_rows_are_of_its_rounds(stages):
    parents = [stages.model("train/teacher", seed) for seed in SEEDS]
    found = stages.metrics("prune/main")
    first, *others = found["rounds"]
    qualities = [stages.quality(parent.network) for parent in parents]
    assert first["val_acc"] == pytest.approx(statistics.fmean(q["accuracy"] for q in qualities))
    assert first["val_loss"] == pytest.approx(statistics.fmean(q["loss"] for q in qualities), rel=1e-4)
    assert (first["channels_share"], first["epochs_total"]) == (1.0, 0)
    assert first["weights_sha256"] == parents[0].spec.weights_sha256
    assert [row["epochs_total"] for row in others] == [3, 5]
    for number, row in enumerate(others, 1):
        shipped = stages.model(f"prune/main/round_{number}", SEEDS[0])
        assert shipped.spec.model_id == f"prune/main/round_{number}"
        assert row["round"] == number
        assert row["weights_sha256"] == shipped.spec.weights_sha256
        assert row["channels_share"] == pytest.approx(channels(shipped.network) / channels(parents[0].network))
        assert row["val_acc_by_seed"] == [LAST[seed] for seed in SEEDS]
        assert row["control_val_acc_by_seed"] == [LAST[seed] for seed in SEEDS]
        assert row["params"] == shipped.spec.params
    assert found["epochs"] == 5
    last = [stages.quality(stages.of("prune/main", "round")[seed][-1].end, "train")["accuracy"] for seed in SEEDS]
    assert found["train_acc"] == pytest.approx(statistics.fmean(last))
    for seed in SEEDS:
        kept, variant = (stages.folder / f"models/prune/main/{part}seed_{seed}" for part in ("round_2/", ""))
        assert {p.name: p.read_bytes() for p in kept.iterdir()} == {p.name: p.read_bytes() for p in variant.iterdir()}


@pytest.mark.parametrize("model_id", ["distill/kd", "prune/main/round_1"])
def test_the_test_accuracy_is_of_test_images_by_seed(stages, model_id):
    looks = [look for look in stages.looked_at if look[0].startswith(f"test of {model_id} ")]
    for seed, (_, split, network) in zip(SEEDS, looks, strict=True):
        np.testing.assert_array_equal(split.images.numpy(), stages.arrays("test")[0])
        expected = stages.model(model_id, seed).network.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    found = stages.metrics(f"test/{model_id}")
    accuracies = [stages.quality(stages.model(model_id, seed).network, "test")["accuracy"] for seed in SEEDS]
    assert found["test_acc_by_seed"] == pytest.approx(accuracies)
    assert unpacked(found["test_acc_right"], 100).mean(1) == pytest.approx(accuracies)
    assert found["test_acc"] == pytest.approx(statistics.fmean(accuracies))
    assert found["test_acc_std"] == pytest.approx(statistics.stdev(accuracies))
    assert found["n_images"] == 100
    assert found["weights_sha256"] == stages.model(model_id, SEEDS[0]).spec.weights_sha256


@pytest.mark.parametrize("changed", ["seed", "parent", "data", "recipe", "runtime", "environment", "code", "options"])
def test_a_fingerprint_changes_with_all_that_a_seed_follows_from(stages, changed):
    bench = open_context(stages.folder, "distill", "kd")
    seed, other = SEEDS
    config, item, specs = bench.config, bench.item, bench.parents["teacher"]
    update = {
        "seed": {"parents": {"teacher": {seed: specs[seed], other: specs[seed]}}},
        "parent": {"parents": {"teacher": {seed: specs[other]}}},
        "data": {"manifest": bench.manifest.model_copy(update={"sha256": {"train_images.npy": "another"}})},
        "recipe": {"config": config.model_copy(update={"recipe": bench.recipe.model_copy(update={"lr": 0.3})})},
        "runtime": {"config": config.model_copy(update={"runtime": config.runtime.model_copy(update={"threads": 3})})},
        "environment": {"environment": bench.environment | {"torch": "another"}},
        "code": {"code": bench.code | {"src/netpress/core/engine.py": "another"}},
        "options": {"config": config.model_copy(update={"item": item.model_copy(update={"options": {"width": 0.5}})})},
    }[changed]
    now = dataclasses.replace(bench, **update)
    assert now.fingerprint(other if changed == "seed" else seed) != bench.fingerprint(seed)


def test_a_fingerprint_does_not_change_with_other_seeds_and_plugins(stages):
    bench = open_context(stages.folder, "distill", "kd")
    config = bench.config.model_copy(update={"seeds": [SEEDS[0], 99]})
    now = dataclasses.replace(bench, config=config)
    assert now.fingerprint(SEEDS[0]) == bench.fingerprint(SEEDS[0])


@pytest.mark.parametrize("changed", ["teacher", "data", "environment", "code"])
def test_the_fingerprint_of_soft_targets_changes_with_all_that_they_follow_from(stages, changed):
    bench = open_context(stages.folder, "distill", "kd")
    spec = bench.parents["teacher"][SEEDS[0]]
    weights = spec.model_copy(update={"sha256": spec.sha256 | {"model.safetensors": "another"}})
    update = {
        "teacher": {"parents": {"teacher": {SEEDS[0]: weights}}},
        "data": {"manifest": bench.manifest.model_copy(update={"sha256": {"train_images.npy": "another"}})},
        "environment": {"environment": bench.environment | {"threads": "another"}},
        "code": {"code": bench.code | {"src/netpress/core/kernels.py": "another"}},
    }[changed]
    now = dataclasses.replace(bench, **update)
    assert soft_targets.fingerprint(now, SEEDS[0], "teacher") != soft_targets.fingerprint(bench, SEEDS[0], "teacher")


def test_the_fingerprint_of_soft_targets_does_not_change_with_the_student(stages):
    """Of two seeds with one teacher, other options, recipe, normalization, method, and their code."""
    bench = open_context(stages.folder, "distill", "kd")
    seed, other = SEEDS
    spec = bench.parents["teacher"][seed]
    item = bench.item.model_copy(update={"options": {"width": 0.5}, "method_options": {"temperature": 1.0}})
    now = dataclasses.replace(
        bench,
        parents={"teacher": {other: spec}},
        config=bench.config.model_copy(update={"item": item, "recipe": bench.recipe.model_copy(update={"lr": 0.3})}),
        manifest=bench.manifest.model_copy(update={"mean": [0.5]}),
        code=bench.code | {"src/netpress/distill/losses/kd.py": "other", "src/netpress/models/compact_cnn.py": "other"},
    )
    assert soft_targets.fingerprint(now, other, "teacher") == soft_targets.fingerprint(bench, seed, "teacher")
