"""Claims about accuracies, judged over the seeds.

The difference of two models is taken seed by seed, since child and parent, and two students of one seed, share order,
views and start. Its interval is that of a paired t-test: mean ± t(0.975, n - 1) standard errors.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netpress.params.items import Claim
from netpress.report import units
from netpress.report.collect import Study
from netpress.report.markdown import table

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"
#: Share of intervals, drawn again and again, that would hold the true difference.
CONFIDENCE = 0.95
#: Digits that are written, fewer than computers agree on, so that equal metrics give equal files everywhere.
DIGITS = 6
METHOD = """\
Differences are taken seed by seed. The interval is that of a paired t-test at 95 % over the n seeds that both models
have. An order *holds* if every interval of neighbours lies above 0 and *does not hold* if that of any two of its models
lies below; models are equal if the interval lies within the margin, and are not if it lies outside. Else, and always
with one seed: *cannot tell*.
"""


@dataclass(frozen=True)
class Comparison:
    """Two models side by side.

    Attributes:
        first, second: model ids; the claim says that the second is more accurate, or that they are equal.
        margin: largest difference that counts as equal; None where the second is to be more accurate.
        n: seeds that both have.
        difference: of the accuracies, second minus first, a fraction; the mean over these seeds, or of the two means
            where they have none in common.
        low, high: its interval; None with fewer than two seeds.
    """

    first: str
    second: str
    margin: float | None
    n: int
    difference: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """Return what the interval says."""
        if self.low is None or self.high is None:
            return OPEN
        if self.margin is None:
            return HOLDS if self.low > 0 else FAILS if self.high < 0 else OPEN
        if -self.margin < self.low and self.high < self.margin:
            return HOLDS
        return FAILS if self.low > self.margin or self.high < -self.margin else OPEN


@dataclass(frozen=True)
class Judged:
    """A claim and its comparisons."""

    name: str
    text: str
    comparisons: tuple[Comparison, ...]

    @property
    def verdict(self) -> str:
        """Return the worst verdict of the comparisons."""
        verdicts = {comparison.verdict for comparison in self.comparisons}
        return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS


def judge(study: Study) -> list[Judged]:
    """Judge every claim of the study, in the order of params.yaml."""
    return [Judged(name, claim.text, tuple(_comparisons(study, claim))) for name, claim in study.claims.items()]


def _comparisons(study: Study, claim: Claim) -> list[Comparison]:
    order, found = claim.order, []
    for (i, first), (j, second) in itertools.combinations(enumerate(order), 2):
        compared = _compared(study, first, second, None)
        # Neighbours make the order; of the others only a contradiction is news.
        if j == i + 1 or compared.verdict == FAILS:
            found.append(compared)
    return found + [_compared(study, a, b, claim.margin) for a, b in itertools.combinations(claim.equal, 2)]


def _compared(study: Study, first: str, second: str, margin: float | None) -> Comparison:
    one, two = study.by_seed(first), study.by_seed(second)
    if one.keys() & two.keys():
        return compare(first, second, one, two, margin)
    difference = study.measured(second).val_acc - study.measured(first).val_acc
    return Comparison(first, second, margin, 0, difference, None, None)


def compare(
    first: str, second: str, one: Mapping[int, float], two: Mapping[int, float], margin: float | None
) -> Comparison:
    """Compare two models, whose accuracies are given by seed, over the seeds that both have, at least one."""
    differences = [two[seed] - one[seed] for seed in sorted(one.keys() & two.keys())]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return Comparison(first, second, margin, 1, mean, None, None)
    half = t_quantile(len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return Comparison(first, second, margin, len(differences), mean, mean - half, mean + half)


def t_quantile(degrees: int) -> float:
    """Return how many standard errors on each side of a mean hold `CONFIDENCE`, with these degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))


def as_metrics(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return claim -> verdict, and comparison -> difference, interval and n, for `dvc metrics diff`."""
    return {
        claim.name: {"verdict": claim.verdict}
        | {
            words(c): {
                key: round(value, DIGITS)
                for key in ("n", "difference", "low", "high")
                if (value := getattr(c, key)) is not None
            }
            for c in claim.comparisons
        }
        for claim in judged
    }


def words(comparison: Comparison) -> str:
    """Return what is compared: 'distill/kd > train/alone', or with '=' where they are to be equal."""
    sign = ">" if comparison.margin is None else "="
    return f"{comparison.second} {sign} {comparison.first}"


def claims_table(judged: Sequence[Judged]) -> str:
    """Return the claims with their comparisons and verdicts, and the method; '' without a claim."""
    rows = []
    for claim in judged:
        for number, comparison in enumerate(claim.comparisons):
            first = number == 0
            rows.append(
                [
                    claim.name if first else "",
                    claim.text if first else "",
                    claim.verdict if first else "",
                    words(comparison),
                    units.points(comparison.difference),
                    interval(comparison),
                    f"{comparison.n}",
                    comparison.verdict,
                ]
            )
    if not rows:
        return ""
    header = ["Claim", "It says", "Verdict", "Compared", "Difference (points)", "95 % interval", "n", "On its own"]
    return f"{table(header, rows, left=4, last_left=True)}\n{METHOD}"


def interval(comparison: Comparison) -> str:
    """Return the interval in points, '-' where there is none."""
    if comparison.low is None or comparison.high is None:
        return "-"
    return f"{units.points(comparison.low)} to {units.points(comparison.high)}"
