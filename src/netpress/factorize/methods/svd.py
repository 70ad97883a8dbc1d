"""Data-aware SVD: a layer as two, so that its outputs on training images change least.

Zhang et al., Accelerating very deep convolutional networks, https://arxiv.org/abs/1505.06798; for linear layers Wang et
al., SVD-LLM, https://arxiv.org/abs/2403.07378. The weight is whitened by the inputs before it is truncated: of all
weights of that rank the result has the smallest mean squared error on those inputs.
"""

import functools
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from netpress.core.unfolding import rows_of
from netpress.factorize.common.budget import Candidate
from netpress.factorize.common.parts import filled, kernel_like, pointwise
from netpress.factorize.common.ranks import Choose, discarded, rank_of
from netpress.params.schema import Strict

EXAMPLE = {"choose": "share", "rank": 0.4, "min_channels": 16, "images": 64}
#: The option to change where no layer is factorized, and how.
KNOB = ("min_channels", "lower it to the channels of the layers that you mean, or lower rank")
#: Share of the inputs' mean square that is added to each, so that directions never seen keep some weight.
DAMPING = 1e-3


class Options(Strict):
    """Options of the data-aware SVD."""

    choose: Choose
    rank: float = Field(gt=0, le=1, description="share of the full rank, or what choose says")
    min_channels: int = Field(ge=1, description="layers with fewer input or output channels stay as they are")
    images: int = Field(ge=0, le=1_000_000, description="training images whose inputs whiten the weight; 0: plain SVD")


def factorize(
    layer: nn.Conv2d | nn.Linear, options: Options, inputs: Iterator[Tensor], rank: int | None = None
) -> nn.Sequential | None:
    """Return two layers that approximate `layer`, or None where it stays as it is.

    The first has the layer's kernel, stride and padding and `rank` outputs, the second is pointwise. Grouped and narrow
    layers stay, those padded otherwise than by so many zeros, and, unless `rank` is given, those in which the two
    together would not be smaller.
    """
    if _stays(layer, options):
        return None
    cut = functools.cache(lambda: _cut(layer, options, inputs))
    outputs, columns = shape = _shape(layer)
    kept = rank or rank_of(options, min(shape), shape, lambda: cut()[2])
    if rank is None and kept * (outputs + columns) >= outputs * columns:
        return None
    root, left, values, right = cut()
    scale = values[:kept].sqrt()
    first = torch.linalg.solve_triangular(root, scale[:, None] * right[:kept], upper=False, left=False)  # (r, I kh kw)
    return filled(_chain(layer, kept), [first, left[:, :kept] * scale], layer.bias)


def candidates(layer: nn.Conv2d | nn.Linear, options: Options, inputs: Iterator[Tensor]) -> list[Candidate]:
    """Return every rank up to what the options say, and the share of the whitened weight's energy that is lost."""
    if _stays(layer, options):
        return []
    shape = _shape(layer)
    values = _cut(layer, options, inputs)[2]
    most = rank_of(options, min(shape), shape, lambda: values)
    errors = discarded(values).tolist()
    return [Candidate(rank, errors[rank - 1], _chain(layer, rank)) for rank in range(1, most + 1)]


def _stays(layer: nn.Conv2d | nn.Linear, options: Options) -> bool:
    return (
        (isinstance(layer, nn.Conv2d) and (layer.groups != 1 or layer.padding_mode != "zeros"))
        or isinstance(getattr(layer, "padding", 0), str)
        or min(layer.weight.shape[:2]) < options.min_channels
    )


def _shape(layer: nn.Conv2d | nn.Linear) -> tuple[int, int]:
    return len(layer.weight), layer.weight[0].numel()


def _cut(layer: nn.Conv2d | nn.Linear, options: Options, inputs: Iterator[Tensor]) -> tuple[Tensor, ...]:
    """Return the root that whitens the weight and the decomposition of the product: root, left, values, right."""
    weight = layer.weight.detach().double().flatten(1)  # (O, I * kh * kw)
    eye = torch.eye(weight.shape[1], device=weight.device, dtype=weight.dtype)
    root = _root(layer, inputs, options.images) if options.images else eye
    return (root, *torch.linalg.svd(weight @ root, full_matrices=False))


def _root(layer: nn.Conv2d | nn.Linear, inputs: Iterator[Tensor], images: int) -> Tensor:
    """Return the lower Cholesky factor of the second moment of the layer's inputs: (I kh kw, I kh kw)."""
    moment: Tensor | None = None
    seen = 0
    for given in inputs:
        rows = rows_of(layer, given[: images - seen].double())
        moment = rows.T @ rows if moment is None else moment + rows.T @ rows
        seen += len(given)
        if seen >= images:
            break
    if moment is None:
        raise ValueError("the layer was given no input")
    mean = moment.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.linalg.cholesky(moment / mean + DAMPING * torch.eye(len(moment), device=moment.device))


def _chain(layer: nn.Conv2d | nn.Linear, rank: int) -> nn.Sequential:
    """Return the two layers of that rank, without values."""
    inputs, outputs, bias = layer.weight.shape[1], len(layer.weight), layer.bias is not None
    if isinstance(layer, nn.Conv2d):
        return nn.Sequential(kernel_like(layer, inputs, rank), pointwise(rank, outputs, bias))
    first = nn.Linear(inputs, rank, bias=False, device="meta")
    return nn.Sequential(first, nn.Linear(rank, outputs, bias=bias, device="meta"))
