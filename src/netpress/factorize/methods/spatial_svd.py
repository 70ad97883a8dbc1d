"""Spatial SVD: a k x k convolution as k x 1 and 1 x k. Jaderberg et al., https://arxiv.org/abs/1405.3866."""

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from netpress.params.schema import Strict

EXAMPLE = {"rank": 0.4, "min_channels": 16}
#: The option to change where no convolution is factorized, and how.
KNOB = ("min_channels", "lower it to the channels of the convolutions that you mean, or lower rank")


class Options(Strict):
    """Options of the spatial SVD."""

    rank: float = Field(gt=0, le=1, description="share of the full rank that is kept")
    min_channels: int = Field(ge=1, description="convolutions with fewer input or output channels stay as they are")


def factorize(layer: nn.Conv2d | nn.Linear, options: Options, inputs: Iterator[Tensor]) -> nn.Sequential | None:
    """Return two convolutions that approximate `layer`, or None where it stays as it is; inputs are not looked at.

    The kernel (O, I, kh, kw), as a matrix of I * kh rows and O * kw columns, is cut to its leading singular vectors; at
    rank 1.0 the product is exact. Linear, grouped and narrow layers stay, those whose kernels are no wider or no higher
    than a pixel, those padded otherwise than by zeros, and those in which the two together would not be smaller, unless
    the rank is 1.0.
    """
    if (
        not isinstance(layer, nn.Conv2d)
        or layer.groups != 1
        or min(layer.kernel_size) < 2
        or layer.padding_mode != "zeros"
        or isinstance(layer.padding, str)
        or min(layer.in_channels, layer.out_channels) < options.min_channels
    ):
        return None
    outputs, channels, high, wide = layer.weight.shape
    rows, columns = channels * high, outputs * wide
    rank = max(1, round(options.rank * min(rows, columns)))
    if options.rank < 1 and rank * (rows + columns) >= rows * columns:
        return None
    matrix = layer.weight.detach().double().permute(1, 2, 0, 3).reshape(rows, columns)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    scale = values[:rank].sqrt()
    upright = _along(layer, 0, channels, rank, bias=False)
    level = _along(layer, 1, rank, outputs, bias=layer.bias is not None)
    _fill(upright, (left[:, :rank] * scale).T.reshape(rank, channels, high, 1))
    _fill(level, (scale[:, None] * right[:rank]).reshape(rank, outputs, 1, wide).transpose(0, 1))
    if layer.bias is not None:
        level.bias = nn.Parameter(layer.bias.detach().clone())
    return nn.Sequential(upright, level)


def _along(layer: nn.Conv2d, side: int, inputs: int, outputs: int, bias: bool) -> nn.Conv2d:
    """Return a convolution with the layer's kernel, stride, padding and dilation along one side alone."""

    def along(values: tuple[int, ...] | str, other: int) -> tuple[int, int]:
        return (int(values[0]), other) if side == 0 else (other, int(values[1]))

    kernel, stride = along(layer.kernel_size, 1), along(layer.stride, 1)
    padding, dilation = along(layer.padding, 0), along(layer.dilation, 1)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=bias)


def _fill(conv: nn.Conv2d, weight: Tensor) -> None:
    conv.weight = nn.Parameter(weight.float().contiguous())
