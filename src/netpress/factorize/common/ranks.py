"""How many singular values of a matrix are kept: a share of them, what holds a share of the energy, or by EVBMF."""

from collections.abc import Callable
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

Choose = Annotated[
    Literal["share", "energy", "evbmf"],
    Field(
        description="what rank means: share of the full rank; of the squared singular values; "
        "evbmf: the analytic rule, and rank is the largest share of the full rank that it may give"
    ),
]


class Ranked(Protocol):
    """Options that say how a rank is chosen."""

    @property
    def choose(self) -> str: ...

    @property
    def rank(self) -> float: ...


def rank_of(options: Ranked, full: int, shape: tuple[int, int], values: Callable[[], Tensor]) -> int:
    """Return the rank, from 1 to `full`.

    Args:
        options: `choose` and `rank`.
        full: the full rank, of which shares are meant.
        shape: of the matrix.
        values: gives its singular values, falling: (min(shape)); called only where the choice needs them.
    """
    share = max(1, round(options.rank * full))
    if options.choose == "share":
        return share
    if options.choose == "evbmf":
        return max(1, min(evbmf(values(), shape), share))
    lost = discarded(values())
    return min(full, 1 + int((lost > 1 - options.rank + torch.finfo(lost.dtype).eps).sum()))


def discarded(values: Tensor) -> Tensor:
    """Return which share of the energy is lost at each rank, 1 to R, of singular values (R): (R), the last is 0."""
    energy = values.double().square()
    rest = energy.flip(0).cumsum(0).flip(0)  # from each value on
    return torch.cat([rest[1:], rest.new_zeros(1)]) / rest[0].clamp(min=torch.finfo(torch.float64).tiny)


def evbmf(values: Tensor, shape: tuple[int, int]) -> int:
    """Return how many singular values (L) of a matrix L x M, L <= M, stand out of noise; 0 where none does.

    Nakajima et al., Global analytic solution of fully-observed variational Bayesian matrix factorization, JMLR 14
    (2013), https://jmlr.org/papers/v14/nakajima13a.html, with flat hyperpriors and the noise's variance s2 estimated.
    With a = L / M, x_h = values_h^2 / (M s2) and t(x) = (x - 1 - a + sqrt((x - 1 - a)^2 - 4 a)) / 2, a value is kept
    where x_h > X, and s2 is what minimizes

        sum_h (x_h - log x_h) + sum over x_h > X of (log(t + 1) + a log(t / a + 1) - t),    t = t(x_h)

    X = (1 + T) (1 + a / T), where T is the zero of P(T) + P(T / a), P(z) = log(z + 1) / z - 1 / 2.
    """
    from scipy.optimize import brentq, minimize_scalar

    few, many = sorted(shape)
    ratio = few / many
    seen = np.square(values.double().cpu().numpy()) / many
    most = float(seen.mean())
    if most == 0:
        return 0
    zero = brentq(lambda t: _half_log(t) + _half_log(t / ratio), 2.5 * ratio, 2.52)
    limit = (1 + zero) * (1 + ratio / zero)

    def energy(log_noise: float) -> float:
        scaled = seen / np.exp(log_noise)
        kept = scaled[scaled > limit] - 1 - ratio
        root = (kept + np.sqrt(kept**2 - 4 * ratio)) / 2
        gained = np.log1p(root) + ratio * np.log1p(root / ratio) - root
        return float(scaled.sum() + few * log_noise + gained.sum())

    tail = min(int(np.ceil(few / (1 + ratio))) - 1, few - 1)  # values beyond these are noise, whatever s2 is
    least = max(seen[tail] / limit, float(seen[tail:].mean()), np.finfo(float).eps * most)
    grid = np.linspace(np.log(min(least, most)), np.log(most), 65)  # the function may have more than one valley
    best = int(np.argmin([energy(point) for point in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    noise = minimize_scalar(energy, bounds=around, method="bounded").x if around[1] > around[0] else around[0]
    return int((seen > np.exp(noise) * limit).sum())


def _half_log(value: float) -> float:
    return float(np.log1p(value) / value - 0.5)
