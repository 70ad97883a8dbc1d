"""What each stage hands to training and makes of its result: images, start, recipe, seed, parent, figures.

Stages run in the tests' process with a `fit` that notes what it is handed and stands in for training by shaking the
weights, so that nothing is compared with what the package itself says of it.
"""

import copy
import json
import runpy
import statistics
from dataclasses import dataclass

import numpy as np
import own
import pytest
import torch
from little import CURVE, SECTIONS, make_project
from ruamel.yaml import YAML
from torch import nn

from netpress import artifacts, designs, factorization, pruning, quantization, runs
from netpress.artifacts import load
from netpress.channels import importance_of, remove_channels
from netpress.data.batches import Batch
from netpress.factorization import factorize_network
from netpress.measure import count_params
from netpress.models import build_edited, build_model
from netpress.quantize import int8_static

#: Neither from 0 nor rising; the first is shipped.
SEEDS = [5, 2]
#: What the stand-in for training reports of its last epoch, and of its best.
LAST, BEST = {5: 0.123, 2: 0.321}, 0.9
CHANGES = {
    "seeds": SEEDS,
    "prune": {"from": "train/teacher"}
    | CURVE
    | {"control": True, "control_rounds": [1, 2], "control_recipe": "control", "control_epochs": 6, "epochs": 5},
    "prune_sweep": {"tucker": {"from": "factorize/tucker"} | CURVE | {"until": 0.5}},
    "final": ["distill/kd", "prune/main/round_1"],
}
ORDER = [
    *(("train", "teacher"), ("distill", "kd"), ("lowrank", "depthwise"), ("factorize", "tucker"), ("prune", "main")),
    *(("prune", "tucker"), ("quantize", "int8"), ("test", "distill/kd"), ("test", "prune/main/round_1")),
]


@dataclass
class Call:
    """One call of `fit`: its arguments, and the network as it was at the start and in the end."""

    stage: str
    start: nn.Module
    end: nn.Module
    train: object
    val: object
    schedule: object
    label: str
    objective: object


@dataclass
class Quantized:
    """One call of the quantization method: what it was handed, what it gave, and what was measured then."""

    onnx: bytes
    calibration: np.ndarray
    given: bytes
    measured: bytes = b""


class Stages:
    """The project, run once, and what its stages did."""

    def __init__(self, folder):
        self.folder, self.calls, self.quantized = folder, [], []
        self.manifest = json.loads((folder / "data/prepared/manifest.json").read_text())

    def arrays(self, split):
        return [np.load(self.folder / f"data/prepared/{split}_{part}.npy") for part in ("images", "labels")]

    def of(self, stage, kind=""):
        """The calls of one stage by seed: those whose label holds `kind`."""
        found = {seed: [] for seed in SEEDS}
        for call in self.calls:
            if call.stage == stage and kind in call.label and ("control" in call.label) == (kind == "control"):
                found[call.schedule.seed].append(call)
        return found

    def model(self, model_id, seed):
        return load(self.folder / "models" / model_id / f"seed_{seed}")

    def metrics(self, model_id):
        return json.loads((self.folder / f"metrics/{model_id}.json").read_text())

    def logits(self, network, split):
        images = own.normalized(self.arrays(split)[0], self.manifest["mean"], self.manifest["std"])
        with torch.inference_mode():
            return copy.deepcopy(network).eval()(torch.from_numpy(images)).numpy()

    def quality(self, network, split="val"):
        return own.quality(self.logits(network, split), self.arrays(split)[1], 10)

    def fit(self, stage):
        def stand_in(network, train, val, schedule, runtime, label, objective=None, checkpoint=None):
            start = copy.deepcopy(network)
            torch.manual_seed(schedule.seed + len(self.calls))
            with torch.no_grad():
                for value in network.state_dict().values():
                    if value.is_floating_point():
                        value.mul_(1 + 0.2 * torch.rand_like(value))
            network.eval()
            end = copy.deepcopy(network)
            self.calls.append(Call(stage, start, end, train, val, schedule, label, objective))
            accuracies = [BEST] * (schedule.epochs - 1) + [LAST[schedule.seed]]
            row = {"lr": 0.1, "train_loss": 1.0, "train_acc": 0.5, "val_loss": 2.0}
            return [row | {"epoch": k + 1, "val_acc": accuracy} for k, accuracy in enumerate(accuracies)]

        return stand_in

    def quantize(self, onnx, calibration, options):
        self.quantized.append(Quantized(onnx, calibration, b"quantized " + onnx))
        return self.quantized[-1].given

    def measured(self, data, threads):
        self.quantized[-1].measured = data
        return Constant()


