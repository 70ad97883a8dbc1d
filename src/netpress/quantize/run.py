"""Quantization of a trained model's ONNX file.

A method is a file with `Options`, `calibration_count(options)` and `quantize(onnx, calibration, options)`:
the bytes of an fp32 model and (n, C, H, W) float32 normalized training images -> the bytes of the
quantized model, which takes and gives float32.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netpress.core import artifacts
from netpress.core.artifacts import ONNX
from netpress.core.batches import DeviceSplit
from netpress.core.context import Bench
from netpress.core.export import OnnxModule, with_metadata, without_metadata
from netpress.core.measure import evaluate, of_validation
from netpress.core.resume import Workspace
from netpress.core.seeds import metrics_of, run_seeds
from netpress.params import plugins
from netpress.params.schema import parse

#: Names the stream of random numbers that chooses the calibration images.
CALIBRATION = 3
#: Training images on which the file as it runs is compared with its arithmetic as it is written.
COMPARED = 64
#: Largest share by which the logits may differ there. Integer kernels round otherwise than the operators that they
#: replace, which was up to 0.05 % on every model tried; kernels that overflow were off by 0.4 to 35 %. Quantization
#: itself moves logits by 1 to 2 %.
MOST_DIFFERENT = 0.002


def quantize_model(bench: Bench) -> None:
    """Quantize every seed of the parent; the accuracy is that of the quantized model as onnxruntime runs it."""
    method = plugins.load("quantize/methods", bench.item.method)
    options = parse(method.Options, bench.item.method_options, "method_options")
    train, val = bench.split("train"), bench.split("val")

    def make(seed: int, work: Workspace) -> dict[str, Any]:
        parent = bench.parent(seed)
        onnx = artifacts.read_file(parent.folder, parent.spec, ONNX)
        calibration = calibration_images(train, method.calibration_count(options), seed)
        data = without_metadata(method.quantize(onnx, calibration, options))
        module, written = (OnnxModule(data, bench.config.runtime.threads, fused) for fused in (True, False))
        difference = fused_difference(module, written, calibration_images(train, COMPARED, seed))
        if difference > MOST_DIFFERENT:
            key = f"{bench.model_id.replace('/', '.')}.method_options"
            print(warning(work.label, key, difference, options), flush=True)
        quality = evaluate(module, val, work.label)
        spec = parent.spec.model_copy(
            update={
                "model_id": bench.model_id,
                "seed": seed,
                "method": bench.item.method,
                "init": None,
                "init_sha256": None,
                "parent": parent.spec.model_id,
                "parent_sha256": parent.spec.weights_sha256,
                "quantized": True,
                "weight_bytes": initializer_bytes(data),
                "onnx_bytes": len(data),
            }
        )
        data = with_metadata(data, spec.feeding())
        spec = artifacts.save_model(work.models / f"seed_{seed}", spec, {ONNX: data})
        history = [{"val_acc": quality.accuracy, "val_loss": quality.loss}]
        found = of_validation(quality) | {"epochs": 0, "fused_difference": difference}
        return metrics_of(spec, len(data), history) | found

    run_seeds(bench, make)


def calibration_images(train: DeviceSplit, count: int, seed: int) -> np.ndarray:
    """Draw `count` training images: (count, C, H, W) float32, normalized."""
    chosen = np.random.default_rng([seed, 0, CALIBRATION]).permutation(len(train))[:count]
    images = train.images[torch.from_numpy(np.sort(chosen)).to(train.images.device)]
    return np.ascontiguousarray(train.normalize(images).cpu().numpy())


@torch.inference_mode()
def fused_difference(fused: nn.Module, written: nn.Module, images: np.ndarray) -> float:
    """Return by what share of their size the logits differ: mean |fused - written| / mean |written|, 6 decimals.

    Args:
        fused: the file as onnxruntime runs it, quantized operators replaced by integer kernels.
        written: the same file, operator by operator as it is written.
        images: (n, C, H, W) float32, normalized.
    """
    ours, theirs = (module(torch.from_numpy(images)).double() for module in (fused, written))
    return round(_mean_size(ours - theirs) / max(_mean_size(theirs), 1e-12), 6)


def _mean_size(logits: Tensor) -> float:
    return float(logits.abs().mean())


def warning(label: str, key: str, difference: float, options: Any) -> str:
    """Return the line that says that a file runs otherwise on this processor than it is written.

    Args:
        label: model and seed.
        key: where the options stand in params.yaml.
        difference: as `fused_difference` gives it.
        options: of the method.
    """
    remedy = "compare it with its parent on the processor that will run it"
    if getattr(options, "reduce_range", True) is False:
        remedy = f"weights of 8 bits overflow in its integer kernels; set {key}.reduce_range: true"
    return (
        f"warning: {label}: logits differ by {difference:.1%} (more than {MOST_DIFFERENT:.1%}) between what the file "
        f"says and what this processor computes, so that its accuracy holds on such processors only; {remedy}"
    )


def initializer_bytes(data: bytes) -> int:
    """Return the payload of all tensors of an ONNX model as stored, 4-bit integers two to a byte."""
    import onnx

    model, total = onnx.load_from_string(data), 0
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        total += (values.size + 1) // 2 if tensor.data_type == onnx.TensorProto.INT4 else values.nbytes
    return total
