"""Claims about accuracies, judged image by image over the seeds.

The difference of two models is taken image by image and seed by seed, since child and parent, and two students of one
seed, share order, views and start. Its interval is that of the crossed test (`crossed.py`). Whether two models are
equal is told by two one-sided tests at 5 %: the 90 % interval lies within the margin.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from netpress.base.errors import ArtifactError
from netpress.base.model_id import CONTROL, ModelId
from netpress.core.metrics import CONTROL_VAL_ACC
from netpress.params.whole import Claim
from netpress.report import units
from netpress.report.collect import Study
from netpress.report.crossed import WITHIN, Crossed, needed
from netpress.report.differences import OPEN, Accuracy, Differences, Pair
from netpress.report.markdown import table

HOLDS, FAILS = "holds", "does not hold"
#: Digits that are written, fewer than computers agree on, so that equal metrics give equal files everywhere.
DIGITS = 6
METHOD = """\
Differences are taken image by image over the n seeds that both models have. The interval is that of the crossed test:
seeds and images are both samples, and how much seeds matter is estimated from all comparisons of the table that are of
one kind: of networks trained apart, or of one training. With one seed it speaks of these two networks alone. An order
*holds* if every interval of neighbours lies above 0 and *does not hold* if that of any two of its models lies below;
models are equal if the 90 % interval lies within the margin (two one-sided tests), and are not if the 95 % interval
lies outside. Else: *cannot tell*, and the table says how many seeds or validation images would decide it, were the
difference seen the true one.
"""


@dataclass(frozen=True)
class Comparison:
    """Two models side by side.

    Attributes:
        first, second: model ids, or controls; the claim says that the second is more accurate, or that they are equal.
        margin: largest difference that counts as equal; None where the second is to be more accurate.
        difference: of the accuracies, second minus first, a fraction; over the seeds that both have, or of the two
            means where they have none in common.
        crossed: the test; None where the metrics do not say which images are named right, or of common seeds.
    """

    first: str
    second: str
    margin: float | None
    difference: float
    crossed: Crossed | None

    def __str__(self) -> str:
        """As in 'distill/kd > train/alone: +0.50 points (-0.20 to +1.20), cannot tell'."""
        return f"{words(self)}: {figures(self)}, {self.verdict}"

    @property
    def n(self) -> int:
        """Seeds that both have."""
        return self.crossed.k if self.crossed else 0

    @property
    def low(self) -> float | None:
        """Lower end of the 95 % interval."""
        return self.difference - self.crossed.half_width() if self.crossed else None

    @property
    def high(self) -> float | None:
        """Upper end of the 95 % interval."""
        return self.difference + self.crossed.half_width() if self.crossed else None

    @property
    def verdict(self) -> str:
        """Return what the interval says."""
        if self.crossed is None or self.low is None or self.high is None:
            return OPEN
        if self.margin is None:
            return HOLDS if self.low > 0 else FAILS if self.high < 0 else OPEN
        if abs(self.difference) + self.crossed.half_width(WITHIN) < self.margin:
            return HOLDS
        return FAILS if self.low > self.margin or self.high < -self.margin else OPEN

    @property
    def would_decide(self) -> str:
        """Return how many seeds or images would, in words; '-' where it is decided, or no number would."""
        if self.crossed is None or self.verdict != OPEN:
            return "-"
        need = needed(self.crossed, self.margin)
        ways = (need.seeds, "seeds"), (need.images, "images")
        return " or ".join(f"{count:,} {what}" for count, what in ways if count is not None) or "-"


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
    differences = Differences(study, [pair for claim in study.claims.values() for pair in _pairs(study, claim)])
    return [
        Judged(name, claim.text, tuple(_comparisons(study, differences, claim))) for name, claim in study.claims.items()
    ]


def _pairs(study: Study, claim: Claim) -> list[Pair]:
    """Return what is to be compared for a claim."""
    named = [*itertools.pairwise(claim.order), *itertools.combinations(claim.equal, 2)]
    return [(accuracy_of(study, first), accuracy_of(study, second)) for first, second in named]


def accuracy_of(study: Study, name: str) -> Accuracy:
    """Return the accuracy that a claim names: of a model, or of a control; of a curve that of the last round.

    Raises:
        ArtifactError: the metrics list no such control.
    """
    model_id = ModelId(name.removesuffix(CONTROL))
    if model_id == name:
        return Accuracy(name)
    if model_id.round is None:
        model_id = model_id.of_round(study.rounds(model_id)[-1].round)
    if getattr(study.measured(model_id), CONTROL_VAL_ACC) is None:
        raise ArtifactError(f"metrics/{model_id.base}.json lists no control of '{model_id}'; run 'dvc repro'")
    return Accuracy(model_id, CONTROL_VAL_ACC)


def _comparisons(study: Study, differences: Differences, claim: Claim) -> list[Comparison]:
    order, found = claim.order, []
    for (i, first), (j, second) in itertools.combinations(enumerate(order), 2):
        compared = compare(study, differences, first, second, None)
        # Neighbours make the order; of the others only a contradiction is news.
        if j == i + 1 or compared.verdict == FAILS:
            found.append(compared)
    equal = itertools.combinations(claim.equal, 2)
    return found + [compare(study, differences, first, second, claim.margin) for first, second in equal]


def compare(study: Study, differences: Differences, first: str, second: str, margin: float | None) -> Comparison:
    """Compare two accuracies of the study, as a claim names them."""
    pair = accuracy_of(study, first), accuracy_of(study, second)
    found = differences.of(*pair)
    if found is None:
        return Comparison(first, second, margin, differences.apart(*pair), None)
    return Comparison(first, second, margin, found.difference, found)


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


def figures(comparison: Comparison) -> str:
    """Return the difference and the interval that decides: '+0.50 points (-0.20 to +1.20)', of equality at 90 %."""
    found, told = comparison.crossed, f"{units.points(comparison.difference)} points"
    if found is None:
        return told
    if comparison.margin is None:
        return f"{told} ({units.interval(comparison.difference, found.half_width())})"
    return f"{told} (90 %: {units.interval(comparison.difference, found.half_width(WITHIN))})"


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
                    units.interval(comparison.difference, c.half_width()) if (c := comparison.crossed) else "-",
                    f"{comparison.n}",
                    comparison.verdict,
                    comparison.would_decide,
                ]
            )
    if not rows:
        return ""
    header = ["Claim", "It says", "Verdict", "Compared", "Difference (points)", "95 % interval", "n", "On its own"]
    header.append("Would decide")
    return f"{table(header, rows, left=4, last_left=True)}\n{METHOD}"