class Constant(nn.Module):
    """Names class 3 always: stands in for the quantized file as onnxruntime runs it."""

    def forward(self, images):
        return torch.eye(10)[3].expand(len(images), 10) * 2


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("glue") / "project", **CHANGES)
    yaml = YAML(typ="safe")
    params = yaml.load((folder / "params.yaml").read_text())
    params["recipes"]["control"] = copy.deepcopy(params["recipes"]["plain"]) | {"lr": 0.07}  # no alias in the file
    with (folder / "params.yaml").open("w") as stream:
        yaml.dump(params, stream)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(folder, "prepare")
        made = Stages(folder)
        patch.setattr(runs, "export_onnx", lambda network, *shape: b"onnx " + artifacts.weights_as_bytes(network)[-64:])
        patch.setattr(int8_static, "quantize", made.quantize)
        patch.setattr(quantization, "OnnxModule", made.measured)
        patch.setattr(quantization, "without_metadata", lambda data: data)
        patch.setattr(quantization, "initializer_bytes", lambda data: 12345)
        for stage, variant in ORDER:
            for module in (designs, factorization, pruning):
                patch.setattr(module, "fit", made.fit(f"{stage}/{variant}"))
            run(folder, stage, variant)
        yield made


def run(folder, stage, *variant):
    script = runpy.run_path(str(folder / f"stages/{stage}.py"))
    script["main" if stage == "prepare" else stage](folder, *variant)


def same(one, other):
    """Whether two networks hold the same tensors under the same names."""
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(
        value.shape == other[name].shape and torch.equal(value, other[name]) for name, value in one.items()
    )


def magnitude():
    return importance_of(CURVE["method"], CURVE["method_options"])


def cut(network, example=(2, 1, 28, 28)):
    """What a round of the curve starts from."""
    remove_channels(network, torch.zeros(*example), CURVE["rate"], CURVE["round_to"], magnitude())
    return network


def test_every_training_is_on_training_images_and_validated_on_validation_images(stages):
    assert {call.stage for call in stages.calls} == {f"{s}/{v}" for s, v in ORDER[:6]}
    for call in stages.calls:
        for split, name in ((call.train, "train"), (call.val, "val")):
            images, labels = stages.arrays(name)
            np.testing.assert_array_equal(split.images.numpy(), images, err_msg=call.label)
            np.testing.assert_array_equal(split.labels.numpy(), labels, err_msg=call.label)
            assert list(split.mean) == stages.manifest["mean"]
            assert list(split.std) == stages.manifest["std"]


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
        ("factorize/tucker", "", 0.02, [(3, 0)]),
        ("prune/main", "round", 0.02, [(3, 0), (2, 3)]),
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
    images, labels = stages.arrays("train")
    plain = own.normalized(images[:32], stages.manifest["mean"], stages.manifest["std"])
    targets, logits = np.eye(10, dtype=np.float32)[labels[:32]], np.random.default_rng(0).normal(size=(32, 10))
    logits = logits.astype(np.float32)
    seen = set()
    for seed, (call,) in stages.of("distill/kd").items():
        teacher = stages.model("train/teacher", seed).network
        assert same(teacher, stages.of("train/teacher")[seed][0].end)
        with torch.inference_mode():
            p = own.softmax(teacher(torch.from_numpy(plain)).numpy() / temperature)
        q = own.softmax(logits / temperature)
        soft = (p * (np.log(p) - np.log(q))).sum(1).mean() * temperature**2
        hard = -(targets * np.log(own.softmax(logits))).sum(1).mean()
        batch = Batch(torch.from_numpy(plain), torch.from_numpy(targets), lambda: None)
        for _ in range(2):  # a teacher in train mode would also change from one call to the next
            loss = call.objective(batch, torch.from_numpy(logits)).item()
            assert loss == pytest.approx((1 - weight) * hard + weight * soft, rel=1e-4)
        seen.add(loss)
    assert len(seen) == len(SEEDS)


