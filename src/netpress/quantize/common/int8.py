"""Int8 files that onnxruntime writes (QDQ): the range of each activation, and the file that follows from the ranges.

Ranges are found here, since onnxruntime 1.32 has no squared error, and its entropy compares a single range, the whole
one: its histogram has as many bins as the quantized one, and `quantize_static` offers no way to change that.
"""

import logging
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from netpress.base.errors import ParamsError
from netpress.params.schema import Strict
from netpress.quantize.common.inputs import BATCH, outputs_of

#: Tensor -> the lowest and the highest value that its integers stand for; zero lies between.
Ranges = dict[str, tuple[float, float]]
Rule = Literal["minmax", "percentile", "entropy", "mse"]
#: Operators without integer kernels; onnxruntime cannot write int8 forms of those that share a scale (group norm).
_IN_FP32 = ("InstanceNormalization",)
#: Operators with weights.
_LAYERS = ("Conv", "Gemm", "MatMul")
#: Bins of a tensor's histogram, and steps of its integers.
BINS, STEPS = 4096, 255
#: Thresholds that are compared: this many, from an eighth of the largest magnitude to all of it.
THRESHOLDS = np.linspace(1 / 8, 1, 113)
#: Share of the values other than zero that `percentile` keeps.
KEPT = 0.99999


class Calibration(Strict):
    """Options of every int8 file."""

    calibration_images: int = Field(ge=1, le=100_000, description="training images that set the activations' scales")
    calibration: Rule = Field(description="how a scale follows from the values")
    reduce_range: bool = Field(description="weights in 7 bits, exact on every processor; 8 bits overflow without VNNI")


