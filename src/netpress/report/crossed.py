"""The crossed test: is one network more accurate than another, with other seeds and on other images?

Both networks are trained from the same k seeds and name the same n images, so seeds and images are crossed. It is the
test of studies in which several readers read the same cases (Dorfman, Berbaum and Metz 1992, with the degrees of
freedom of Hillis, Statistics in Medicine 26, 2007): networks are the modalities, seeds the readers, images the cases.
With one seed it speaks of these two networks alone, and is the interval of McNemar's paired proportions.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

#: (k, n) bool: whether each seed's network names each image right.
Right = NDArray[np.bool_]

K = TypeVar("K", bound=Hashable)
#: Share of intervals, drawn again and again, that would hold the true difference.
CONFIDENCE = 0.95
#: Two one-sided tests at 5 % each: of the interval that lies within a margin.
WITHIN = 0.90
#: Below this probability of equal spreads they are taken to differ, and are not pooled.
UNEQUAL = 0.05


@dataclass(frozen=True)
class Seeds:
    """How much the difference of two networks varies over the seeds.

    Attributes:
        square: mean square of seeds: n times the variance of the difference over the seeds.
        degrees: its degrees of freedom, k - 1, or more where it is pooled over several comparisons.
    """

    square: float
    degrees: int


@dataclass(frozen=True)
class Crossed:
    """The difference of two networks over k seeds and n images, and what it varies with.

    Attributes:
        k, n: seeds and images.
        difference: of the accuracies, a fraction.
        seeds: None with a single one.
        images: mean square of images: k times the variance over the images of the difference, averaged over the seeds.
        error: mean square of what is left, 0 with a single seed.
    """

    k: int
    n: int
    difference: float
    seeds: Seeds | None
    images: float
    error: float

    @property
    def variance(self) -> float:
        """Return k * n times the variance of the difference; never below that of the images alone.

        Nor below that of one answer that differs: where all are the same, others of such images might not be.
        """
        images = max(self.images, 1 / (self.k * self.n))
        if self.seeds is None:
            return images
        return max(self.seeds.square + max(self.images - self.error, 0.0), images)

    @property
    def standard_error(self) -> float:
        """Return the standard error of the difference, a fraction."""
        return math.sqrt(self.variance / (self.k * self.n))

    @property
    def degrees(self) -> float:
        """Return Hillis's degrees of freedom, at most those of the images, n - 1."""
        if self.seeds is None or self.seeds.square == 0:
            return self.n - 1
        return min(self.seeds.degrees * (self.variance / self.seeds.square) ** 2, self.n - 1)

    def half_width(self, confidence: float = CONFIDENCE) -> float:
        """Return half the width of the two-sided interval of the difference, a fraction."""
        from scipy.special import stdtrit

        return float(stdtrit(self.degrees, (1 + confidence) / 2)) * self.standard_error

    def p_value(self) -> float:
        """Return how probable a difference as large is, if there is none: two-sided."""
        from scipy.special import stdtr

        return 2 * float(stdtr(self.degrees, -abs(self.difference) / self.standard_error))


def crossed(one: Right, two: Right, seeds: Seeds | None = None) -> Crossed:
    """Compare two networks by which images they name right; the difference is two minus one.

    Args:
        one, two: (k, n) each; row s of both is of one seed, column i of one image; n is at least 2.
        seeds: how much differences vary over the seeds, where it is known better than from these two alone.
    """
    differences = two.astype(np.float64) - one
    k, n = differences.shape
    by_seed, by_image, mean = differences.mean(1), differences.mean(0), float(differences.mean())
    images = k * float(((by_image - mean) ** 2).sum()) / (n - 1)
    if k == 1:
        return Crossed(1, n, mean, None, images, 0.0)
    rest = differences - by_seed[:, None] - by_image + mean
    error = float((rest**2).sum()) / ((k - 1) * (n - 1))
    own = Seeds(n * float(((by_seed - mean) ** 2).sum()) / (k - 1), k - 1)
    return Crossed(k, n, mean, seeds or own, images, error)


