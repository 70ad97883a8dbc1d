"""How an ONNX file holds weights in few bits, and the nodes that make fp32 weights of them.

The weights of a convolution or linear layer are symmetric about zero, with one scale for each output channel or for
each block of its inputs, and made by Cast and Mul; or they are values of a codebook, looked up by Cast and Gather.
onnxruntime computes both once, as it loads the file, so that the model runs as fast as its parent. The operator
DequantizeLinear gives the same values as Cast and Mul, but onnxruntime leaves it in place and computes it for every
image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

#: ONNX operators whose second input is a weight.
LAYERS = ("Conv", "Gemm", "MatMul")
#: Smaller tensors stay as they are: their scales and nodes would take what the fewer bits save.
MIN_VALUES = 256
#: Layers of fewer inputs to an output, such as depthwise convolutions, get 8 bits: they hold few of the weights.
MIN_INPUTS = 16
#: 4-bit integers came with it; the operators in use differ from opset 20's in allowed types alone.
OPSET = 21


class Rounded(NamedTuple):
    """A weight in few bits: integers (outputs, blocks, block) int8, scales (outputs, blocks, 1) float32, above 0."""

    integers: np.ndarray
    scales: np.ndarray
    bits: int

    def rows(self, inputs: int) -> np.ndarray:
        """Return the fp32 weight that is made of it: (outputs, inputs); zeros may fill the last block of a row."""
        filled: np.ndarray = self.integers.astype(np.float32) * self.scales
        return filled.reshape(len(filled), -1)[:, :inputs]


class Clustered(NamedTuple):
    """A weight of few values: their places (outputs, inputs) uint8 in the codebook (2**bits) float32."""

    indices: np.ndarray
    codebook: np.ndarray

    @property
    def bits(self) -> int:
        """The bits of an index."""
        return len(self.codebook).bit_length() - 1

    def rows(self, inputs: int) -> np.ndarray:
        """Return the fp32 weight that is made of it: (outputs, inputs)."""
        made: np.ndarray = self.codebook[self.indices]
        return made


@dataclass(frozen=True)
class Layer:
    """A layer of an ONNX graph whose weight is worth fewer bits: its node, and the weight as the file holds it."""

    node: Any
    weight: np.ndarray

    @property
    def name(self) -> str:
        """The weight's name in the graph."""
        return str(self.node.input[1])

    @property
    def outputs_first(self) -> bool:
        """Whether the outputs are the first axis of the weight."""
        return self.node.op_type == "Conv" or any(a.name == "transB" and a.i for a in self.node.attribute)

    @property
    def rows(self) -> np.ndarray:
        """The weight as (outputs, inputs) float32."""
        return self.weight.reshape(len(self.weight), -1) if self.outputs_first else self.weight.T

    def shaped(self, rows: np.ndarray) -> np.ndarray:
        """Return `rows` (outputs, inputs) in the shape of the weight."""
        return np.ascontiguousarray(rows.reshape(self.weight.shape) if self.outputs_first else rows.T)

    @property
    def narrow(self) -> bool:
        """Whether so few inputs make an output that the weight gets 8 bits whatever is asked for."""
        return self.rows.shape[1] < MIN_INPUTS

    def bits(self, wanted: int) -> int:
        """Return the bits of a weight where `wanted` are asked for."""
        return 8 if self.narrow else wanted

    def block(self, wanted: int) -> int:
        """Return how many inputs share a scale where `wanted` are asked for; 0: all of an output."""
        inputs: int = self.rows.shape[1]
        return min(wanted, inputs) or inputs

    def nearest(self, bits: int, block: int) -> Rounded:
        """Round the weight to the nearest multiples of its scales."""
        return round_to_grid(self.rows, self.bits(bits), self.block(block))


def layers_of(model: Any) -> list[Layer]:
    """Return the layers of an ONNX model whose weights are float32 tensors of at least `MIN_VALUES`, in their order."""
    from onnx import TensorProto, numpy_helper

    users = {node.input[1]: node for node in model.graph.node if node.op_type in LAYERS}
    tensors = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    weights = {name: numpy_helper.to_array(tensors[name]) for name in users if name in tensors}
    return [Layer(users[name], weight) for name, weight in weights.items() if weight.size >= MIN_VALUES]


def scales_of(blocks: np.ndarray, bits: int) -> np.ndarray:
    """Return the scale of each block, which its largest magnitude sets: (..., block) -> (..., 1) float32, above 0.

    Clipping the largest at the least squared error was tried: it shrinks the weights of every layer, and in 4 bits the
    logits were further off.
    """
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    return np.where(largest > 0, largest / largest_integer(bits), 1).astype(np.float32)


def largest_integer(bits: int) -> int:
    """Return the largest integer of a weight; the smallest is its negative."""
    return int(2 ** (bits - 1) - 1)


