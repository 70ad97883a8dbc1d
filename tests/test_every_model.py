"""Every model that a run of all families leaves on disk, measured again by the tests' own loop.

onnxruntime runs the files; arrays, normalization, answers and counts are numpy's. Two seeds, real stages.
"""

import csv
import io
import json
import statistics

import numpy as np
import onnx
import onnxruntime
import own
import pytest
import torch
from little import SECTIONS, make_project
from ruamel.yaml import YAML
from safetensors.torch import load_file
from torch import nn

from netpress.core.artifacts import load_model

SEEDS = [5, 2]
UNTUNED = {"recipe": "finetune", "loss": "labels", "loss_options": {}, "epochs": 0}
CHANGES = {
    "seeds": SEEDS,
    "quantize": SECTIONS["quantize"]
    | {
        "fp16": {"from": "train/teacher", "method": "fp16", "method_options": {}} | UNTUNED,
        "w4": {
            "from": "distill/kd",
            "method": "weights",
            "method_options": {"bits": 4, "block": 32},
        }
        | UNTUNED,
        "w8": {
            "from": "factorize/tucker",
            "method": "weights",
            "method_options": {"bits": 8, "block": 0},
        }
        | UNTUNED,
    },
    "claims": {
        "taught": {"text": "a teacher helps", "order": ["lowrank/depthwise", "distill/kd"], "equal": [], "margin": 0.01}
    },
}
TRAINED = ["train/teacher", "distill/kd", "lowrank/depthwise", "factorize/tucker"]
ROUNDS = ["prune/main/round_1", "prune/main/round_2"]
QUANTIZED = {"int8": "prune/main", "fp16": "train/teacher", "w4": "distill/kd", "w8": "factorize/tucker"}
VARIANTS = [*TRAINED, "prune/main", *(f"quantize/{name}" for name in QUANTIZED)]
STAGES = [("prepare",), *(model_id.split("/") for model_id in VARIANTS), ("test", "distill/kd"), ("aggregate",)]
#: Two ways of summing 784 products of single precision, layer after layer.
CLOSE = {"rel": 2e-3, "abs": 1e-5}


class Run:
    """The finished project, and what the tests' own loop finds of its models."""

    def __init__(self, folder):
        self.folder, self.known = folder, {}
        self.params = YAML(typ="safe").load((folder / "params.yaml").read_text())
        self.manifest = json.loads((folder / "data/prepared/manifest.json").read_text())
        self.arrays = {
            split: [np.load(folder / f"data/prepared/{split}_{part}.npy") for part in ("images", "labels")]
            for split in ("train", "val", "test")
        }

    def place(self, model_id, seed):
        return self.folder / "models" / model_id / f"seed_{seed}"

    def spec(self, model_id, seed):
        return json.loads((self.place(model_id, seed) / "spec.json").read_text())

    def metrics(self, model_id):
        base, _, number = model_id.partition("/round_")
        found = json.loads((self.folder / f"metrics/{base}.json").read_text())
        return found["rounds"][int(number)] if number else found

    def logits(self, model_id, seed, split="val"):
        if (model_id, seed, split) not in self.known:
            path = self.place(model_id, seed) / "model.onnx"
            session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
            training = self.arrays["train"][0] / 255
            mean, std = training.mean((0, 1, 2)), training.std((0, 1, 2))
            images = own.normalized(self.arrays[split][0], mean, std)
            (logits,) = session.run(["logits"], {"images": images})
            self.known[model_id, seed, split] = logits
        return self.known[model_id, seed, split]

    def quality(self, model_id, seed, split="val"):
        return own.quality(self.logits(model_id, seed, split), self.arrays[split][1], 10)

    def mean(self, model_id, key, split="val"):
        return statistics.fmean(self.quality(model_id, seed, split)[key] for seed in SEEDS)

    def history(self, model_id, seed):
        text = (self.place(model_id, seed) / "history.csv").read_text()
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


@pytest.fixture(scope="session")
def made(server, tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("every") / "project", **CHANGES)
    for stage in STAGES:
        server.finish(folder, *stage)
    return Run(folder)