def holm(probabilities: Mapping[K, float]) -> set[K]:
    """Return which of several differences are real, judged together, by the p-value of each.

    Holm's step-down (Scandinavian Journal of Statistics 6, 1979): where nothing differs, the chance that one or more
    are named is at most 5 %.
    """
    real = set[K]()
    for place, key in enumerate(sorted(probabilities, key=lambda key: probabilities[key])):
        if probabilities[key] > (1 - CONFIDENCE) / (len(probabilities) - place):
            break
        real.add(key)
    return real


def pooled(groups: Sequence[Sequence[Right]]) -> Seeds | None:
    """Return how much differences within `groups` vary over the seeds, estimated from all of them.

    Within a group that is the mean of the seeds' mean squares over all its pairs, which is twice the interaction of
    network and seed in an analysis of variance, with (networks - 1) * (k - 1) degrees of freedom: pairs that share a
    network are not independent. Groups add up. None with a single seed, and where the differences plainly vary
    unequally (Levene's test about the medians), so that each must stand for itself.

    Args:
        groups: networks that are compared with one another, two or more, (k, n) each, of the same seeds and images.
    """
    accuracies = [np.stack([right.mean(1) for right in group]) for group in groups]
    k, n = groups[0][0].shape
    if k == 1 or _spread_unequally([row - of[0] for of in accuracies for row in of[1:]]):
        return None
    rest = [of - of.mean(1, keepdims=True) - of.mean(0) + of.mean() for of in accuracies]
    degrees = (k - 1) * sum(len(group) - 1 for group in groups)
    return Seeds(2 * n * sum(float((part**2).sum()) for part in rest) / degrees, degrees)


def _spread_unequally(differences: Sequence[NDArray[np.float64]]) -> bool:
    """Say whether differences, each (k) over the seeds, vary by more in one comparison than in another."""
    from scipy.stats import levene

    if len(differences) < 2 or len(differences[0]) < 3 or not np.ptp(differences, axis=1).any():
        return False
    return bool(levene(*differences, center="median").pvalue < UNEQUAL)


@dataclass(frozen=True)
class Needed:
    """What would decide at the difference seen; None where no number below the bound would.

    Attributes:
        seeds: with these images.
        images: with these seeds.
    """

    seeds: int | None
    images: int | None


#: Beyond these nothing is promised: a difference that needs more is none that matters.
MOST_SEEDS, MOST_IMAGES = 1_000, 10_000_000


def needed(compared: Crossed, margin: float | None = None) -> Needed:
    """Return how many seeds, or how many images, would decide, were the difference seen the true one.

    That is to bring the 95 % interval off zero or, with a margin, the 90 % interval inside it where the difference is
    smaller, and the 95 % interval outside where it is larger; none would where it is as large. With a single seed it is
    not known how much seeds matter: `seeds` is None.
    """
    apart, k, n = abs(compared.difference), compared.k, compared.n
    is_within = margin is not None and apart < margin
    reach, confidence = abs(apart - (margin or 0.0)), WITHIN if is_within else CONFIDENCE

    def enough(seeds: int, images: int) -> bool:
        return expected(compared, seeds, images).half_width(confidence) < reach

    return Needed(
        None if k == 1 else _first(lambda seeds: enough(seeds, n), k, MOST_SEEDS),
        _first(lambda images: enough(k, images), n, MOST_IMAGES),
    )


def expected(compared: Crossed, k: int, n: int) -> Crossed:
    """Return what k seeds, 2 or more unless `compared` has one, and n images would show, with variances as seen."""
    of_images = max(compared.images - compared.error, 0.0) / compared.k
    if compared.seeds is None:
        return replace(compared, n=n)
    of_seeds = max(compared.seeds.square - compared.error, 0.0) / compared.n
    degrees = max(1, round(compared.seeds.degrees * (k - 1) / (compared.k - 1)))
    seeds = Seeds(n * of_seeds + compared.error, degrees)
    return replace(compared, k=k, n=n, seeds=seeds, images=k * of_images + compared.error)


def _first(enough: Callable[[int], bool], start: int, most: int) -> int | None:
    """Return the least number above `start`, at most `most`, that is enough, if more is never less."""
    low, high = start, most
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
