"""CP-3: a convolution as 1x1, depthwise kxk, 1x1. Lebedev et al., https://arxiv.org/abs/1412.6553.

The kernel is a sum of R products of an output, an input and a spatial vector. The spatial modes are kept together, so
that the tensor has three modes: one layer fewer to run than with kx1 and 1xk, and a fit that degenerates less. Where it
would, components grow against one another (Phan et al., https://arxiv.org/abs/2008.05441); a ridge on the factors keeps
them small, in place of that paper's constrained search.
"""

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from netpress.factorize.common.budget import Candidate
from netpress.factorize.common.parts import filled, is_plain, is_smaller, kernel_like, pointwise
from netpress.factorize.common.ranks import discarded
from netpress.params.schema import Strict

EXAMPLE = {"rank": 0.1, "min_channels": 16}
#: The option to change where no convolution is factorized, and how.
KNOB = ("min_channels", "lower it to the channels of the convolutions that you mean, or lower rank")
#: Of the factors' squares, in the loss of a kernel of unit energy.
RIDGE = 1e-4
SWEEPS = 30


class Options(Strict):
    """Options of the CP decomposition."""

    rank: float = Field(gt=0, le=1, description="share of the rank at which every kernel is exact, min(O, I) kh kw")
    min_channels: int = Field(ge=1, description="convolutions with fewer input or output channels stay as they are")


def factorize(
    layer: nn.Conv2d | nn.Linear, options: Options, inputs: Iterator[Tensor], rank: int | None = None
) -> nn.Sequential | None:
    """Return three convolutions that approximate `layer`, or None where it stays as it is; inputs are not looked at.

    The kernel (O, I, kh, kw) is fitted by alternating least squares from a start by SVD; at full rank the product is
    exact. Linear, pointwise, grouped and narrow layers stay, those padded otherwise than by zeros, and those in which
    the three together would not be smaller, unless `rank` is given or the whole of the full rank is asked for.
    """
    if not is_plain(layer, options.min_channels):
        return None
    kept = rank or _most(layer, options)
    chain = _chain(layer, kept)
    if rank is None and options.rank < 1 and not is_smaller(chain, layer):
        return None
    left, right, space = _fitted(layer.weight.detach().double().flatten(2), kept)
    return filled(chain, [right.T, space.T, left], layer.bias)  # (R, I), (R, kh * kw), (O, R)


def candidates(layer: nn.Conv2d | nn.Linear, options: Options, inputs: Iterator[Tensor]) -> list[Candidate]:
    """Return every rank up to what the options say, and the share of the energy that is lost at the fit's start.

    The fit loses no more.
    """
    if not is_plain(layer, options.min_channels):
        return []
    values = _slices(layer.weight.detach().double().flatten(2))[2].flatten().sort(descending=True).values
    errors = discarded(values).tolist()
    ranks = range(1, _most(layer, options) + 1)
    return [Candidate(rank, errors[rank - 1], _chain(layer, rank)) for rank in ranks]


def _most(layer: nn.Conv2d, options: Options) -> int:
    """Return the rank that the options say."""
    outputs, channels, high, wide = layer.weight.shape
    return max(1, round(options.rank * min(outputs, channels) * high * wide))


def _slices(kernel: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decompose the kernel (O, I, K) along each of its spatial mode vectors.

    Returns:
        the mode vectors (K, K), and the singular vectors and values of their slices: (K, O, n), (K, n), (K, n, I).
    """
    modes = torch.linalg.svd(kernel.flatten(0, 1).T @ kernel.flatten(0, 1))[0]
    left, values, right = torch.linalg.svd(torch.einsum("oik,kp->poi", kernel, modes), full_matrices=False)
    return modes, left, values, right


def _start(kernel: Tensor, rank: int) -> list[Tensor]:
    """Return factors (O, R), (I, R), (K, R) of the R largest of all slices' singular values, of equal lengths.

    Slices of different mode vectors are orthogonal, so what is lost is the energy of the others.
    """
    modes, left, values, right = _slices(kernel)
    order = values.flatten().sort(descending=True, stable=True).indices[:rank]
    mode, place = order // values.shape[1], order % values.shape[1]
    scale = values.flatten()[order].pow(1 / 3)
    return [left[mode, :, place].T * scale, right[mode, place].T * scale, modes[:, mode] * scale]


def _fitted(kernel: Tensor, rank: int) -> list[Tensor]:
    """Return factors (O, R), (I, R), (K, R) of the kernel (O, I, K): the fit, or its start where that is as near."""
    size = kernel.norm().clamp(min=torch.finfo(kernel.dtype).tiny)
    unit = kernel / size
    left, right, space = start = _start(unit, rank)
    for _ in range(SWEEPS):
        by_output = torch.einsum("oik,ir->okr", unit, right)
        left = _solved(torch.einsum("okr,kr->or", by_output, space), right, space)
        space = _solved(torch.einsum("okr,or->kr", by_output, left), right, left)
        by_input = torch.einsum("oik,or->ikr", unit, left)
        right = _solved(torch.einsum("ikr,kr->ir", by_input, space), left, space)
    found = min(start, [left, right, space], key=lambda factors: float((unit - _product(factors)).norm()))
    return [factor * size.pow(1 / 3) for factor in found]


def _solved(product: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Return the factor (n, R) that is best beside two others; `product` is the kernel's with them."""
    gram = (one.T @ one) * (other.T @ other)
    gram.diagonal().add_(RIDGE)
    return torch.linalg.solve(gram, product, left=False)


def _product(factors: list[Tensor]) -> Tensor:
    return torch.einsum("or,ir,kr->oik", *factors)


def _chain(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """Return the three convolutions of that rank, without values."""
    return nn.Sequential(
        pointwise(layer.in_channels, rank),
        kernel_like(layer, rank, rank, groups=rank),
        pointwise(rank, layer.out_channels, layer.bias is not None),
    )
