"""What the layers of an ONNX model are given when it sees images, for methods that round each layer for its inputs."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netpress.base.errors import ParamsError
from netpress.quantize.common.stored import Layer, Rounded

#: Images that run through the network at once.
BATCH = 32
#: Values of a layer's inputs that are unfolded at once: 128 MB.
UNFOLDED = 2**24


def inputs_of(model: Any, layer: Layer, images: np.ndarray) -> Iterator[Tensor]:
    """Yield what a layer of an ONNX model is given when it sees `images`, batch by batch."""
    return tensors_of(model, layer.node.input[0], images)


def tensors_of(model: Any, name: str, images: np.ndarray) -> Iterator[Tensor]:
    """Yield a tensor of an ONNX model, by its name, when it sees `images`, batch by batch."""
    import onnxruntime

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


def moment(layer: Layer, pairs: Iterable[tuple[Tensor, Tensor]], method: str) -> Tensor:
    """Return X^T Y of a layer's inputs, summed over images and places: (groups, inputs, inputs) float64.

    Args:
        layer: that takes them.
        pairs: X and Y, batch by batch, as the layer takes them; X^T X of the same twice.
        method: that asks, for messages.

    Raises:
        ParamsError: a convolution is not over two dimensions, or leaves its padding to the runtime.
    """
    width = layer.rows.shape[1]
    unfold = _unfolding(layer, method)
    total = torch.zeros(1, width, width, dtype=torch.float64)
    for ours, theirs in pairs:
        share = max(1, UNFOLDED // (width * _places(ours[:1], unfold)))
        for x, y in zip(ours.split(share), theirs.split(share), strict=True):
            total = total + unfold(x).double().transpose(1, 2) @ unfold(y).double()
    return total


def _places(image: Tensor, unfold: Callable[[Tensor], Tensor]) -> int:
    """Count the rows that one image gives, over all groups."""
    return int(unfold(image).shape[:2].numel())


def _unfolding(layer: Layer, method: str) -> Callable[[Tensor], Tensor]:
    """Return a layer's inputs -> what each of its outputs is computed from: (groups, places, inputs)."""
    import onnx

    if layer.node.op_type != "Conv":
        return lambda given: given.reshape(1, -1, layer.rows.shape[1])
    stated = {a.name: onnx.helper.get_attribute_value(a) for a in layer.node.attribute}
    if layer.weight.ndim != 4 or stated.get("auto_pad", b"NOTSET") != b"NOTSET":
        text = f"{method} cannot round {layer.name}: it takes convolutions over height and width, of stated padding"
        raise ParamsError([("method", f"method = {method}: {text}; use weights")])
    top, left, bottom, right = stated.get("pads", [0] * 4)
    groups, kernel = stated.get("group", 1), tuple(layer.weight.shape[2:])
    dilation, stride = tuple(stated.get("dilations", [1, 1])), tuple(stated.get("strides", [1, 1]))

    def unfold(images: Tensor) -> Tensor:
        padded = F.pad(images, (left, right, top, bottom))
        patches = F.unfold(padded, kernel, dilation, 0, stride)  # (B, C kh kw, places)
        grouped = patches.reshape(len(images), groups, -1, patches.shape[2])  # (B, G, I, places)
        return grouped.permute(1, 0, 3, 2).flatten(1, 2)

    return unfold


def replace(model: Any, layer: Layer, rounded: Rounded) -> None:
    """Put the rounded weight, in fp32, in the layer's place in the graph."""
    from onnx import numpy_helper

    (tensor,) = (t for t in model.graph.initializer if t.name == layer.name)
    tensor.CopyFrom(numpy_helper.from_array(layer.shaped(rounded.rows(layer.rows.shape[1])), layer.name))