@pytest.mark.parametrize("model_id", [*VARIANTS, *ROUNDS])
def test_accuracy_and_loss_are_those_of_the_file_on_validation_images(made, model_id):
    """Over the seeds in their order; one image may change sides where two logits tie but for rounding."""
    found, one = made.metrics(model_id), 1.01 / len(made.arrays["val"][1])
    accuracies = [made.quality(model_id, seed)["accuracy"] for seed in SEEDS]
    assert found["val_acc_by_seed"] == pytest.approx(accuracies, abs=one)
    assert found["val_acc"] == pytest.approx(statistics.fmean(found["val_acc_by_seed"]))
    assert found["val_acc_std"] == pytest.approx(statistics.stdev(found["val_acc_by_seed"]))
    assert found["val_loss"] == pytest.approx(made.mean(model_id, "loss"), **CLOSE)
    losses = [made.quality(model_id, seed)["loss"] for seed in SEEDS]
    assert found["val_loss_std"] == pytest.approx(statistics.stdev(losses), rel=0.01, abs=1e-4)
    assert losses[0] != losses[1]
    assert found["n_seeds"] == len(SEEDS)


@pytest.mark.parametrize("model_id", VARIANTS)
def test_calibration_and_classes_are_those_of_the_file(made, model_id):
    found = made.metrics(model_id)
    # A confidence at the edge of a bin may fall into the next: then a few images count otherwise.
    assert found["val_ece"] == pytest.approx(made.mean(model_id, "ece"), abs=0.01)
    by_class = np.mean([made.quality(model_id, seed)["by_class"] for seed in SEEDS], axis=0)
    counts = np.bincount(made.arrays["val"][1])
    assert np.abs(np.array(found["val_acc_by_class"]) - by_class).max() <= 1.01 / counts.min()
    if model_id.split("/")[0] != "quantize":
        on_train = made.mean(model_id, "accuracy", "train")
        assert found["train_acc"] == pytest.approx(on_train, abs=1.01 / len(made.arrays["train"][1]))


def test_the_agreement_is_that_of_the_two_files(made):
    shares = [
        np.mean(made.logits("distill/kd", s).argmax(1) == made.logits("train/teacher", s).argmax(1)) for s in SEEDS
    ]
    assert made.metrics("distill/kd")["teacher_agreement"] == pytest.approx(np.mean(shares), abs=0.01)


def bare_size(place):
    """Bytes of the ONNX file without what it says of how it is fed."""
    model = onnx.load(place / "model.onnx")
    assert model.metadata_props
    del model.metadata_props[:]
    return len(model.SerializeToString(deterministic=True))


@pytest.mark.parametrize("model_id", [*TRAINED, *ROUNDS, "prune/main"])
def test_counts_are_those_of_the_files(made, model_id):
    """Of the shipped seed; multiply-adds are counted at each layer's output."""
    found, place = made.metrics(model_id), made.place(model_id, SEEDS[0])
    tensors = load_file(place / "model.safetensors")
    learned = {n: t for n, t in tensors.items() if not n.endswith(("running_mean", "running_var", "tracked"))}
    assert found["params"] == sum(t.numel() for t in learned.values())
    assert found["weight_bytes"] == sum(t.numel() * t.element_size() for t in tensors.values())
    assert found["checkpoint_bytes"] == (place / "model.safetensors").stat().st_size
    assert found["onnx_bytes"] == bare_size(place)
    network, counts = load_model(place)[0], []

    def count(module, _, output):
        if isinstance(module, nn.Conv2d | nn.Linear):
            counts.append(output[0].numel() * module.weight[0].numel())

    for module in network.modules():
        module.register_forward_hook(count)
    images = own.normalized(made.arrays["val"][0][:8], made.manifest["mean"], made.manifest["std"])
    with torch.inference_mode():
        logits = network(torch.from_numpy(images)).numpy()
    assert found["macs"] == sum(counts)
    np.testing.assert_allclose(logits, made.logits(model_id, SEEDS[0])[:8], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "parent"), QUANTIZED.items())
def test_a_quantized_model_is_its_parents_of_the_seed_in_fewer_bits(made, name, parent):
    found, of_parent = made.metrics(f"quantize/{name}"), made.metrics(parent)
    assert found["onnx_bytes"] == bare_size(made.place(f"quantize/{name}", SEEDS[0]))
    assert found["onnx_bytes"] < of_parent["onnx_bytes"]
    assert (found["params"], found["macs"]) == (of_parent["params"], of_parent["macs"])
    logits = {seed: made.logits(f"quantize/{name}", seed) for seed in SEEDS}
    for seed in SEEDS:
        off = {other: np.abs(logits[seed] - made.logits(parent, other)).mean() for other in SEEDS}
        assert min(off, key=off.get) == seed
        assert off[seed] > 0


