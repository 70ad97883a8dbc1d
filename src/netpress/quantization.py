"""Quantization of a trained model's ONNX file.

A method is a file with `Options`, `calibration_count(options)` and `quantize(onnx, calibration, options)`:
the bytes of an fp32 model and (n, C, H, W) float32 normalized training images -> the bytes of the
quantized model, which takes and gives float32.
"""

from typing import Any

import numpy as np
import torch

from netpress import artifacts
from netpress.artifacts import ONNX
from netpress.base import plugins
from netpress.base.schema import parse
from netpress.bench import Bench
from netpress.data.batches import DeviceSplit
from netpress.export import OnnxModule, without_metadata
from netpress.measure import evaluate, of_validation
from netpress.runs import metrics_of, run_seeds
from netpress.store import Workspace

#: Names the stream of random numbers that chooses the calibration images.
CALIBRATION = 3


def quantize_model(bench: Bench) -> None:
    """Quantize every seed of the parent; the accuracy is that of the quantized model as onnxruntime runs it."""
    method = plugins.load("quantize", bench.item.method)
    options = parse(method.Options, bench.item.method_options, "method_options")
    train, val = bench.split("train"), bench.split("val")

    def make(seed: int, work: Workspace) -> dict[str, Any]:
        parent = bench.parent(seed)
        onnx = artifacts.read_file(parent.folder, parent.spec, ONNX)
        calibration = calibration_images(train, method.calibration_count(options), seed)
        data = without_metadata(method.quantize(onnx, calibration, options))
        quality = evaluate(OnnxModule(data, bench.config.runtime.threads), val, work.label)
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
        spec = artifacts.save_model(work.models / f"seed_{seed}", spec, {ONNX: data})
        history = [{"val_acc": quality.accuracy, "val_loss": quality.loss}]
        return metrics_of(spec, len(data), history) | of_validation(quality) | {"epochs": 0}

    run_seeds(bench, make)


def calibration_images(train: DeviceSplit, count: int, seed: int) -> np.ndarray:
    """Draw `count` training images: (count, C, H, W) float32, normalized."""
    chosen = np.random.default_rng([seed, 0, CALIBRATION]).permutation(len(train))[:count]
    images = train.images[torch.from_numpy(np.sort(chosen)).to(train.images.device)]
    return np.ascontiguousarray(train.normalize(images).cpu().numpy())


def initializer_bytes(data: bytes) -> int:
    """Return the payload of all tensors of an ONNX model as stored, 4-bit integers two to a byte."""
    import onnx

    model, total = onnx.load_from_string(data), 0
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        total += (values.size + 1) // 2 if tensor.data_type == onnx.TensorProto.INT4 else values.nbytes
    return total
