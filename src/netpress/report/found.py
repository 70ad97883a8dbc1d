"""What was found, in ten lines: which models to take, the claims' verdicts, and where to look."""

from collections.abc import Iterator

from netpress.base.errors import NetpressError
from netpress.report import units
from netpress.report.choice import Budget, Choice, choose, figures
from netpress.report.claims import judge
from netpress.report.collect import Study
from netpress.report.curves import drawn_curves
from netpress.report.differences import Accuracy, Differences

#: Shares of the most accurate model's bytes within which the best is named.
SHARES = {"a tenth": 10, "a fiftieth": 50}


#: Where to look further, on a terminal.
POINTERS = (
    "To look at: reports/index.html; tables: metrics/summary.md; figures: plots/ and 'dvc plots show'",
    "A model for your budget: python -m netpress choose --max-bytes 250kB; a folder to ship: export",
)


def found(study: Study) -> str:
    """Return the lines; empty for a study without models."""
    return "\n".join([*findings(study), *POINTERS]) if study.models else ""


def findings(study: Study) -> Iterator[str]:
    """Yield what was found about a study of at least one model: which to take, and what its claims came to."""
    curves = [curve.model_id for curve in drawn_curves(study)]
    best = choose(study, curves, Budget({}), smallest=False)
    yield f"Most accurate: {best.id}  {figures(study.measured(best.id))}"
    if best.smallest_level:
        yield f"Smallest that is level with it: {_beside(study, best, best.smallest_level.id)}"
    named = {best.id}
    for words, share in SHARES.items():
        limit = study.measured(best.id).onnx_bytes / share
        try:
            small = choose(study, curves, Budget({"onnx_bytes": limit}), smallest=False)
        except NetpressError:  # none is that small
            continue
        if small.id not in named:
            named.add(small.id)
            yield f"Most accurate in {words} of its bytes: {_beside(study, best, small.id)}"
    for claim in judge(study):
        yield f"{claim.verdict}: {claim.text}"


def _beside(study: Study, best: Choice, other: str) -> str:
    """Return a model with its figures beside the most accurate one."""
    measured, largest = study.measured(other), study.measured(best.id)
    difference = Differences(study, [(Accuracy(best.id), Accuracy(other))]).words(Accuracy(best.id), Accuracy(other))
    sizes = f"{units.size(measured.onnx_bytes)}, {units.times(largest.onnx_bytes, measured.onnx_bytes)} smaller"
    return f"{other}  {units.percent(measured.val_acc)} %, {sizes}, {difference} points"
