"""Tucker-2: a convolution as 1x1, a small kxk core, 1x1. Kim et al., https://arxiv.org/abs/1511.06530."""

from collections.abc import Iterator
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from netpress.factorize.common.budget import Candidate
from netpress.factorize.common.parts import filled, is_plain, is_smaller, kernel_like, pointwise
from netpress.factorize.common.ranks import Choose, rank_of
from netpress.params.schema import Strict

EXAMPLE = {"choose": "share", "rank": 0.5, "min_channels": 16}
#: The option to change where no convolution is factorized, and how.
KNOB = ("min_channels", "lower it to the channels of the convolutions that you mean, or lower rank")


class Options(Strict):
    """Options of Tucker-2."""

    choose: Choose
    rank: float = Field(gt=0, le=1, description="share of the input and output channels, or what choose says")
    min_channels: int = Field(ge=1, description="convolutions with fewer input or output channels stay as they are")


def factorize(
    layer: nn.Conv2d | nn.Linear, options: Options, inputs: Iterator[Tensor], rank: tuple[int, int] | None = None
) -> nn.Sequential | None:
    """Return three convolutions that approximate `layer`, or None where it stays as it is; inputs are not looked at.

    The kernel (O, I, kh, kw) is projected on its leading mode vectors by higher-order orthogonal iteration; `rank` says
    how many of outputs and inputs. At full rank the product is exact. Linear, pointwise, grouped and narrow layers
    stay, those padded otherwise than by zeros, and those in which the three together would not be smaller, unless
    `rank` is given or the whole of the full ranks is asked for.
    """
    if not is_plain(layer, options.min_channels):
        return None
    ranks = rank or _ranks(layer, options)
    chain = _chain(layer, *ranks)
    asked = rank is not None or (options.choose == "share" and options.rank == 1)
    if not asked and not is_smaller(chain, layer):
        return None
    core, left, right = _decompose(layer.weight.detach().double(), ranks)
    return filled(chain, [right.T, core, left], layer.bias)  # (r_in, I), (r_out, r_in, kh, kw), (O, r_out)


def candidates(layer: nn.Conv2d | nn.Linear, options: Options, inputs: Iterator[Tensor]) -> list[Candidate]:
    """Return pairs of ranks that are one share of what the options say, and the share of the energy that is lost.

    That of the projection on the mode vectors (HOSVD), where the iteration starts: it loses no more.
    """
    if not is_plain(layer, options.min_channels):
        return []
    kernel = layer.weight.detach().double().flatten(2)  # (O, I, kh * kw)
    left, right = (torch.linalg.svd(_unfolded(layer, mode), full_matrices=False)[0] for mode in (0, 1))
    energy = torch.einsum("oik,oa,ib->abk", kernel, left, right).square().sum(2)
    held = energy.cumsum(0).cumsum(1)  # (r_out, r_in)
    most = [min(rank, size) for rank, size in zip(_ranks(layer, options), held.shape, strict=True)]
    found = []
    for step in range(1, max(most) + 1):
        out, in_ = (max(1, round(step * rank / max(most))) for rank in most)
        error = float(1 - held[out - 1, in_ - 1] / held[-1, -1].clamp(min=torch.finfo(held.dtype).tiny))
        found.append(Candidate((out, in_), max(error, 0.0), _chain(layer, out, in_)))
    return found


def _ranks(layer: nn.Conv2d, options: Options) -> tuple[int, int]:
    """Return the ranks of outputs and inputs that the options say, each by the kernel unfolded along its mode."""
    out, in_ = (
        rank_of(options, n, (n, layer.weight.numel() // n), partial(_values, layer, mode))
        for mode, n in enumerate((layer.out_channels, layer.in_channels))
    )
    return out, in_


def _values(layer: nn.Conv2d, mode: int) -> torch.Tensor:
    return torch.linalg.svdvals(_unfolded(layer, mode))


def _unfolded(layer: nn.Conv2d, mode: int) -> torch.Tensor:
    """Return the kernel as a matrix: (O, I * kh * kw), or for mode 1 (I, O * kh * kw)."""
    return layer.weight.detach().double().transpose(0, mode).flatten(1)


def _decompose(kernel: torch.Tensor, ranks: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import tensorly
    from tensorly.decomposition import partial_tucker

    with tensorly.backend_context("pytorch"):
        (core, factors), _ = partial_tucker(kernel, rank=list(ranks), modes=[0, 1], init="svd", n_iter_max=50)
    return core, factors[0], factors[1]


def _chain(layer: nn.Conv2d, rank_out: int, rank_in: int) -> nn.Sequential:
    """Return the three convolutions of those ranks, without values."""
    return nn.Sequential(
        pointwise(layer.in_channels, rank_in),
        kernel_like(layer, rank_in, rank_out),
        pointwise(rank_out, layer.out_channels, layer.bias is not None),
    )
