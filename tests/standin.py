"""A run of every stage in the tests' process, with a `fit` that notes what it is handed.

It stands in for training by shaking the weights, so that nothing is compared with what the package says of itself.
"""

import copy
import json
import runpy
from dataclasses import dataclass

import numpy as np
import own
import pytest
import torch
from little import CURVE, DESIGN, SECTIONS, make_project
from ruamel.yaml import YAML
from torch import nn

from netpress.core import artifacts, context
from netpress.core import seeds as runs
from netpress.core.artifacts import load
from netpress.core.batches import Batch
from netpress.core.measure import evaluate
from netpress.factorize import run as factorization
from netpress.final import run as final
from netpress.prune import run as pruning
from netpress.quantize import run as quantization
from netpress.quantize.methods import int8_static

#: Neither from 0 nor rising; the first is shipped.
SEEDS = [5, 2]
#: What the stand-in for training reports of its last epoch, and of its best.
LAST, BEST = {5: 0.123, 2: 0.321, 7: 0.5}, 0.9
#: The one seed of a model of its own.
LONE = 7
CHANGES = {
    "seeds": SEEDS,
    "prune": {"from": "train/teacher"}
    | CURVE
    | {"control_rounds": [1, 2], "control_recipe": "control", "control_epochs": 6, "epochs": 5},
    "prune_sweep": {"tucker": {"from": "factorize/tucker"} | CURVE | {"until": 0.5}},
    "train": SECTIONS["train"] | {"single": DESIGN | {"init": "none", "seeds": [LONE]}},
    "quantize": SECTIONS["quantize"] | {"single": SECTIONS["quantize"]["int8"] | {"from": "train/single"}},
    "final": ["distill/kd", "prune/main/round_1"],
}
ORDER = [
    *(("train", "teacher"), ("distill", "kd"), ("lowrank", "depthwise"), ("factorize", "tucker"), ("prune", "main")),
    *(("prune", "tucker"), ("quantize", "int8"), ("test", "distill/kd"), ("test", "prune/main/round_1")),
    *(("train", "single"), ("quantize", "single")),
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
    losses: list  # of the objective on one and the same example, twice


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
        self.folder, self.calls, self.quantized, self.looked_at = folder, [], [], []
        self.manifest = json.loads((folder / "data/prepared/manifest.json").read_text())

    def arrays(self, split):
        return [np.load(self.folder / f"data/prepared/{split}_{part}.npy") for part in ("images", "labels")]

    def of(self, stage, kind=""):
        """The calls of one stage by seed: those whose label holds `kind`."""
        found = {seed: [] for seed in SEEDS}
        for call in (call for call in self.calls if call.schedule.seed != LONE):
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

    def example(self):
        """A batch of training images as they are, and a student's logits."""
        images, labels = self.arrays("train")
        plain = torch.from_numpy(own.normalized(images[:32], self.manifest["mean"], self.manifest["std"]))
        logits = np.random.default_rng(0).normal(size=(32, 10)).astype(np.float32)
        targets = torch.eye(10)[torch.from_numpy(labels[:32])]
        return Batch(plain, targets, torch.arange(32), lambda: plain), torch.from_numpy(logits)

    def fit(self, stage):
        def stand_in(network, train, val, schedule, runtime, label, objective=None, checkpoint=None):
            start = copy.deepcopy(network)
            torch.manual_seed(schedule.seed + len(self.calls))
            with torch.no_grad():
                for value in network.state_dict().values():
                    if value.is_floating_point():
                        value.mul_(1 + 0.2 * torch.rand_like(value))
                head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
                head.weight.mul_(5 / head.weight.std())  # answers differ from image to image
                head.bias.sub_(network.eval()(self.example()[0].images).mean(0))
            network.eval()
            end = copy.deepcopy(network)
            losses = [objective(*self.example()).item() for _ in range(2)] if objective else []
            self.calls.append(Call(stage, start, end, train, val, schedule, label, losses))
            accuracies = [BEST] * (schedule.epochs - 1) + [LAST[schedule.seed]]
            row = {"lr": 0.1, "train_loss": 1.0, "train_acc": 0.5}
            rows = [
                row | {"epoch": k + 1, "val_acc": accuracy, "val_loss": 10.0 - k}
                for k, accuracy in enumerate(accuracies)
            ]
            rows[-1] |= evaluate(network, val).detail(val)
            return rows

        return stand_in

    def evaluate(self, network, split, where="the network"):
        self.looked_at.append((where, split, network))
        return evaluate(network, split, where)

    def quantize(self, model, options):
        self.quantized.append(
            Quantized(model.onnx, model.images(options.calibration_images), b"quantized " + model.onnx)
        )
        return self.quantized[-1].given

    def measured(self, data, *settings):
        self.quantized[-1].measured = data
        return Constant()


class Constant(nn.Module):
    """Names class 3 always: stands in for the quantized file as onnxruntime runs it."""

    def forward(self, images):
        return torch.eye(10)[3].expand(len(images), 10) * 2


def run_all(folder):
    """Make the project in `folder` and run its stages; what stood in for others is gone afterwards."""
    make_project(folder, **CHANGES)
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
        for module in (runs, quantization):
            patch.setattr(module, "with_metadata", lambda data, spec: data)
        patch.setattr(quantization, "initializer_bytes", lambda data: len(data) + 1)
        for module in (factorization, final, pruning, quantization):
            patch.setattr(module, "evaluate", made.evaluate)
        for stage, variant in ORDER:
            patch.setattr(context, "fit", made.fit(f"{stage}/{variant}"))
            run(folder, stage, variant)
    return made


def run(folder, stage, *variant):
    script = runpy.run_path(str(folder / f"stages/{stage}.py"))
    script["main" if stage == "prepare" else stage](folder, *variant)
