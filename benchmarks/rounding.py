"""GPTQ beside rounding to the nearest, on trained models of a project: how far logits are off fp32, and accuracy.

`off` is mean |difference| / mean |logit| over the validation images; both methods store files of one size.

    python benchmarks/rounding.py [MODEL ...] [--bits 4] [--blocks 32 0]     in the project's folder, after `dvc repro`
"""

import argparse
from typing import NoReturn

import netpress  # noqa: F401 (before torch: it says how threads wait)

# isort: split
import numpy as np
import torch
from torch import Tensor, nn

from netpress.base.model_files import ONNX
from netpress.base.model_id import ModelId
from netpress.base.project import PREPARED, find_root
from netpress.core.artifacts import seed_folder
from netpress.core.dataset import load_manifest
from netpress.core.export import OnnxModule, without_metadata
from netpress.core.runtime import set_up
from netpress.core.splits import device_split
from netpress.params import reader
from netpress.quantize.methods import gptq, weights
from netpress.quantize.run import Trained, calibration_images

MODELS = ["distill/kd_strong", "train/resnet18_strong"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, help="model ids")
    parser.add_argument("--bits", type=int, default=4, help="8 or 4")
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 0], help="inputs that share a scale; 0: all")
    args = parser.parse_args()
    root = find_root()
    params = reader.load(root / "params.yaml")
    device, manifest = set_up(params.runtime), load_manifest(root / PREPARED)
    train, val = (device_split(root, name, manifest, device, params.runtime) for name in ("train", "val"))
    images, seed = val.normalize(val.images[:]).cpu(), params.seeds[0]
    print("model                    rounding   block       off   accuracy      bytes")
    for name in args.models:
        onnx = (seed_folder(ModelId(name).folder(root), seed) / ONNX).read_bytes()
        fp32 = OnnxModule(onnx, params.runtime.threads)(images)
        show(name, "fp32", "-", onnx, fp32, fp32, val.labels)
        model = to_quantize(onnx, calibration_images(train, 512, seed))
        for block in args.blocks:
            options = {"bits": args.bits, "block": block}
            damped = gptq.Options(**options, calibration_images=512, damping=0.01)
            for rounding, data in (
                ("nearest", weights.quantize(model, weights.Options(**options))),
                ("gptq", gptq.quantize(model, damped)),
            ):
                logits = OnnxModule(data, params.runtime.threads)(images)
                show(name, rounding, str(block), data, logits, fp32, val.labels)


def to_quantize(onnx: bytes, images: np.ndarray) -> Trained:
    """A model as post-training methods see it, which look at its file alone."""

    def refuse(*_: object) -> NoReturn:
        raise NotImplementedError("this benchmark trains nothing")

    return Trained(nn.Identity(), onnx, lambda count: images[:count], refuse, refuse)


def show(name: str, rounding: str, block: str, data: bytes, logits: Tensor, fp32: Tensor, labels: Tensor) -> None:
    """Print one line."""
    off = float((logits - fp32).abs().mean() / fp32.abs().mean())
    accuracy = float((logits.argmax(1) == labels.cpu()).float().mean())
    size = len(without_metadata(data))
    print(f"{name:24} {rounding:9} {block:>6} {off:9.2%} {accuracy:10.2%} {size:10,}", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
