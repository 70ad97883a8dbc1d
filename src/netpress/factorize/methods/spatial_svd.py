"""Spatial SVD: a k x k convolution as k x 1 and 1 x k. Jaderberg et al., https://arxiv.org/abs/1405.3866."""

import functools
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from netpress.factorize.common.budget import Candidate
from netpress.factorize.common.parts import filled
from netpress.factorize.common.ranks import Choose, discarded, rank_of
from netpress.params.schema import Strict

EXAMPLE = {"choose": "share", "rank": 0.4, "min_channels": 16}
#: The option to change where no convolution is factorized, and how.
KNOB = ("min_channels", "lower it to the channels of the convolutions that you mean, or lower rank")


class Options(Strict):
    """Options of the spatial SVD."""

    choose: Choose
    rank: float = Field(gt=0, le=1, description="share of the full rank, or what choose says")
    min_channels: int = Field(ge=1, description="convolutions with fewer input or output channels stay as they are")


def factorize(
    layer: nn.Conv2d | nn.Linear, options: Options, inputs: Iterator[Tensor], rank: int | None = None
) -> nn.Sequential | None:
    """Return two convolutions that approximate `layer`, or None where it stays as it is; inputs are not looked at.

    The kernel (O, I, kh, kw), as a matrix of I * kh rows and O * kw columns, is cut to its leading singular vectors; at
    full rank the product is exact. Linear, grouped and narrow layers stay, those whose kernels are no wider or no
    higher than a pixel, those padded otherwise than by zeros, and those in which the two together would not be smaller,
    unless `rank` is given or the whole of the full rank is asked for.
    """
    if _stays(layer, options) or not isinstance(layer, nn.Conv2d):
        return None
    cut = functools.cache(lambda: torch.linalg.svd(_matrix(layer), full_matrices=False))
    rows, columns = shape = _shape(layer)
    kept = rank or rank_of(options, min(shape), shape, lambda: cut()[1])
    asked = rank is not None or (options.choose == "share" and options.rank == 1)
    if not asked and kept * (rows + columns) >= rows * columns:
        return None
    left, values, right = cut()
    scale = values[:kept].sqrt()
    level = (scale[:, None] * right[:kept]).reshape(kept, layer.out_channels, -1).transpose(0, 1)  # (O, r, kw)
    return filled(_chain(layer, kept), [(left[:, :kept] * scale).T, level], layer.bias)


def candidates(layer: nn.Conv2d | nn.Linear, options: Options, inputs: Iterator[Tensor]) -> list[Candidate]:
    """Return every rank up to what the options say, and the share of the kernel's energy that is lost."""
    if _stays(layer, options) or not isinstance(layer, nn.Conv2d):
        return []
    shape, values = _shape(layer), torch.linalg.svdvals(_matrix(layer))
    most = rank_of(options, min(shape), shape, lambda: values)
    errors = discarded(values).tolist()
    return [Candidate(rank, errors[rank - 1], _chain(layer, rank)) for rank in range(1, most + 1)]


def _stays(layer: nn.Conv2d | nn.Linear, options: Options) -> bool:
    return (
        not isinstance(layer, nn.Conv2d)
        or layer.groups != 1
        or min(layer.kernel_size) < 2
        or layer.padding_mode != "zeros"
        or isinstance(layer.padding, str)
        or min(layer.in_channels, layer.out_channels) < options.min_channels
    )


def _shape(layer: nn.Conv2d) -> tuple[int, int]:
    outputs, channels, high, wide = layer.weight.shape
    return channels * high, outputs * wide


def _matrix(layer: nn.Conv2d) -> Tensor:
    return layer.weight.detach().double().permute(1, 2, 0, 3).reshape(_shape(layer))  # (I * kh, O * kw)


def _chain(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """Return the two convolutions of that rank, without values."""
    upright = _along(layer, 0, layer.in_channels, rank, bias=False)
    return nn.Sequential(upright, _along(layer, 1, rank, layer.out_channels, bias=layer.bias is not None))


def _along(layer: nn.Conv2d, side: int, inputs: int, outputs: int, bias: bool) -> nn.Conv2d:
    """Return a convolution with the layer's kernel, stride, padding and dilation along one side alone."""

    def along(values: tuple[int, ...] | str, other: int) -> tuple[int, int]:
        return (int(values[0]), other) if side == 0 else (other, int(values[1]))

    kernel, stride = along(layer.kernel_size, 1), along(layer.stride, 1)
    padding, dilation = along(layer.padding, 0), along(layer.dilation, 1)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=bias, device="meta")
