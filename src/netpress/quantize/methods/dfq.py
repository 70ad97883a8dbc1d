"""Int8 after equalization of weights across layers, and with corrected biases; otherwise as `int8_static`.

Nagel et al., Data-free quantization through weight equalization and bias correction, https://arxiv.org/abs/1906.04721.

Equalization. Channel i lies between two convolutions with nothing but a ReLU: relu(s x) = s relu(x) for s > 0, so that
W1[i] / s_i, b1[i] / s_i and W2[:, i] s_i give the same answers. With s_i = sqrt(r1_i r2_i) / r2_i, r1_i = max |W1[i]|
and r2_i = max |W2[:, i]|, both ranges become sqrt(r1_i r2_i). Each output channel of a weight has a scale of its own
here, so that the first weight gains nothing; what changes is the tensor between, whose channels share a scale, and the
second weight. ReLU6 stays, and what is next to it is left alone.

Correction. Rounding moves the mean of a layer's outputs. By how much, for each channel on the calibration images, is
subtracted from the bias, layer by layer, those before it corrected already. The paper also computes it from the
normalizations, without images; they are folded here.
"""

from collections import Counter
from typing import Any

import numpy as np
from pydantic import Field

from netpress.base.words import some
from netpress.quantize.common.inputs import outputs_of
from netpress.quantize.common.int8 import Calibration, as_int8, layers_of, prepared, ranges_of
from netpress.quantize.run import Trained

EXAMPLE = {
    "calibration_images": 64,
    "calibration": "minmax",
    "reduce_range": True,
    "equalize": True,
    "correct_bias": True,
}
#: Sweeps over the pairs at most, and the change of a scale up to which they go on: pairs share layers.
SWEEPS, SETTLED = 100, 1e-5


class Options(Calibration):
    """Options of int8 with equalization and correction."""

    equalize: bool = Field(description="equal ranges of the weights on both sides of a channel")
    correct_bias: bool = Field(description="biases that undo what rounding adds to the mean of a layer's outputs")


def quantize(model: Trained, options: Options) -> bytes:
    """Equalize, quantize to int8 and correct the biases; without either it is `int8_static`.

    Raises:
        ParamsError: onnxruntime cannot quantize the network.
    """
    images = model.images(options.calibration_images)
    data = prepared(model.onnx)
    if options.equalize:
        data = equalized(data)
    if options.correct_bias:
        data = _with_biases(data)
    int8 = as_int8(data, ranges_of(data, images, options.calibration), options.reduce_range, "dfq")
    return corrected(data, int8, images) if options.correct_bias else int8


def equalized(data: bytes) -> bytes:
    """Return a file of the same answers in which the weights of each pair of `pairs_of` have equal ranges.

    A channel of which either side is zero stays as it is.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(data)
    tensors = {t.name: t for t in model.graph.initializer}
    pairs = pairs_of(model)
    if not pairs:
        print("no pair of layers whose weights could be equalized", flush=True)
    values = {n: numpy_helper.to_array(tensors[n]) for pair in pairs for node in pair for n in node.input[1:]}
    for _ in range(SWEEPS):
        change = 0.0
        for first, second in pairs:
            scales = scales_between(values[first.input[1]], values[second.input[1]])
            for name in first.input[1:]:  # the weight, and the bias if there is one
                value = values[name]
                values[name] = (value.reshape(len(scales), -1) / scales[:, None]).reshape(value.shape)
            weight = values[second.input[1]]
            grouped = by_group(weight, len(scales))
            values[second.input[1]] = (grouped * scales.reshape(len(grouped), 1, -1, 1)).reshape(weight.shape)
            change = max(change, float(np.abs(np.log(scales)).max()))
        if change < SETTLED:
            break
    for name, value in values.items():
        tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
    return bytes(model.SerializeToString(deterministic=True))


def pairs_of(model: Any) -> list[tuple[Any, Any]]:
    """Return the convolutions of an ONNX model that only a ReLU lies between, or nothing, and that share no tensor."""
    graph = model.graph
    tensors = {tensor.name for tensor in graph.initializer}
    readers = Counter([name for node in graph.node for name in node.input] + [output.name for output in graph.output])
    makers = {name: node for node in graph.node for name in node.output}

    def owned(node: Any) -> bool:
        return node.op_type == "Conv" and all(name in tensors and readers[name] == 1 for name in node.input[1:])

    def before(node: Any) -> Any:
        return makers.get(node.input[0]) if readers[node.input[0]] == 1 else None

    found = []
    for second in filter(owned, graph.node):
        first = before(second)
        if first is not None and first.op_type == "Relu":
            first = before(first)
        if first is not None and owned(first):
            found.append((first, second))
    return found


def scales_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return s (C) for a weight that makes C channels, (C, ...), and one that takes them, (O, C / groups, ...)."""
    made = np.abs(first.reshape(len(first), -1)).max(1)
    taken = np.abs(by_group(second, len(first))).max((1, 3)).reshape(-1)
    both = (made > 0) & (taken > 0)
    return np.where(both, np.sqrt(made / np.where(both, taken, 1)), 1).astype(np.float32)