def prepared(data: bytes) -> bytes:
    """Return an ONNX file as onnxruntime wants it before it quantizes: constants folded, shapes inferred, named."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        original, made = Path(folder) / "original.onnx", Path(folder) / "prepared.onnx"
        original.write_bytes(data)
        quant_pre_process(str(original), str(made), skip_symbolic_shape=True)
        model = onnx.load(made)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type} {number}"
    return bytes(model.SerializeToString(deterministic=True))


def layers_of(data: bytes) -> list[Any]:
    """Return the nodes of a prepared file whose second input is a weight, in their order."""
    import onnx

    graph = onnx.load_from_string(data).graph
    tensors = {tensor.name for tensor in graph.initializer}
    return [node for node in graph.node if node.op_type in _LAYERS and node.input[1] in tensors]


def as_int8(
    data: bytes, ranges: Ranges, reduce_range: bool, method: str, in_float: Collection[str] = frozenset()
) -> bytes:
    """Return a prepared file with weights and activations in int8: weights with a scale for each output channel.

    Args:
        data: as `prepared` gives it.
        ranges: of its activations.
        reduce_range: weights in 7 bits.
        method: named in messages.
        in_float: names of nodes that stay as they are.

    Raises:
        ParamsError: onnxruntime cannot quantize the network.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

    logging.getLogger().setLevel(logging.ERROR)
    graph = onnx.load_from_string(data).graph
    ends = {name: tuple(np.array(end, np.float32) for end in pair) for name, pair in ranges.items()}
    with tempfile.TemporaryDirectory() as folder:
        original, known, made = (Path(folder) / name for name in ("prepared.onnx", "ranges.json", "quantized.onnx"))
        original.write_bytes(data)
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, ends), known)
        try:
            quantize_static(
                str(original),
                str(made),
                None,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                calibration_cache_path=known,
                nodes_to_exclude=[n.name for n in graph.node if n.op_type in _IN_FP32 or n.name in in_float],
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
        except ValueError as error:  # of operators that it knows no int8 form of; it names no layer
            text = f"method = {method}: onnxruntime cannot quantize this network ({error}); choose weights or fp16"
            raise ParamsError([("method", text)]) from None
        return made.read_bytes()


def ranges_of(data: bytes, images: np.ndarray, rule: Rule) -> Ranges:
    """Return the range of each float32 activation of a prepared file on `images` (n, C, H, W).

    `minmax` takes the extremes, and zero. The other rules cut both ends at one magnitude t: [max(low, -t), min(high,
    t)]. They see a histogram of all values but zeros, which every range holds exactly.
    """
    import onnx

    entry = onnx.load_from_string(data).graph.input[0].name
    names = [name for name in _activations(data) if name != entry]

    def seen() -> Iterator[dict[str, np.ndarray]]:
        for start, batch in enumerate(outputs_of(data, names, images)):
            yield batch | {entry: images[start * BATCH : (start + 1) * BATCH]}

    ends: Ranges = dict.fromkeys([entry, *names], (0.0, 0.0))
    for batch in seen():
        for name, values in batch.items():
            low, high = ends[name]
            ends[name] = float(values.min(initial=low)), float(values.max(initial=high))
    if rule == "minmax":
        return ends
    counts = {name: np.zeros(BINS, np.int64) for name in ends}
    for batch in seen():
        for name, values in batch.items():
            counts[name] += np.histogram(values[values != 0], BINS, ends[name])[0]
    return {name: cut(counts[name], *pair, rule) for name, pair in ends.items()}


def _activations(data: bytes) -> list[str]:
    """Return the names of all float32 tensors that the nodes of a file take or make, its weights left out."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(data)).graph
    known = [*graph.input, *graph.value_info, *graph.output]
    tensors = {tensor.name for tensor in graph.initializer}
    floats = (value.name for value in known if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)
    return [name for name in dict.fromkeys(floats) if name not in tensors]


def cut(counts: np.ndarray, low: float, high: float, rule: Rule) -> tuple[float, float]:
    """Return the range within [low, high] that a rule finds best.

    Args:
        counts: values in each of `BINS` equal bins from `low` to `high`, zeros left out.
        low, high: the extremes, and zero.
        rule: `percentile`: the smallest t that `KEPT` of the magnitudes do not exceed (Wu et al.,
            https://arxiv.org/abs/2004.09602); `mse` and `entropy`: of `THRESHOLDS` the one of the least
            `squared_error` or `divergence`.
    """
    if not counts.any():
        return low, high
    edges = np.linspace(low, high, BINS + 1)
    centers = (edges[:-1] + edges[1:]) / 2
    if rule == "percentile":
        order = np.argsort(np.abs(centers), kind="stable")
        total = np.cumsum(counts[order])
        last = order[np.searchsorted(total, KEPT * total[-1])]
        best = max(abs(edges[last]), abs(edges[last + 1]))
    else:
        cost = squared_error if rule == "mse" else divergence
        tried = THRESHOLDS * max(-low, high)
        best = tried[np.argmin([cost(counts, centers, max(low, -t), min(high, t)) for t in tried])]
    return float(max(low, -best)), float(min(high, best))


def squared_error(counts: np.ndarray, centers: np.ndarray, low: float, high: float) -> float:
    """Return sum n (x - q(x))^2 over the bins: n values at x each, which integers from `low` to `high` round to q."""
    step = (high - low) / STEPS
    zero = np.rint(-low / step)
    rounded = np.clip(np.rint(centers / step), -zero, STEPS - zero) * step
    return float((counts * (centers - rounded) ** 2).sum())


def divergence(counts: np.ndarray, centers: np.ndarray, low: float, high: float) -> float:
    """Return KL(P || Q), in nats, of the values within [low, high].

    P counts those beyond an end in the last bin before it. Q leaves them out, and spreads what falls on one integer
    evenly over its bins that P does not leave empty. Where Q is empty and P is not, it is infinite. Migacz, 8-bit
    inference with TensorRT (2017).
    """
    (inside,) = np.nonzero((centers > low) & (centers < high))
    first, last = inside[0], inside[-1]
    within = counts[first : last + 1].astype(np.float64)
    p = within.copy()
    p[0] += counts[:first].sum()
    p[-1] += counts[last + 1 :].sum()
    step = (high - low) / (STEPS + 1)
    integers = ((centers[inside] - low) // step).astype(np.int64)
    seen = np.bincount(integers, p > 0)
    q = np.where(p > 0, (np.bincount(integers, within) / np.maximum(seen, 1))[integers], 0)
    if not within.any() or (q[p > 0] == 0).any():
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
