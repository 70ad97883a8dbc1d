"""Quantization of a trained model.

A method is a file of `methods/` with `Options`, `EXAMPLE` and

    quantize(model: Trained, options) -> bytes

of an ONNX file that takes and gives float32. A method works on the parent's ONNX file alone (post-training, epochs: 0),
or calls `model.finetune` under the item's recipe and epochs: at least 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netpress.base.errors import ParamsError
from netpress.base.model_files import ONNX
from netpress.core import artifacts
from netpress.core.artifacts import Loaded, Parent, Spec
from netpress.core.context import Context, Method
from netpress.core.engine import History
from netpress.core.export import OnnxModule, export_onnx, with_metadata, without_metadata
from netpress.core.measure import evaluate
from netpress.core.predictions import PREDICTED, prediction_files
from netpress.core.resume import Workspace
from netpress.core.seeds import metrics_of, run_seeds
from netpress.core.splits import DeviceSplit, draw_images
from netpress.distill.teaching.taught import asks_teacher, tuning

#: Training images on which the file as it runs is compared with its arithmetic as it is written.
COMPARED = 64
#: Largest share by which the logits may differ there. Integer kernels round otherwise than the operators that they
#: replace, which was up to 0.05 % on every model tried; kernels that overflow were off by 0.4 to 35 %. Quantization
#: itself moves logits by 1 to 2 %.
MOST_DIFFERENT = 0.002


@dataclass(frozen=True)
class Trained:
    """A trained model to quantize.

    Attributes:
        network: the parent's network, in eval mode on the CPU.
        onnx: the parent's fp32 file.
        images: count -> training images (count, C, H, W) float32, normalized, drawn from the seed.
        finetune: trains a network in place under the item's recipe and epochs.
        export: a network -> its ONNX file.
    """

    network: nn.Module
    onnx: bytes
    images: Callable[[int], np.ndarray]
    finetune: Callable[[nn.Module], None]
    export: Callable[[nn.Module], bytes]


def quantize_model(context: Context) -> None:
    """Quantize every seed of the parent; the accuracy is that of the quantized model as onnxruntime runs it."""
    run_seeds(context, lambda seed, work: _quantize_seed(context, seed, work))


def _quantize_seed(context: Context, seed: int, work: Workspace) -> dict[str, Any]:
    parent, method = context.parent(seed), context.method()
    data, tuned = quantize_parent(context, parent, method, seed, work)
    name, threads = f"the file that {method.name} gave for {work.label}", context.config.runtime.threads
    module, written = (OnnxModule(data, threads, fused, name) for fused in (True, False))
    difference = fused_difference(module, written, calibration_images(context.train, COMPARED, seed))
    if difference > MOST_DIFFERENT:
        key = f"{context.model_id.key}.method_options"
        print(warning(work.label, key, difference, method.options), flush=True)
    quality = evaluate(module, context.val, work.label)
    spec = parent.spec.model_copy(
        update={
            "model_id": context.model_id,
            "seed": seed,
            "method": method.name,
            "init": None,
            "init_sha256": None,
            "parents": {"from": Parent(model_id=parent.spec.model_id, sha256=parent.spec.weights_sha256)},
            "quantized": True,
            "epochs": parent.spec.epochs + len(tuned),
            "weight_bytes": initializer_bytes(data),
            "onnx_bytes": len(data),
        }
    )
    data = with_metadata(data, spec.feeding())
    detail = quality.detail(context.val)
    contents = {ONNX: data} | prediction_files(detail[PREDICTED], context.val, context.classes)
    spec = artifacts.save_model(work.models / f"seed_{seed}", spec, contents)
    history = [{"val_acc": quality.accuracy, "val_loss": quality.loss} | detail]
    return metrics_of(spec, len(data), history, {"epochs": len(tuned), "fused_difference": difference})


def quantize_parent(
    context: Context, parent: Loaded, method: Method, seed: int, work: Workspace
) -> tuple[bytes, History]:
    """Return the quantized file, without metadata, and the history of the fine-tuning, empty if there was none.

    Raises:
        ParamsError: the item states epochs and the method does no fine-tuning, or the other way round; or what the
            method gives is no ONNX file.
    """
    tuned: History = []

    def finetune(network: nn.Module) -> None:
        if not context.item.epochs:
            raise ParamsError([("epochs", f"epochs = 0: {method.name} fine-tunes the network; set 1 or more")])
        if tuned:
            raise RuntimeError(f"{method.name} fine-tunes twice, where a method may do so once")
        with tuning(context, seed, network) as objective:
            tuned.extend(context.fit(work, "fit", network, seed, objective))

    asked = context.method("loss")
    if not context.item.epochs and asks_teacher(asked):
        text = f"loss = {asked.name}: with epochs = 0 nothing is trained by it; choose one that asks no teacher"
        raise ParamsError([("loss", text)])
    onnx = artifacts.read_file(parent.folder, parent.spec, ONNX)
    trained = Trained(
        parent.network,
        onnx,
        lambda count: calibration_images(context.train, count, seed),
        finetune,
        lambda network: _exported(network, parent.spec, f"the network of {method.name} for {work.label}"),
    )
    data = _checked(method, method.call("quantize", trained, method.options, gives=(bytes,)))
    if context.item.epochs and not tuned:
        epochs = context.item.epochs
        raise ParamsError([("epochs", f"epochs = {epochs}: {method.name} does no fine-tuning; set epochs: 0")])
    return data, tuned


def _checked(method: Method, data: bytes) -> bytes:
    """Return an ONNX file that `method` gave, without metadata; raise where it is none."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # which onnx stands on

    try:
        return without_metadata(data)
    except DecodeError:
        text = f"quantize returned {len(data)} bytes that are no ONNX file; return those of SerializeToString()"
        raise method.unfit(text) from None


def _exported(network: nn.Module, spec: Spec, name: str) -> bytes:
    """Export a network of the shape that `spec` describes, wherever it was trained; messages call it `name`."""
    return export_onnx(network.to("cpu").eval(), spec.in_channels, spec.height, spec.width, name)


def calibration_images(train: DeviceSplit, count: int, seed: int) -> np.ndarray:
    """Draw `count` training images, or all: (count, C, H, W) float32, normalized."""
    return np.ascontiguousarray(draw_images(train, count, seed, "calibration").cpu().numpy())


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
        packed = tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
        total += (values.size + 1) // 2 if packed else values.nbytes
    return total
