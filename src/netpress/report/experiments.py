"""A study's experiments: its figures beside ours, and what our run shows about them."""

from collections.abc import Sequence

from netpress.params.whole import Experiment, Published
from netpress.report import units
from netpress.report.claims import Judged
from netpress.report.collect import Measured, Study
from netpress.report.differences import Accuracy, Differences
from netpress.report.markdown import table
from netpress.report.observations import observations
from netpress.report.overview import accuracy


def experiments_text(study: Study, judged: Sequence[Judged], classes: Sequence[str]) -> str:
    """Return a section for each experiment: table, note, the claims about its models, and what the run shows."""
    return "\n".join(_section(study, experiment, judged, classes) for experiment in study.experiments.values())


def _section(study: Study, experiment: Experiment, judged: Sequence[Judged], classes: Sequence[str]) -> str:
    models = [row.model for row in experiment.rows]
    parts = [f"## {experiment.title}\n", _table(study, experiment.rows)]
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


def _table(study: Study, rows: Sequence[Published]) -> str:
    """Return the study's figures beside ours; where it printed none, ours beside those of the first row."""
    columns: dict[str, list[str]] = {"Row": [row.label for row in rows], "Model": [row.model for row in rows]}
    ours = [study.measured(row.model) for row in rows]
    if any(row.val_acc is not None for row in rows):
        columns["Study (%)"] = [units.percent(row.val_acc) if row.val_acc is not None else "-" for row in rows]
        title = "Difference (points)"
        apart = [
            units.points(m.val_acc - row.val_acc) if row.val_acc is not None else "-"
            for m, row in zip(ours, rows, strict=True)
        ]
    else:
        first, *others = [Accuracy(row.model) for row in rows]
        differences = Differences(study, [(first, other) for other in others])
        title, apart = "Against the first (points)", ["-", *(differences.words(first, other) for other in others)]
    columns["Ours (%)"] = [accuracy(measured) for measured in ours]
    columns[title] = apart
    columns["n"] = [f"{measured.n_seeds}" for measured in ours]
    if any(row.size for row in rows):
        columns["Study's size"] = [row.size or "-" for row in rows]
    sizes = [_sizes(measured) for measured in ours]
    columns |= {name: [size[name] for size in sizes] for name in sizes[0]}
    return table(list(columns), [list(cells) for cells in zip(*columns.values(), strict=True)], left=2)


def _sizes(measured: Measured) -> dict[str, str]:
    return {
        "Params": f"{measured.params:,}",
        "MACs": units.short_count(measured.macs),
        "Checkpoint": units.size(measured.checkpoint_bytes) if measured.checkpoint_bytes else "-",
        "ONNX": units.size(measured.onnx_bytes),
    }
