"""Weights in 8 or 4 bits, activations in fp32: smaller files without calibration images.

Each weight of a convolution or linear layer is stored as integers, symmetric about zero, with one scale for each
output channel or for each block of its inputs. Blocks keep 4 bits closer to fp32; see Dettmers and Zettlemoyer,
https://arxiv.org/abs/2212.09720.

The fp32 weights are made by Cast and Mul, which onnxruntime computes once, as it loads the file, so that the model runs
as fast as its parent. The operator DequantizeLinear gives the same values, but onnxruntime leaves it in place and
computes it for every image, which took 6 to 12 times as long as the parent.
"""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from netpress.params.schema import Strict

#: ONNX operators whose second input is a weight.
LAYERS = ("Conv", "Gemm", "MatMul")
#: Smaller tensors stay as they are: their scales and nodes would take what the fewer bits save.
MIN_VALUES = 256
#: Layers of fewer inputs to an output, such as depthwise convolutions, get 8 bits: they hold few of the weights, and
#: with 4 bits there the logits were up to 1.7 times as far off.
MIN_INPUTS = 16
#: 4-bit integers came with it; the operators in use differ from opset 20's in allowed types alone.
OPSET = 21


class Options(Strict):
    """Options of weight-only quantization."""

    bits: Literal[8, 4] = Field(description="bits of a weight; 4-bit weights are stored two to a byte")
    block: int = Field(ge=0, le=65536, description="inputs that share a scale; 0: one scale for each output channel")


def calibration_count(options: Options) -> int:
    """No images are needed."""
    return 0


def quantize(onnx_bytes: bytes, calibration: np.ndarray, options: Options) -> bytes:
    """Store the weights of convolutions and linear layers in `bits`, followed by what makes fp32 weights of them.

    Biases and tensors of fewer than `MIN_VALUES` values stay fp32. The exporter has already folded normalizations.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load_from_string(onnx_bytes)
    graph = model.graph
    model.opset_import[0].version = max(OPSET, model.opset_import[0].version)
    users = {node.input[1]: node for node in graph.node if node.op_type in LAYERS}
    before = []
    for tensor in list(graph.initializer):
        weight = numpy_helper.to_array(tensor)
        if tensor.name in users and tensor.data_type == TensorProto.FLOAT and weight.size >= MIN_VALUES:
            tensors, nodes = _dequantized(tensor.name, weight, _outputs_first(users[tensor.name]), options)
            graph.initializer.remove(tensor)
            graph.initializer.extend(tensors)
            before += nodes
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString(deterministic=True))


def round_to_grid(rows: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Round each block of each row to integer multiples of its scale, which its largest magnitude sets.

    Clipping the largest at the least squared error was tried: it shrinks the weights of every layer, and in 4 bits the
    logits were up to three times as far off.

    Args:
        rows: (outputs, inputs) float32.
        bits: the integers lie in [1 - 2**(bits - 1), 2**(bits - 1) - 1].
        block: inputs of a row that share a scale; zeros fill the last block of a row.

    Returns:
        Integers (outputs, blocks, block) int8, and scales (outputs, blocks, 1) float32, above 0.
    """
    outputs, inputs = rows.shape
    blocks = -(-inputs // block)
    padded = np.pad(rows, ((0, 0), (0, blocks * block - inputs))).reshape(outputs, blocks, block)
    largest = np.abs(padded).max(axis=2, keepdims=True)
    scales = np.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1).astype(np.float32)
    return np.rint(padded / scales).astype(np.int8), scales


def _outputs_first(node: Any) -> bool:
    """Return whether the outputs are the first axis of the node's weight."""
    return node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)


def _dequantized(name: str, weight: np.ndarray, outputs_first: bool, options: Options) -> tuple[list[Any], list[Any]]:
    """Return the initializers, and the nodes that make the fp32 tensor `name` of them."""
    from onnx import TensorProto, helper

    rows = weight.reshape(len(weight), -1) if outputs_first else weight.T
    outputs, inputs = rows.shape
    bits = options.bits if inputs >= MIN_INPUTS else 8
    integers, scales = round_to_grid(rows, bits, min(options.block, inputs) or inputs)
    kind, raw = (TensorProto.INT8, integers.tobytes()) if bits == 8 else (TensorProto.INT4, packed(integers))
    stored = helper.make_tensor(f"{name}_int{bits}", kind, integers.shape, raw, raw=True)
    made = _Chain(name, [stored])
    made.add("Cast", to=TensorProto.FLOAT)
    made.add("Mul", scale=scales)
    filled = integers[0].size > inputs
    if filled or not outputs_first:
        made.add("Reshape", rows=np.array([outputs, -1], np.int64))
    if filled:
        made.add("Slice", start=np.array([0]), end=np.array([inputs]), axis=np.array([1]))
    if outputs_first:
        made.add("Reshape", shape=np.array(weight.shape, np.int64))
    else:
        made.add("Transpose", perm=[1, 0])
    made.nodes[-1].output[0] = name
    return made.tensors, made.nodes


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
    """Return 4-bit integers two to a byte, the first in the lower half, as ONNX stores INT4."""
    flat = integers.ravel().astype(np.uint8) & 15
    pairs = np.pad(flat, (0, flat.size % 2)).reshape(-1, 2)
    return (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes()
