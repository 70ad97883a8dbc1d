"""What the layers of an ONNX model are given when it sees images, for methods that round each layer for its inputs."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netpress.base.errors import ParamsError
from netpress.quantize.common.stored import Layer, Rounded

#: Images that run through a network at once, of which many tensors may be kept.
BATCH = 16
#: Values of a layer's inputs that are unfolded at once: 128 MB.
UNFOLDED = 2**24


def inputs_of(model: Any, layer: Layer, images: np.ndarray) -> Iterator[Tensor]:
    """Yield what a layer of an ONNX model is given when it sees `images`, batch by batch."""
    name = layer.node.input[0]
    if name == model.graph.input[0].name:
        yield from torch.from_numpy(images).split(BATCH)
    else:
        yield from (torch.from_numpy(seen[name]) for seen in outputs_of(model.SerializeToString(), [name], images))


def outputs_of(data: bytes, names: Collection[str], images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Yield, batch by batch, what tensors of a file hold as it sees `images`, run as it is written and no further."""
    import onnx
    import onnxruntime

    model = onnx.load_from_string(data)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    settings, only = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    only.only_execute_path_to_fetches = True
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    (entry,) = (given.name for given in session.get_inputs())
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        yield dict(zip(names, session.run(list(names), {entry: batch}, only), strict=True))


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
