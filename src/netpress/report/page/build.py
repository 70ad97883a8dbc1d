"""Build the page: reports/index.html, one file that needs no network and no data."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from netpress.base.files import write_text
from netpress.process import environment
from netpress.report import choice, environments, latency
from netpress.report.choice import Budget, Step
from netpress.report.collect import DATA, Study, class_names
from netpress.report.data_line import TABLES, data_line
from netpress.report.found import findings
from netpress.report.page import charts, vega
from netpress.report.page.charts import Axis
from netpress.report.page.models import Fold, fold_of
from netpress.report.pareto import Point
from netpress.report.write import Report

#: Not in the graph: it shows what was measured on this machine, which no hash may follow from.
PAGE = Path("reports/index.html")


def write_page(root: Path, study: Study, report: Report) -> Path:
    """Write the page below `root`; return its path, relative to it.

    Latencies, training curves, confusions and mistakes are shown where this machine has them.

    Raises:
        ArtifactError: a file that is read is damaged.
    """
    write_text(root / PAGE, page(root, study, report))
    return PAGE


def page(root: Path, study: Study, report: Report) -> str:
    """Return the page as text."""
    import jinja2
    from markupsafe import Markup

    records, timed = environment.load(root), _timed(root, study, report.points)
    classes = class_names(root) if (root / DATA).is_file() else []
    folds = [fold_of(root, study, model, classes, records) for model in study.models if model.id.round is None]
    axes = _axes(study, report.points, timed)
    values = {
        "title": f"netpress: {len(study.models)} networks",
        "data_line": data_line(root),
        "findings": list(findings(study)) if study.models else [],
        "axes": axes,
        "has_curves": bool(report.curves),
        "latency": Markup(_html(latency.latency_table(timed))) if timed else "",
        "tables": Markup(_html(_below(report.texts[TABLES]))),
        "folds": folds,
        "environments": Markup(_html(environments.note(study, records))),
        "css": Markup(_part("page.css")),
        "js": Markup(_part("page.js")),
        "vega": Markup(vega.script(root)),
        "content": Markup(_json(_content(study, report, axes, folds))),
    }
    loader = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return loader.from_string(_part("template.html")).render(values) + "\n"


def _timed(root: Path, study: Study, points: Sequence[Point]) -> latency.Records | None:
    """Return the latencies of the models as they are now, if any were measured here."""
    if not (root / latency.FILE).is_file():
        return None
    known = {point.id: study.measured(point.id).weights_sha256 for point in points}
    records = latency.of_now(latency.read(root), known)
    return records if records.models else None


def _axes(study: Study, points: Sequence[Point], timed: latency.Records | None) -> list[Axis]:
    """Return what models may be compared by, file size first."""
    titles = {"onnx_bytes": ("Size of the ONNX file", "B"), "params": ("Parameters", ""), "macs": ("Multiply-adds", "")}
    axes = [
        Axis(key, title, unit, {point.id: getattr(study.measured(point.id), key) for point in points})
        for key, (title, unit) in titles.items()
    ]
    if timed:
        known = {point.id: study.measured(point.id).weights_sha256 for point in points}
        axes.append(Axis("ms", "Milliseconds of an image, one thread", "ms", latency.milliseconds(timed, known)))
    return [axis for axis in axes if axis.costs]


def _content(study: Study, report: Report, axes: Sequence[Axis], folds: Sequence[Fold]) -> dict[str, Any]:
    """Return what the page's script draws and looks up."""
    curves = [curve.model_id for curve in report.curves]
    return {
        "axes": {
            axis.key: {
                "title": axis.title,
                "unit": axis.unit,
                "costs": sorted(axis.costs.values()),
                "front": charts.front_spec(study, report.points, report.halves, axis),
                "steps": [_step(study, step) for step in _steps(study, curves, axis)],
            }
            for axis in axes
        },
        "pruning": charts.pruning_spec(report.curves) if report.curves else None,
        "training": {fold.id: fold.training for fold in folds if fold.training},
    }


def _steps(study: Study, curves: Sequence[str], axis: Axis) -> list[Step]:
    def budget(limit: float) -> Budget:
        if axis.key == "ms":
            return Budget({}, most_ms=limit, milliseconds=axis.costs)
        return Budget({axis.key: limit})

    return choice.steps(study, curves, axis.costs, budget)


def _step(study: Study, step: Step) -> dict[str, Any]:
    return {"limit": step.limit, "text": choice.text(study, step.choice), "model": step.choice.id}


def _below(markdown: str) -> str:
    """Return the tables' text one level of headings deeper, without its title, which the page has."""
    lines = markdown.partition("\n")[2].splitlines()
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines)


def _html(markdown: str) -> str:
    """Return Markdown as HTML, tables in frames of their own that scroll by finger, wheel and keyboard."""
    from markdown_it import MarkdownIt

    html: str = MarkdownIt("commonmark").enable("table").render(markdown)
    frame = '<div class="frame" tabindex="0" role="region" aria-label="Table">'
    return html.replace("<table>", f"{frame}<table>").replace("</table>", "</table></div>")


def _json(content: Mapping[str, Any]) -> str:
    """Return JSON that may stand in a script element."""
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")


def _part(name: str) -> str:
    return package_files("netpress.report.page").joinpath(name).read_text(encoding="utf-8")