def parent_of(spec):
    """What a model comes from, or who taught it: there is one of each here."""
    (parent,) = spec["parents"].values()
    return parent


@pytest.mark.parametrize(
    ("model_id", "parent"),
    [("distill/kd", "train/teacher"), ("factorize/tucker", "train/teacher"), ("prune/main", "train/teacher")]
    + [(f"quantize/{name}", parent) for name, parent in QUANTIZED.items()],
)
def test_each_seed_comes_from_its_own_seeds_parent(made, model_id, parent):
    for seed in SEEDS:
        of_parent = made.spec(parent, seed)
        assert parent_of(made.spec(model_id, seed))["sha256"] in of_parent["sha256"].values()
        assert made.spec(model_id, seed)["seed"] == seed
    assert made.metrics(model_id)["parent_sha256"] == parent_of(made.spec(model_id, SEEDS[0]))["sha256"]


@pytest.mark.parametrize("model_id", [*TRAINED, *ROUNDS])
def test_the_history_is_of_the_recipes_epochs_and_rates(made, model_id):
    stage, variant, *_ = model_id.split("/")
    item = made.params["prune"] if stage == "prune" else made.params[stage][variant]
    recipe = made.params["recipes"][item["recipe"]]
    epochs = item["epochs"] // 2 if stage == "prune" else item["epochs"]
    steps = -(-len(made.arrays["train"][1]) // recipe["batch_size"])
    for place, seed in enumerate(SEEDS):
        rows = made.history(model_id, seed)
        assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))
        expected = [own.rate(recipe, epoch * steps + steps - 1, epochs * steps) for epoch in range(epochs)]
        assert [row["lr"] for row in rows] == pytest.approx(expected)
        assert rows[-1]["val_acc"] == made.metrics(model_id)["val_acc_by_seed"][place]
    best = statistics.fmean(max(row["val_acc"] for row in made.history(model_id, seed)) for seed in SEEDS)
    assert made.metrics(model_id)["val_acc_best"] == pytest.approx(best)


def test_the_test_accuracy_is_that_of_the_files_on_test_images(made):
    found = json.loads((made.folder / "metrics/test/distill/kd.json").read_text())
    accuracies = [made.quality("distill/kd", seed, "test")["accuracy"] for seed in SEEDS]
    assert found["test_acc_by_seed"] == pytest.approx(accuracies, abs=0.0101)
    assert found["n_images"] == len(made.arrays["test"][1]) == 100


def test_the_first_round_of_the_curve_is_the_parent(made):
    row = made.metrics("prune/main/round_0")
    assert row["val_loss"] == pytest.approx(made.mean("train/teacher", "loss"), **CLOSE)
    assert row["params"] == made.metrics("train/teacher")["params"]


def test_the_summary_says_what_the_metrics_say(made):
    with (made.folder / "metrics/summary.csv").open() as stream:
        rows = {row["model"]: row for row in csv.DictReader(stream)}
    assert rows.keys() >= set(VARIANTS)
    for model_id in VARIANTS:
        found = made.metrics(model_id)
        for key in ("params", "macs", "onnx_bytes"):
            assert int(rows[model_id][key]) == found[key]
        assert float(rows[model_id]["val_acc"]) == pytest.approx(found["val_acc"], abs=1e-6)
    taught = json.loads((made.folder / "metrics/claims.json").read_text())["taught"]["distill/kd > lowrank/depthwise"]
    one, two = (made.metrics(model_id)["val_acc_by_seed"] for model_id in ("lowrank/depthwise", "distill/kd"))
    steps = [b - a for a, b in zip(one, two, strict=True)]
    assert taught["n"] == 2
    assert taught["difference"] == pytest.approx(statistics.fmean(steps), abs=1e-6)
    half = 12.7062047 * abs(steps[0] - steps[1]) / 2  # t(0.975, 1) times stdev / sqrt(2)
    assert taught["high"] - taught["low"] == pytest.approx(2 * half, abs=2e-6)
