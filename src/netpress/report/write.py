"""Write every table and figure of the report, and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.base.files import csv_text, write_bytes, write_json, write_text
from netpress.report import claims, comparisons, experiments, overview, pareto
from netpress.report.choice import at_chance
from netpress.report.claims import Judged
from netpress.report.collect import Study, class_names
from netpress.report.curves import Curve, columns_of, curve_rows, drawn_curves
from netpress.report.data_line import TABLES, data_line
from netpress.report.differences import NOTE
from netpress.report.pareto import Point

INTRODUCTION = """\
# All models

Written by `dvc repro`. Accuracies are of the last epoch on the validation split; ± is the standard deviation over
seeds. MACs are multiply-adds for one image. ONNX is the size of the ONNX file, 1 MB = 1,000,000 bytes, and
*vs parent* and *vs largest* say how many times smaller it is. A model is on the *Pareto front* if no other is at
least as accurate and as small, and better in one of the two; otherwise the most accurate such model is named. A row is
*behind* that model if the difference in accuracy is real (all rows judged together), else *level with* it.
"""


SUMMARY = Path("metrics/summary.json")
CLAIMS = Path("metrics/claims.json")
CURVES = Path("plots/prune")


@dataclass(frozen=True)
class Report:
    """Every table of the report: content of the JSON and of the text files, by their path below the root."""

    numbers: dict[Path, dict[str, Any]]
    judged: Sequence[Judged]
    texts: dict[Path, str]
    curves: Sequence[Curve]
    points: Sequence[Point]
    halves: Mapping[str, float]


def make_report(root: Path, study: Study) -> Report:
    """Make the tables in memory; below `root` metrics/data.json alone is read."""
    curves = drawn_curves(study)
    points = pareto.points_of(study, [curve.model_id for curve in curves])
    on_front = pareto.front(points)
    models = [point for point in points if not point.is_round]
    beaten = pareto.behind(study, models, on_front)
    notes = [text for text in (_data_note(root), _missing_note(study), _chance_note(study)) if text]
    judged = claims.judge(study)
    shown = experiments.experiments_text(study, judged, class_names(root)) if study.experiments else ""
    texts = {
        TABLES: report_text(study, curves, on_front, beaten, notes, shown, claims.claims_table(judged)),
        Path("metrics/summary.csv"): csv_text(overview.csv_rows(study, beaten), overview.CSV_COLUMNS),
    }
    numbers = {SUMMARY: overview.summary(study), CLAIMS: claims.as_metrics(judged)}
    return Report(numbers, judged, texts | _curve_texts(curves), curves, points, pareto.intervals(study, models))


def write_report(root: Path, study: Study) -> list[Path]:
    """Write the tables, figures and the page below `root`; return the files written, relative to it.

    Files of curves that no longer exist are removed from `plots/prune/`.
    """
    report = make_report(root, study)
    for path, value in report.numbers.items():
        write_json(root / path, value)
    for path, text in report.texts.items():
        write_text(root / path, text)
    for stale in stale_curves(root, report):
        (root / stale).unlink()
    figures = _write_figures(root, study, report)
    return [*report.numbers, *report.texts, *figures, _write_page(root, study, report)]


def stale_curves(root: Path, report: Report) -> list[Path]:
    """Return the files of curves, relative to `root`, that the report does not have."""
    found = [path.relative_to(root) for path in sorted((root / CURVES).glob("*.csv"))]
    return [path for path in found if path not in report.texts]


def report_text(
    study: Study,
    curves: Sequence[Curve],
    on_front: Sequence[Point],
    beaten: Mapping[str, tuple[Point, bool]],
    notes: Sequence[str] = (),
    experiments_shown: str = "",
    claims_shown: str = "",
) -> str:
    """Return the Markdown report; sections without models are left out, and `notes` stand below the introduction."""
    sections = [
        ("Distillation", comparisons.distillation_table(study)),
        ("Compact designs, trained from scratch", comparisons.design_table(study)),
        ("Factorization", comparisons.change_table(study, "factorize")),
        ("Pruning, round by round", comparisons.pruning_table(study, curves, on_front)),
        ("Quantization", comparisons.change_table(study, "quantize")),
    ]
    texts = [INTRODUCTION, NOTE, *notes, overview.overview(study, beaten)]
    texts += [f"## Claims\n\n{claims_shown}"] if claims_shown else []
    texts += [experiments_shown] if experiments_shown else []
    texts += [f"## {title}\n\n{text}" for title, text in sections if text]
    return "\n".join(texts)


def _data_note(root: Path) -> str:
    """Say of which data the tables are and where to find the commit, which a file that it contains cannot name."""
    line = data_line(root)
    return f"{line}\nCommit: `git log -1 --format=%h -- {TABLES.as_posix()}`.\n" if line else ""


def _missing_note(study: Study) -> str:
    if not study.missing:
        return ""
    return f"**Not all models of params.yaml are made yet.** Left out: {', '.join(study.missing)}.\n"


def _chance_note(study: Study) -> str:
    found = [model.id for model in study.models if at_chance(study, model.id)]
    if not found:
        return ""
    return f"**No better than naming one class for every image**, so of no use as they are: {', '.join(found)}.\n"


def _curve_texts(curves: Sequence[Curve]) -> dict[Path, str]:
    columns = columns_of(curves)
    rows: list[dict[str, Any]] = [{"curve": c.name} | row for c in curves for row in curve_rows(c, columns)]
    together = {Path("plots/pruning_curves.csv"): csv_text(rows, ["curve", *columns])}
    return together | {CURVES / f"{c.name}.csv": csv_text(curve_rows(c, columns), columns) for c in curves}


def _write_figures(root: Path, study: Study, report: Report) -> list[Path]:
    # Drawing loads matplotlib; the tables do not need it.
    from netpress.report import claims_figure, distillation_figure, pruning_figure, size_figure

    pictures = {
        Path("plots/pruning_curves.png"): pruning_figure.draw(report.curves),
        Path("plots/accuracy_size.png"): size_figure.draw(report.points, report.halves),
        Path("plots/distillation.png"): distillation_figure.draw(study),
        Path("plots/claims.png"): claims_figure.draw(report.judged),
    }
    for path, png in pictures.items():
        write_bytes(root / path, png)
    return list(pictures)


def _write_page(root: Path, study: Study, report: Report) -> Path:
    # It is made of the report, and loads what only it needs.
    from netpress.report.page.build import write_page

    return write_page(root, study, report)
