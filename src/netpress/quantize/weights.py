"""Weights in 8 or 4 bits, activations in fp32: smaller files without calibration images.

Each weight of a convolution or linear layer is stored as integers, symmetric about zero, with one scale for each
output channel or for each block of its inputs, and dequantized as the model runs. Blocks keep 4 bits closer to fp32;
see Dettmers and Zettlemoyer, https://arxiv.org/abs/2212.09720.
"""

from typing import Any, Literal

import numpy as np
from pydantic import Field

from netpress.base.schema import Strict

#: ONNX operators whose second input is a weight.
LAYERS = ("Conv", "Gemm", "MatMul")
#: Smaller tensors stay as they are: their scales and nodes would take what the fewer bits save.
MIN_VALUES = 256
#: Layers of fewer inputs to an output, such as depthwise convolutions, get 8 bits: they hold few of the weights, and
#: with 4 bits there the logits were up to 1.7 times as far off.
MIN_INPUTS = 16
#: Blocked scales and 4-bit integers came with it; the operators in use differ from opset 20's in allowed types alone.
OPSET = 21


class Options(Strict):
    """Options of weight-only quantization."""

    bits: Literal[8, 4] = Field(description="bits of a weight; 4-bit weights are stored two to a byte")
    block: int = Field(ge=0, le=65536, description="inputs that share a scale; 0: one scale for each output channel")


def calibration_count(options: Options) -> int:
    """No images are needed."""
    return 0


def quantize(onnx_bytes: bytes, calibration: np.ndarray, options: Options) -> bytes:
    """Store the weights of convolutions and linear layers in `bits`, followed by DequantizeLinear.

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
        block: inputs of a row that share a scale; the last block of a row may be shorter.

    Returns:
        Integers (outputs, inputs) int8, and scales (outputs, blocks) float32, above 0.
    """
    outputs, inputs = rows.shape
    blocks = -(-inputs // block)
    padded = np.pad(rows, ((0, 0), (0, blocks * block - inputs))).reshape(outputs, blocks, block)
    largest = np.abs(padded).max(axis=2)  # (outputs, blocks)
    scales = np.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1).astype(np.float32)
    integers = np.rint(padded / scales[:, :, None]).astype(np.int8)
    return integers.reshape(outputs, -1)[:, :inputs], scales


def _outputs_first(node: Any) -> bool:
    """Return whether the outputs are the first axis of the node's weight."""
    return node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)


def _dequantized(name: str, weight: np.ndarray, outputs_first: bool, options: Options) -> tuple[list[Any], list[Any]]:
    """Return the initializers, and the nodes that make the fp32 tensor `name` of them."""
    from onnx import TensorProto, helper, numpy_helper

    rows = weight.reshape(len(weight), -1) if outputs_first else weight.T
    bits = options.bits if rows.shape[1] >= MIN_INPUTS else 8
    block = min(options.block, rows.shape[1])
    integers, scales = round_to_grid(rows, bits, block or rows.shape[1])
    kind, raw = (TensorProto.INT8, integers.tobytes()) if bits == 8 else (TensorProto.INT4, packed(integers))
    attributes: dict[str, Any] = {"axis": 1, "block_size": block} if block else {"axis": 0}
    tensors = [
        helper.make_tensor(f"{name}_int{bits}", kind, rows.shape, raw, raw=True),
        numpy_helper.from_array(scales if block else scales[:, 0], f"{name}_scale"),
    ]
    inputs, made = [tensor.name for tensor in tensors], f"{name}_rows"
    nodes = [helper.make_node("DequantizeLinear", inputs, [made], name=f"{name}_dequantize", **attributes)]
    if outputs_first:
        tensors.append(numpy_helper.from_array(np.array(weight.shape, np.int64), f"{name}_shape"))
        nodes.append(helper.make_node("Reshape", [made, f"{name}_shape"], [name], name=f"{name}_reshape"))
    else:
        nodes.append(helper.make_node("Transpose", [made], [name], name=f"{name}_transpose", perm=[1, 0]))
    return tensors, nodes


def packed(integers: np.ndarray) -> bytes:
    """Return 4-bit integers two to a byte, the first in the lower half, as ONNX stores INT4."""
    flat = integers.ravel().astype(np.uint8) & 15
    pairs = np.pad(flat, (0, flat.size % 2)).reshape(-1, 2)
    return (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes()
