"""Data-aware SVD: a layer as two, so that its outputs on training images change least.

Zhang et al., Accelerating very deep convolutional networks, https://arxiv.org/abs/1505.06798; for linear layers Wang et
al., SVD-LLM, https://arxiv.org/abs/2403.07378. The weight is whitened by the inputs before it is truncated: of all
weights of that rank the result has the smallest mean squared error on those inputs.
"""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from netpress.params.schema import Strict

EXAMPLE = {"rank": 0.4, "min_channels": 16, "images": 64}
#: The option to change where no layer is factorized, and how.
KNOB = ("min_channels", "lower it to the channels of the layers that you mean, or lower rank")
#: Share of the inputs' mean square that is added to each, so that directions never seen keep some weight.
DAMPING = 1e-3


class Options(Strict):
    """Options of the data-aware SVD."""

    rank: float = Field(gt=0, le=1, description="share of the output channels kept as rank")
    min_channels: int = Field(ge=1, description="layers with fewer input or output channels stay as they are")
    images: int = Field(ge=0, le=1_000_000, description="training images whose inputs whiten the weight; 0: plain SVD")


def factorize(layer: nn.Conv2d | nn.Linear, options: Options, inputs: Iterator[Tensor]) -> nn.Sequential | None:
    """Return two layers that approximate `layer`, or None where it stays as it is.

    The first has the layer's kernel, stride and padding and `rank` outputs, the second is pointwise. Grouped and narrow
    layers stay, those padded otherwise than by so many zeros, and those in which the two together would not be smaller.
    """
    weight = layer.weight.detach().double().flatten(1)  # (O, I * kh * kw)
    outputs, columns = weight.shape
    rank = max(1, round(options.rank * min(outputs, columns)))
    if (
        (isinstance(layer, nn.Conv2d) and (layer.groups != 1 or layer.padding_mode != "zeros"))
        or isinstance(getattr(layer, "padding", 0), str)
        or min(layer.weight.shape[:2]) < options.min_channels
        or rank * (outputs + columns) >= outputs * columns
    ):
        return None
    root = _root(layer, inputs, options.images) if options.images else torch.eye(columns, device=weight.device).double()
    left, values, right = torch.linalg.svd(weight @ root, full_matrices=False)
    scale = values[:rank].sqrt()
    first = torch.linalg.solve_triangular(root, scale[:, None] * right[:rank], upper=False, left=False)  # (r, I kh kw)
    return _chain(layer, first, left[:, :rank] * scale)


def _root(layer: nn.Conv2d | nn.Linear, inputs: Iterator[Tensor], images: int) -> Tensor:
    """Return the lower Cholesky factor of the second moment of the layer's inputs: (I kh kw, I kh kw)."""
    moment: Tensor | None = None
    seen = 0
    for given in inputs:
        rows = _rows(layer, given[: images - seen].double())
        moment = rows.T @ rows if moment is None else moment + rows.T @ rows
        seen += len(given)
        if seen >= images:
            break
    if moment is None:
        raise ValueError("the layer was given no input")
    mean = moment.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.linalg.cholesky(moment / mean + DAMPING * torch.eye(len(moment), device=moment.device))


def _rows(layer: nn.Conv2d | nn.Linear, given: Tensor) -> Tensor:
    """Return what each output is computed from, a row for each place: (places, I kh kw)."""
    if isinstance(layer, nn.Linear):
        return given.flatten(0, -2)
    padding = (int(layer.padding[0]), int(layer.padding[1]))
    patches = F.unfold(given, layer.kernel_size, layer.dilation, padding, layer.stride)  # (B, I kh kw, places)
    return patches.transpose(1, 2).flatten(0, 1)


def _chain(layer: nn.Conv2d | nn.Linear, first: Tensor, second: Tensor) -> nn.Sequential:
    """Return the two layers with weights `first` (r, I kh kw) and `second` (O, r)."""
    bias, rank = layer.bias is not None, len(first)
    chain: nn.Sequential
    if isinstance(layer, nn.Linear):
        chain = nn.Sequential(
            nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=bias)
        )
    else:
        large = copy.deepcopy(layer)  # keeps kernel size, stride, padding and dilation
        large.out_channels, large.bias = rank, None
        large.weight = nn.Parameter(layer.weight.new_zeros(rank, *layer.weight.shape[1:]))
        chain = nn.Sequential(large, nn.Conv2d(rank, layer.out_channels, 1, bias=bias))
    chain.to(layer.weight.device)
    chain[0].weight = nn.Parameter(first.reshape(rank, *layer.weight.shape[1:]).float().contiguous())
    shape = (*second.shape, 1, 1) if isinstance(layer, nn.Conv2d) else second.shape
    chain[1].weight = nn.Parameter(second.reshape(shape).float().contiguous())
    if layer.bias is not None:
        chain[1].bias = nn.Parameter(layer.bias.detach().clone())
    return chain
