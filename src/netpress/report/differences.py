"""Differences of two accuracies with their intervals, from which images the metrics say are named right.

A table of several differences is judged as a whole, by Holm's step-down (`crossed.holm`).
"""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from netpress.core.metrics import VAL_ACC
from netpress.report import units
from netpress.report.collect import Answers, Study
from netpress.report.crossed import Crossed, Seeds, crossed, holm, pooled

BETTER, WORSE, OPEN = "better", "worse", "cannot tell"
#: Of tables with differences.
NOTE = """\
Differences have their 95 % interval, of the crossed test over seeds and images; with one seed it speaks of these two
networks alone. *better* and *worse* are what stays when all differences of the table are judged together (Holm), so an
interval just off zero may still be one that *cannot tell*.
"""


class Accuracy(NamedTuple):
    """One accuracy of the metrics: of a model or of a pruning round, and which, such as its control's."""

    model_id: str
    key: str = VAL_ACC


#: What is compared: the difference is the second minus the first.
Pair = tuple[Accuracy, Accuracy]


class Differences:
    """The differences of one table, over which the variance of the seeds is pooled.

    Accuracies that are compared, directly or by way of others, make a group; see `crossed.pooled`. What was made of the
    same trained weights without further training varies far less with the seed than what was trained for itself, so
    the two kinds are pooled apart.
    """

    def __init__(self, study: Study, pairs: Iterable[Pair]) -> None:
        self._study = study
        self._pairs = list(pairs)
        self._answers = cache(lambda accuracy: study.answers(accuracy.model_id, accuracy.key))
        self._pooled = cache(self._pool)
        self._real = cache(self._step_down)

    def of(self, first: Accuracy, second: Accuracy) -> Crossed | None:
        """Compare two accuracies over the seeds that both have; None where the metrics do not say enough."""
        one, two = self._answers(first), self._answers(second)
        seeds = common(one, two)
        if one is None or two is None or not seeds:
            return None
        return crossed(one.of(seeds), two.of(seeds), self._pooled(seeds, self._of_one_training(first, second)))

    def words(self, first: Accuracy, second: Accuracy) -> str:
        """Return the difference in points and its interval: '+0.50 (-0.20 to +1.20)'; alone where there is none.

        Where it is of fewer seeds than one of the means, which then differ by something else, it says so.
        """
        found = self.of(first, second)
        if found is None:
            return units.points(self.apart(first, second))
        seeds = max(self._study.measured(one.model_id).n_seeds for one in (first, second))
        fewer = "" if found.k == seeds else f", {found.k} of {seeds} seeds"
        return f"{units.points(found.difference)} ({units.interval(found.difference, found.half_width())}{fewer})"

    def verdict(self, first: Accuracy, second: Accuracy) -> str:
        """Say what the second accuracy is beside the first, judged together with all pairs of the table."""
        found = self.of(first, second)
        if found is None or (first, second) not in self._real():
            return OPEN
        return BETTER if found.difference > 0 else WORSE

    def apart(self, first: Accuracy, second: Accuracy) -> float:
        """Return the difference of the two means, a fraction, also where no test can be made."""
        one, two = (getattr(self._study.measured(a.model_id), a.key) for a in (first, second))
        return float(two - one)

    def _step_down(self) -> set[Pair]:
        """Return the pairs that differ."""
        return holm({pair: found.p_value() for pair in self._pairs if (found := self.of(*pair))})

    def _of_one_training(self, first: Accuracy, second: Accuracy) -> bool:
        return self._trained(first) == self._trained(second)

    def _trained(self, accuracy: Accuracy) -> Accuracy:
        """Return whose weights those of `accuracy` are: its own, if it was trained, or else its parent's."""
        model = self._study.by_id.get(accuracy.model_id)
        if model is None or accuracy.key != VAL_ACC or model.epochs != 0 or "from" not in model.parents:
            return accuracy
        return self._trained(Accuracy(model.parents["from"]))

    def _pool(self, seeds: tuple[int, ...], of_one_training: bool) -> Seeds | None:
        """Pool over the comparisons that are of exactly these seeds and of this kind."""
        groups: list[set[Accuracy]] = []
        for pair in self._pairs:
            of_kind = self._of_one_training(*pair) == of_one_training
            if of_kind and common(*map(self._answers, pair)) == seeds:
                joined = set(pair).union(*(group for group in groups if group & set(pair)))
                groups = [group for group in groups if not group & joined] + [joined]
        known = [[self._answers(accuracy) for accuracy in sorted(group)] for group in groups]
        return pooled([[one.of(seeds) for one in group if one is not None] for group in known]) if known else None


def common(one: Answers | None, two: Answers | None) -> tuple[int, ...]:
    """Return the seeds that both have, in the order of the first."""
    if one is None or two is None:
        return ()
    return tuple(seed for seed in one.seeds if seed in two.seeds)
