"""Differences of two accuracies with their intervals, from which images the metrics say are named right."""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from netpress.core.metrics import VAL_ACC
from netpress.report.collect import Answers, Study
from netpress.report.crossed import Crossed, Seeds, crossed, pooled


class Accuracy(NamedTuple):
    """One accuracy of the metrics: of a model or of a pruning round, and which, such as its control's."""

    model_id: str
    key: str = VAL_ACC


#: What is compared: the difference is the second minus the first.
Pair = tuple[Accuracy, Accuracy]


class Differences:
    """The differences of one table, over which the variance of the seeds is pooled.

    Accuracies that are compared, directly or by way of others, make a group; see `crossed.pooled`.
    """

    def __init__(self, study: Study, pairs: Iterable[Pair]) -> None:
        self._study = study
        self._pairs = list(pairs)
        self._answers = cache(lambda accuracy: study.answers(accuracy.model_id, accuracy.key))
        self._pooled = cache(self._pool)

    def of(self, first: Accuracy, second: Accuracy) -> Crossed | None:
        """Compare two accuracies over the seeds that both have; None where the metrics do not say enough."""
        one, two = self._answers(first), self._answers(second)
        seeds = common(one, two)
        if one is None or two is None or not seeds:
            return None
        return crossed(one.of(seeds), two.of(seeds), self._pooled(seeds))

    def _pool(self, seeds: tuple[int, ...]) -> Seeds | None:
        """Pool over the comparisons that are of exactly these seeds."""
        groups: list[set[Accuracy]] = []
        for pair in self._pairs:
            if common(*map(self._answers, pair)) == seeds:
                joined = set(pair).union(*(group for group in groups if group & set(pair)))
                groups = [group for group in groups if not group & joined] + [joined]
        known = [[self._answers(accuracy) for accuracy in sorted(group)] for group in groups]
        return pooled([[one.of(seeds) for one in group if one is not None] for group in known]) if known else None


def common(one: Answers | None, two: Answers | None) -> tuple[int, ...]:
    """Return the seeds that both have, in the order of the first."""
    if one is None or two is None:
        return ()
    return tuple(seed for seed in one.seeds if seed in two.seeds)
