"""A study's experiments: its figures beside ours, and what our run shows about them."""

from collections.abc import Sequence

from netpress.config import Experiment, Published
from netpress.report import units
from netpress.report.claims import Judged
from netpress.report.collect import Study
from netpress.report.evidence import observations
from netpress.report.markdown import table
from netpress.report.overview import accuracy

HEADER = ("Row", "Model", "Study (%)", "Ours (%)", "Difference (points)", "n", "Study's size", "Params", "MACs")
SIZES = ("Checkpoint", "ONNX")


def experiments_text(study: Study, judged: Sequence[Judged], classes: Sequence[str]) -> str:
    """Return a section for each experiment: table, note, the claims about its models, and what the run shows."""
    return "\n".join(_section(study, experiment, judged, classes) for experiment in study.experiments.values())


def _section(study: Study, experiment: Experiment, judged: Sequence[Judged], classes: Sequence[str]) -> str:
    models = [row.model for row in experiment.rows]
    rows = [_row(study, row) for row in experiment.rows]
    parts = [f"## {experiment.title}\n", table([*HEADER, *SIZES], rows, left=2)]
    if experiment.note:
        parts.append(f"{experiment.note.strip()}\n")
    verdicts = [f"- {c.name}, {c.text}: **{c.verdict}**.\n" for c in judged if _compared(c) <= set(models)]
    if verdicts:
        parts.append("".join(verdicts))
    seen = observations(study, models, classes)
    if seen:
        parts.append("What the run shows:\n\n" + "".join(f"- {sentence}\n" for sentence in seen))
    return "\n".join(parts)


def _compared(claim: Judged) -> set[str]:
    return {model for comparison in claim.comparisons for model in (comparison.first, comparison.second)}


def _row(study: Study, row: Published) -> list[str]:
    measured = study.measured(row.model)
    return [
        row.label,
        row.model,
        units.percent(row.val_acc) if row.val_acc is not None else "-",
        accuracy(measured),
        units.points(measured.val_acc - row.val_acc) if row.val_acc is not None else "-",
        f"{measured.n_seeds}",
        row.size or "-",
        f"{measured.params:,}",
        units.short_count(measured.macs),
        units.size(measured.checkpoint_bytes) if measured.checkpoint_bytes else "-",
        units.size(measured.onnx_bytes),
    ]