def round_to_grid(rows: np.ndarray, bits: int, block: int) -> Rounded:
    """Round each block of each row to integer multiples of its scale.

    Args:
        rows: (outputs, inputs) float32.
        bits: the integers lie in [1 - 2**(bits - 1), 2**(bits - 1) - 1].
        block: inputs of a row that share a scale; zeros fill the last block of a row.
    """
    padded = blocked(rows, block)
    scales = scales_of(padded, bits)
    return Rounded(np.rint(padded / scales).astype(np.int8), scales, bits)


def blocked(rows: np.ndarray, block: int) -> np.ndarray:
    """Return (outputs, inputs) as (outputs, blocks, block); zeros fill the last block of a row."""
    outputs, inputs = rows.shape
    blocks = -(-inputs // block)
    return np.pad(rows, ((0, 0), (0, blocks * block - inputs))).reshape(outputs, blocks, block)


def store(model: Any, stored: Mapping[str, Rounded | Clustered]) -> bytes:
    """Replace weights of an ONNX model, by name, by the stored ones, and return the file."""
    graph = model.graph
    model.opset_import[0].version = max(OPSET, model.opset_import[0].version)
    layers = {layer.name: layer for layer in layers_of(model)}
    before = []
    for tensor in [tensor for tensor in graph.initializer if tensor.name in stored]:
        layer, made = layers[tensor.name], stored[tensor.name]
        tensors, nodes = _looked_up(layer, made) if isinstance(made, Clustered) else _dequantized(layer, made)
        graph.initializer.remove(tensor)
        graph.initializer.extend(tensors)
        before += nodes
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString(deterministic=True))


def _dequantized(layer: Layer, rounded: Rounded) -> tuple[list[Any], list[Any]]:
    """Return the initializers, and the nodes that make the fp32 weight of them."""
    from onnx import TensorProto, helper

    outputs, inputs = layer.rows.shape
    integers, scales, bits = rounded
    kind, raw = (TensorProto.INT8, integers.tobytes()) if bits == 8 else (TensorProto.INT4, packed(integers))
    stored = helper.make_tensor(f"{layer.name}_int{bits}", kind, integers.shape, raw, raw=True)
    made = _Chain(layer.name, [stored])
    made.add("Cast", to=TensorProto.FLOAT)
    made.add("Mul", scale=scales)
    filled = integers[0].size > inputs
    if filled or not layer.outputs_first:
        made.add("Reshape", rows=np.array([outputs, -1], np.int64))
    if filled:
        made.add("Slice", start=np.array([0]), end=np.array([inputs]), axis=np.array([1]))
    if layer.outputs_first:
        made.add("Reshape", shape=np.array(layer.weight.shape, np.int64))
    else:
        made.add("Transpose", perm=[1, 0])
    made.nodes[-1].output[0] = layer.name
    return made.tensors, made.nodes


def _looked_up(layer: Layer, clustered: Clustered) -> tuple[list[Any], list[Any]]:
    """Return the initializers, and the nodes that look the fp32 weight up in the codebook."""
    from onnx import TensorProto, helper, numpy_helper

    bits, indices = clustered.bits, layer.shaped(clustered.indices)
    kind, raw = (TensorProto.UINT8, indices.tobytes()) if bits == 8 else (TensorProto.UINT4, packed(indices))
    book, places = f"{layer.name}_codebook", f"{layer.name}_uint{bits}"
    stored = helper.make_tensor(places, kind, indices.shape, raw, raw=True)
    cast = helper.make_node("Cast", [places], [f"{places}_cast"], name=f"{places}_cast", to=TensorProto.INT32)
    gather = helper.make_node("Gather", [book, f"{places}_cast"], [layer.name], name=f"{layer.name}_gather")
    return [stored, numpy_helper.from_array(clustered.codebook, book)], [cast, gather]


class _Chain:
    """Nodes that each take what the one before has made; the first takes the last of `tensors`."""

    def __init__(self, name: str, tensors: list[Any]) -> None:
        self.name, self.tensors, self.nodes = name, tensors, list[Any]()
        self._last: str = tensors[-1].name

    def add(self, operator: str, **further: Any) -> None:
        """Append a node; arrays in `further` become its further inputs, the rest its attributes."""
        from onnx import helper, numpy_helper

        arrays = {key: value for key, value in further.items() if isinstance(value, np.ndarray)}
        attributes = {key: value for key, value in further.items() if key not in arrays}
        self.tensors += [numpy_helper.from_array(array, f"{self.name}_{key}") for key, array in arrays.items()]
        inputs = [self._last, *(f"{self.name}_{key}" for key in arrays)]
        self._last = f"{self.name}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [self._last], name=self._last, **attributes))


def packed(integers: np.ndarray) -> bytes:
    """Return 4-bit integers two to a byte, the first in the lower half, as ONNX stores INT4 and UINT4."""
    flat = integers.ravel().astype(np.uint8) & 15
    pairs = np.pad(flat, (0, flat.size % 2)).reshape(-1, 2)
    return (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes()
