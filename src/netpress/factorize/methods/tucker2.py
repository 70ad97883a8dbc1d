"""Tucker-2: a convolution as 1x1, a small kxk core, 1x1. Kim et al., https://arxiv.org/abs/1511.06530."""

import copy
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from netpress.params.schema import Strict

EXAMPLE = {"rank": 0.5, "min_channels": 16}
#: The option to change where no convolution is factorized, and how.
KNOB = ("min_channels", "lower it to the channels of the convolutions that you mean, or lower rank")


class Options(Strict):
    """Options of Tucker-2."""

    rank: float = Field(gt=0, le=1, description="share of the input and output channels kept as ranks")
    min_channels: int = Field(ge=1, description="convolutions with fewer input or output channels stay as they are")


def factorize(layer: nn.Conv2d | nn.Linear, options: Options, inputs: Iterator[Tensor]) -> nn.Sequential | None:
    """Return three convolutions that approximate `layer`, or None where it stays as it is; inputs are not looked at.

    The kernel (O, I, kh, kw) is projected on its leading `rank * O` and `rank * I` mode vectors by higher-order
    orthogonal iteration; at rank 1.0 the product is exact. Linear, pointwise, grouped and narrow layers stay, and so
    do those in which the three layers together would not be smaller, unless the rank is 1.0.
    """
    if (
        not isinstance(layer, nn.Conv2d)
        or layer.groups != 1
        or layer.kernel_size == (1, 1)
        or min(layer.in_channels, layer.out_channels) < options.min_channels
    ):
        return None
    ranks = [max(1, round(options.rank * n)) for n in (layer.out_channels, layer.in_channels)]
    chain = _empty_chain(layer, ranks[0], ranks[1])
    if options.rank < 1 and sum(p.numel() for p in chain.parameters()) >= sum(p.numel() for p in layer.parameters()):
        return None
    core, left, right = _decompose(layer.weight.detach().double(), ranks)
    _fill(chain[0], right.T[:, :, None, None])  # (r_in, I, 1, 1)
    _fill(chain[1], core)  # (r_out, r_in, kh, kw)
    _fill(chain[2], left[:, :, None, None])  # (O, r_out, 1, 1)
    if layer.bias is not None:
        chain[2].bias = nn.Parameter(layer.bias.detach().clone())
    return chain


def _decompose(kernel: torch.Tensor, ranks: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import tensorly
    from tensorly.decomposition import partial_tucker

    with tensorly.backend_context("pytorch"):
        (core, factors), _ = partial_tucker(kernel, rank=ranks, modes=[0, 1], init="svd", n_iter_max=50)
    return core, factors[0], factors[1]


def _empty_chain(conv: nn.Conv2d, rank_out: int, rank_in: int) -> nn.Sequential:
    core = copy.deepcopy(conv)  # keeps kernel size, stride, padding and dilation
    core.in_channels, core.out_channels, core.bias = rank_in, rank_out, None
    core.weight = nn.Parameter(conv.weight.new_zeros(rank_out, rank_in, *conv.kernel_size))
    return nn.Sequential(
        nn.Conv2d(conv.in_channels, rank_in, 1, bias=False),
        core,
        nn.Conv2d(rank_out, conv.out_channels, 1, bias=conv.bias is not None),
    )


def _fill(conv: nn.Module, weight: torch.Tensor) -> None:
    conv.weight = nn.Parameter(weight.float().contiguous())
