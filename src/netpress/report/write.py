"""Write every table and figure of the report."""

from collections.abc import Sequence
from pathlib import Path

from netpress.base.files import write_bytes, write_csv, write_json, write_text
from netpress.report import comparisons, overview, pareto
from netpress.report.collect import Study
from netpress.report.curves import Curve, columns_of, curve_rows, drawn_curves
from netpress.report.pareto import Point

INTRODUCTION = """\
# All models

Written by `dvc repro`. Accuracies are of the last epoch on the validation split; ± is the standard deviation over
seeds. MACs are multiply-adds for one image. ONNX is the size of the ONNX file, 1 MB = 1,000,000 bytes, and
*vs parent* and *vs largest* say how many times smaller it is. A model is on the *Pareto front* if no other is at
least as accurate and as small, and better in one of the two; otherwise the most accurate such model is named.
"""


def write_report(root: Path, study: Study) -> list[Path]:
    """Write the tables and figures below `root`; return the files written, relative to it.

    Files of curves that no longer exist are removed from `plots/prune/`.
    """
    curves = drawn_curves(study)
    points = pareto.points_of(study, [curve.model_id for curve in curves])
    on_front = pareto.front(points)
    tables = _write_tables(root, study, curves, on_front)
    rows = _write_curves(root, curves)
    return [*tables, *rows, *_write_figures(root, study, curves, points)]


def report_text(study: Study, curves: Sequence[Curve], on_front: Sequence[Point]) -> str:
    """Return the Markdown report; sections without models are left out."""
    sections = [
        ("Distillation", comparisons.distillation_table(study)),
        ("Compact designs, trained afresh", comparisons.design_table(study)),
        ("Factorization", comparisons.change_table(study, "factorize")),
        ("Pruning, round by round", comparisons.pruning_table(curves, on_front)),
        ("Quantization", comparisons.change_table(study, "quantize")),
    ]
    texts = [INTRODUCTION, overview.overview(study, on_front)]
    texts += [f"## {title}\n\n{text}" for title, text in sections if text]
    return "\n".join(texts)


def _write_tables(root: Path, study: Study, curves: Sequence[Curve], on_front: Sequence[Point]) -> list[Path]:
    folder = Path("metrics")
    json, markdown, csv = folder / "summary.json", folder / "summary.md", folder / "summary.csv"
    write_json(root / json, overview.summary(study))
    write_text(root / markdown, report_text(study, curves, on_front))
    write_csv(root / csv, overview.csv_rows(study, on_front), overview.CSV_COLUMNS)
    return [json, markdown, csv]


def _write_curves(root: Path, curves: Sequence[Curve]) -> list[Path]:
    columns, folder, together = columns_of(curves), Path("plots/prune"), Path("plots/pruning_curves.csv")
    rows = [{"curve": curve.name} | row for curve in curves for row in curve_rows(curve, columns)]
    write_csv(root / together, rows, ["curve", *columns])
    written = [folder / f"{curve.name}.csv" for curve in curves]
    for path, curve in zip(written, curves, strict=True):
        write_csv(root / path, curve_rows(curve, columns), columns)
    for stale in sorted((root / folder).glob("*.csv")):
        if folder / stale.name not in written:
            stale.unlink()
    return [together, *written]


def _write_figures(root: Path, study: Study, curves: Sequence[Curve], points: Sequence[Point]) -> list[Path]:
    # Drawing loads matplotlib; the tables do not need it.
    from netpress.report import distillation_figure, pruning_figure, size_figure

    pictures = {
        Path("plots/pruning_curves.png"): pruning_figure.draw(curves),
        Path("plots/accuracy_size.png"): size_figure.draw(points),
        Path("plots/distillation.png"): distillation_figure.draw(study),
    }
    for path, png in pictures.items():
        write_bytes(root / path, png)
    return list(pictures)
