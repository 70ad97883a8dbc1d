"""What was found, in a dozen lines: the model to take for a size, the claims' verdicts, and where to look."""

from collections.abc import Sequence

from netpress.base.model_id import ModelId
from netpress.report import units
from netpress.report.choice import CHANCE, Beside, Budget, at_chance, steps
from netpress.report.claims import Judged, figures, judge
from netpress.report.collect import Study
from netpress.report.curves import drawn_curves
from netpress.report.differences import Accuracy, Differences
from netpress.report.overview import accuracy
from netpress.report.pareto import points_of

#: Models that are named on a terminal.
NAMED = 3
#: Where to look further, on a terminal.
POINTERS = (
    "To look at: reports/index.html; tables: metrics/summary.md; figures: plots/ and 'dvc plots show'",
    "A model for your budget: python -m netpress choose --max-bytes 250kB; a folder to ship: export",
)


def found(study: Study) -> str:
    """Return the lines; empty for a study without models."""
    if not study.models:
        return ""
    models = [f"Take {name}  {words}" for name, words in best_for_size(study)[:NAMED]]
    return "\n".join([*models, *(f"{verdict}: {text}" for verdict, text in verdicts(judge(study))), *POINTERS])


def best_for_size(study: Study) -> list[tuple[ModelId, str]]:
    """Return the models that are the most accurate of at most their size, the largest first, each with its figures.

    A pruning round is named by its model id, as `choose` names it.
    """
    curves = [curve.model_id for curve in drawn_curves(study)]
    costs = {point.id: float(point.onnx_bytes) for point in points_of(study, curves)}
    found = steps(study, curves, costs, lambda limit: Budget({"onnx_bytes": limit}))
    controls = {step.choice.id: step.choice.control for step in found}
    best, *others = reversed(controls)
    differences = Differences(study, [(Accuracy(best), Accuracy(other)) for other in others])
    rows = [(best, _figures(study, best))]
    for other in others:
        smaller = units.times(costs[best], costs[other])
        apart = differences.words(Accuracy(best), Accuracy(other))
        rows.append((other, f"{_figures(study, other)}, {smaller} smaller than the first: {apart} points"))
    return [(ModelId(name), f"{words}{_beside(controls[name])}") for name, words in rows]


def verdicts(judged: Sequence[Judged]) -> list[tuple[str, str]]:
    """Return the verdict of each claim, and what it says with the differences it was judged by."""
    return [
        (claim.verdict, f"{claim.text}: {'; '.join(figures(comparison) for comparison in claim.comparisons)}")
        for claim in judged
    ]


def _beside(control: Beside | None) -> str:
    return f"; {control.difference} beside its shape trained from scratch" if control else ""


def _figures(study: Study, model_id: str) -> str:
    measured = study.measured(model_id)
    useless = f" ({CHANCE})" if at_chance(study, model_id) else ""
    return f"{accuracy(measured)} %{useless}, {units.size(measured.onnx_bytes)}"