def test_a_factorized_network_starts_from_the_parent_of_its_seed(stages):
    for seed, (call,) in stages.of("factorize/tucker").items():
        network = stages.model("train/teacher", seed).network
        factorize_network(network, "tucker2", {"rank": 0.5, "min_channels": 8})
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
        assert [edit["edit"] for edit in loaded.spec.edits] == ["sequence", "widths"]
        parent = stages.model("factorize/tucker", seed)
        assert loaded.spec.parent_sha256 == parent.spec.weights_sha256
        assert loaded.spec.params < parent.spec.params


def test_calibration_is_on_training_images_drawn_for_the_seed(stages):
    images, _ = stages.arrays("train")
    known = {row.tobytes(): k for k, row in enumerate(images)}
    mean, std = (np.array(stages.manifest[key]) for key in ("mean", "std"))
    drawn = []
    for call in stages.quantized:
        assert call.calibration.shape == (64, 1, 28, 28)
        pixels = np.rint((call.calibration.transpose(0, 2, 3, 1) * std + mean) * 255).astype(np.uint8)
        drawn.append([known[row.tobytes()] for row in pixels])  # a KeyError: it is no training image
    assert all(len(set(indices)) == 64 for indices in drawn)
    assert all(max(indices) >= 128 for indices in drawn)  # of all, not of the first
    assert drawn[0] != drawn[1]


def test_what_is_quantized_and_measured_is_the_parents_file_of_the_seed(stages):
    right = np.mean(stages.arrays("val")[1] == 3)
    for seed, call in zip(SEEDS, stages.quantized, strict=True):
        parent, made = stages.model("prune/main", seed), stages.folder / f"models/quantize/int8/seed_{seed}"
        assert call.onnx == (parent.folder / "model.onnx").read_bytes()
        assert call.measured == call.given == (made / "model.onnx").read_bytes()
        spec = artifacts.read_spec(made)
        assert (spec.weight_bytes, spec.onnx_bytes) == (12345, len(call.given))
        assert (spec.params, spec.macs) == (parent.spec.params, parent.spec.macs)
        assert (spec.quantized, spec.method, spec.seed) == (True, "int8_static", seed)
        assert (spec.parent, spec.parent_sha256) == (parent.spec.model_id, parent.spec.weights_sha256)
    found = stages.metrics("quantize/int8")
    assert found["val_acc"] == pytest.approx(right)
    assert found["val_acc_by_class"] == [float(k == 3) for k in range(10)]
    assert (found["epochs"], found["checkpoint_bytes"]) == (0, len(stages.quantized[0].given))


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


@pytest.mark.parametrize("model_id", ["train/teacher", "distill/kd", "lowrank/depthwise", "factorize/tucker"])
def test_metrics_are_of_the_last_epoch_and_of_the_trained_network(stages, model_id):
    found, (item,) = stages.metrics(model_id), [SECTIONS[model_id.split("/")[0]][model_id.split("/")[1]]]
    assert found["val_acc"] == pytest.approx(statistics.fmean(LAST.values()))
    assert found["val_acc_by_seed"] == [LAST[seed] for seed in SEEDS]
    assert found["val_acc_best"] == BEST
    assert found["val_acc_std"] == pytest.approx(abs(LAST[5] - LAST[2]) / 2**0.5)
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
    found = stages.metrics(f"test/{model_id}")
    expected = [stages.quality(stages.model(model_id, seed).network, "test")["accuracy"] for seed in SEEDS]
    assert found["test_acc_by_seed"] == pytest.approx(expected)
    assert found["test_acc"] == pytest.approx(statistics.fmean(expected))
    assert found["test_acc_std"] == pytest.approx(statistics.stdev(expected))
    assert found["n_images"] == 100
    assert found["weights_sha256"] == stages.model(model_id, SEEDS[0]).spec.weights_sha256