def by_group(weight: np.ndarray, channels: int) -> np.ndarray:
    """Return the weight (O, channels / groups, ...) as (groups, O / groups, channels / groups, places)."""
    groups = channels // weight.shape[1]
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)


def corrected(data: bytes, int8: bytes, images: np.ndarray) -> bytes:
    """Return the int8 file with biases from which the mean errors of the layers' outputs on `images` are subtracted.

    Args:
        data: the fp32 file.
        int8: the file that was made of it; its biases are integers, which become the nearest.
        images: (n, C, H, W).
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(int8)
    nodes, tensors = {node.name: node for node in model.graph.node}, {t.name: t for t in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    layers, left = layers_of(data), list[str]()
    for layer, wanted in zip(layers, means_of(data, [layer.output[0] for layer in layers], images), strict=True):
        node = nodes[layer.name]
        stored = makers.get(node.input[2]) if len(node.input) > 2 else None
        if stored is None or stored.op_type != "DequantizeLinear":
            left.append(layer.name)  # no bias, such as a MatMul's, or left in fp32 with its layer
            continue
        integers, scale = (numpy_helper.to_array(tensors[name]) for name in stored.input[:2])
        (found,) = means_of(model.SerializeToString(), [node.output[0]], images)
        moved = (integers - np.rint((found - wanted) / scale)).astype(np.int32)
        tensors[stored.input[0]].CopyFrom(numpy_helper.from_array(moved, stored.input[0]))
    if left:
        print(f"{len(left)} of {len(layers)} layers have no int8 bias to correct: {some(left)}", flush=True)
    return bytes(model.SerializeToString(deterministic=True))


def means_of(data: bytes, names: list[str], images: np.ndarray) -> list[np.ndarray]:
    """Return the mean of each channel (C) of tensors (n, C, ...) of a file over `images` and places."""
    totals: list[Any] = [0.0] * len(names)
    for batch in outputs_of(data, names, images):
        for index, values in enumerate(batch[name] for name in names):
            by_channel = values.reshape(*values.shape[:2], -1)
            totals[index] += by_channel.mean(2, dtype=np.float64).sum(0)
    return [total / len(images) for total in totals]


def _with_biases(data: bytes) -> bytes:
    """Return a file whose convolutions and linear layers have biases, zeros where there were none."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(data)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 2 and node.input[1] in tensors:
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            outputs = tensors[node.input[1]].dims[0 if node.op_type == "Conv" or turned else 1]
            name = f"{node.name}_bias"
            model.graph.initializer.append(numpy_helper.from_array(np.zeros(outputs, np.float32), name))
            node.input.append(name)
    return bytes(model.SerializeToString(deterministic=True))
