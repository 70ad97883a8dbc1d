"""GPTQ: weights in 8 or 4 bits, rounded so that each layer's outputs on training images change least.

Frantar et al., https://arxiv.org/abs/2210.17323. A layer's inputs are rounded one after the other. What the rounding
of one adds to the outputs is taken off again by the weights of the inputs that are not rounded yet, as far as they are
correlated with it. With uncorrelated inputs that is the rounding of `weights`, whose stored form this is. The inputs
are those that the layer gets once the layers before it are quantized.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from netpress.base.errors import ParamsError
from netpress.params.schema import Strict
from netpress.quantize.methods._stored import Layer, Rounded, blocked, largest_integer, layers_of, scales_of, store
from netpress.quantize.run import Trained

EXAMPLE = {"bits": 4, "block": 32, "calibration_images": 64, "damping": 0.01}
#: Images that run through the network at once.
BATCH = 32
#: Values of a layer's inputs that are unfolded at once: 128 MB.
UNFOLDED = 2**24


class Options(Strict):
    """Options of GPTQ."""

    bits: Literal[8, 4] = Field(description="bits of a weight; 4-bit weights are stored two to a byte")
    block: int = Field(ge=0, le=65536, description="inputs that share a scale; 0: one scale for each output channel")
    calibration_images: int = Field(ge=1, le=100_000, description="training images whose inputs to a layer are seen")
    damping: float = Field(ge=1e-6, le=1, description="share of the inputs' mean square that is added to each")


def quantize(model: Trained, options: Options) -> bytes:
    """Store the weights of convolutions and linear layers in `bits`, each layer rounded for its own inputs.

    Layers of few inputs to an output, such as depthwise convolutions, are rounded to the nearest.

    Raises:
        ParamsError: a convolution is not over two dimensions, or leaves its padding to the runtime.
    """
    import onnx

    images = model.images(options.calibration_images)
    working = onnx.load_from_string(model.onnx)  # its weights become the rounded ones, in fp32
    rounded = {}
    for layer in layers_of(working):
        if layer.narrow:
            made = layer.nearest(options.bits, options.block)
        else:
            moment = second_moment(layer, inputs_of(working, layer, images))
            made = round_for(layer.rows, moment, options.bits, layer.block(options.block), options.damping)
        rounded[layer.name] = made
        _replace(working, layer, made)
    return store(onnx.load_from_string(model.onnx), rounded)


def round_for(rows: np.ndarray, moment: Tensor, bits: int, block: int, damping: float) -> Rounded:
    """Round (outputs, inputs) float32, column after column, each block to its own scale when its turn comes.

    Args:
        rows: the weight; the rows of one group of outputs follow on those of another.
        moment: of the inputs, X X^T: (groups, inputs, inputs) float64.
        bits: of a weight.
        block: inputs of a row that share a scale.
        damping: share of the mean of the diagonal that is added to it.
    """
    groups, inputs = len(moment), rows.shape[1]
    factor = inverse_factor(moment, damping)  # (G, I, I)
    left = torch.from_numpy(rows.copy()).reshape(groups, -1, inputs)  # (G, O / G, I): what is still to be rounded
    integers, scales = np.zeros_like(blocked(rows, block)), np.ones((len(rows), -(-inputs // block), 1), np.float32)
    most = largest_integer(bits)
    for start in range(0, inputs, block):
        end, part = min(start + block, inputs), start // block
        scales[:, part] = scales_of(left[:, :, start:end].reshape(len(rows), -1).numpy(), bits)
        scale = torch.from_numpy(scales[:, part, 0]).reshape(groups, -1)
        errors = torch.zeros(groups, left.shape[1], end - start)
        for column in range(start, end):
            nearest = (left[:, :, column] / scale).round().clamp(-most, most)
            integers[:, part, column - start] = nearest.reshape(-1).numpy()
            error = (left[:, :, column] - nearest * scale) / factor[:, column, column, None]
            errors[:, :, column - start] = error
            left[:, :, column:end] -= error[:, :, None] * factor[:, None, column, column:end]
        left[:, :, end:] -= errors @ factor[:, start:end, end:]
    return Rounded(integers.astype(np.int8), scales, bits)


def inverse_factor(moment: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of the inverse of the damped moment: (groups, inputs, inputs) float32.

    The moment is scaled first, which scales errors and corrections alike.
    """
    diagonal = moment.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1).clamp(min=torch.finfo(torch.float32).tiny)[:, None, None]
    damped = moment / mean + damping * torch.eye(moment.shape[1], dtype=moment.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()


def inputs_of(model: Any, layer: Layer, images: np.ndarray) -> Iterator[Tensor]:
    """Yield what a layer of an ONNX model is given when it sees `images`, batch by batch."""
    import onnxruntime

    name = layer.node.input[0]
    first = model.graph.input[0].name
    if name == first:
        for start in range(0, len(images), BATCH):
            yield torch.from_numpy(images[start : start + BATCH])
        return
    before = _up_to(model, name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(before.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for start in range(0, len(images), BATCH):
        yield torch.from_numpy(session.run([name], {first: images[start : start + BATCH]})[0])


def _up_to(model: Any, name: str) -> Any:
    """Return the part of an ONNX model that makes the tensor `name`, its only output."""
    from onnx import ModelProto, TensorProto, helper

    part = ModelProto()
    part.CopyFrom(model)
    needed, nodes = {name}, []
    for node in reversed(model.graph.node):  # those that make a tensor stand before those that take it
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    for field, kept in (("node", nodes[::-1]), ("initializer", tensors)):
        part.graph.ClearField(field)
        getattr(part.graph, field).extend(kept)
    part.graph.ClearField("output")
    part.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return part


def second_moment(layer: Layer, inputs: Iterator[Tensor]) -> Tensor:
    """Return X X^T of a layer's inputs, for each group of its outputs: (groups, inputs, inputs) float64."""
    width = layer.rows.shape[1]
    unfold = _unfolding(layer) if layer.node.op_type == "Conv" else lambda given: given.reshape(1, -1, width)
    moment = torch.zeros(1, width, width, dtype=torch.float64)
    for batch in inputs:
        share = max(1, UNFOLDED // (width * _places(layer, batch[:1], unfold)))
        for part in batch.split(share):
            seen = unfold(part).double()  # (G, places, I)
            moment = moment + seen.transpose(1, 2) @ seen
    return moment


def _places(layer: Layer, image: Tensor, unfold: Any) -> int:
    """Count the rows that one image gives, over all groups."""
    return int(unfold(image).shape[:2].numel())


def _unfolding(layer: Layer) -> Any:
    """Return images (B, C, H, W) -> what each output of a convolution is computed from: (groups, places, inputs)."""
    import onnx

    stated = {a.name: onnx.helper.get_attribute_value(a) for a in layer.node.attribute}
    if layer.weight.ndim != 4 or stated.get("auto_pad", b"NOTSET") != b"NOTSET":
        text = f"gptq cannot round {layer.name}: it takes convolutions over height and width, of stated padding"
        raise ParamsError([("method", f"method = gptq: {text}; use weights")])
    top, left, bottom, right = stated.get("pads", [0] * 4)
    groups, kernel = stated.get("group", 1), tuple(layer.weight.shape[2:])
    dilation, stride = tuple(stated.get("dilations", [1, 1])), tuple(stated.get("strides", [1, 1]))

    def unfold(images: Tensor) -> Tensor:
        padded = F.pad(images, (left, right, top, bottom))
        patches = F.unfold(padded, kernel, dilation, 0, stride)  # (B, C kh kw, places)
        grouped = patches.reshape(len(images), groups, -1, patches.shape[2])  # (B, G, I, places)
        return grouped.permute(1, 0, 3, 2).flatten(1, 2)

    return unfold


def _replace(model: Any, layer: Layer, rounded: Rounded) -> None:
    """Put the rounded weight, in fp32, in the layer's place in the graph."""
    from onnx import numpy_helper

    (tensor,) = (t for t in model.graph.initializer if t.name == layer.name)
    tensor.CopyFrom(numpy_helper.from_array(layer.shaped(rounded.rows(layer.rows.shape[1])), layer.name))
