"""Build the page: reports/index.html, one file that needs no network and no data."""

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from netpress.base.errors import NetpressError
from netpress.base.files import write_text
from netpress.process import environment
from netpress.report import choice, environments, found, latency
from netpress.report.choice import Budget, Step
from netpress.report.collect import DATA, Study, class_names
from netpress.report.data_line import START, TABLES, data_line
from netpress.report.page import charts, vega
from netpress.report.page.front import Axis, front_spec
from netpress.report.page.models import Entry, entry_of
from netpress.report.write import Report

#: Not in the graph: it shows what was measured on this machine, which no hash may follow from.
PAGE = Path("reports/index.html")
AXES = {
    "onnx_bytes": ("Size of the ONNX file", "B"),
    "params": ("Parameters", "parameters"),
    "macs": ("MACs of an image", "MACs"),
}
MS = "ms"


def write_page(root: Path, study: Study, report: Report) -> Path:
    """Write the page below `root`; return its path, relative to it.

    Latencies, training curves, confusions and mistakes are shown where this machine has them.

    Raises:
        ArtifactError: the metrics of the data or the record of environments is damaged.
    """
    write_text(root / PAGE, page(root, study, report))
    return PAGE


def page(root: Path, study: Study, report: Report) -> str:
    """Return the page as text."""
    import jinja2
    from markupsafe import Markup

    records, timed = environment.load(root), _timed(root, study, report)
    classes = class_names(root) if (root / DATA).is_file() else []
    entries = [entry_of(root, study, model, classes, records) for model in study.models if model.id.round is None]
    axes = _axes(study, report, timed)
    scripts = {"vega": vega.script(root), "js": _part("page.js")}
    values = {
        "data": data_line(root).removeprefix(START),
        "commit": _commit(root),
        "best": found.best_for_size(study) if study.models else [],
        "verdicts": found.verdicts(report.judged),
        "left_out": ", ".join(study.missing),
        "axes": axes,
        "has_curves": bool(report.curves),
        "latency": Markup(_html(latency.latency_table(timed))) if timed else "",
        "tables": Markup(_html(_below(report.texts[TABLES]))),
        "entries": entries,
        "environments": Markup(_html(environments.note(study, records))),
        "css": Markup(_part("page.css")),
        "policy": " ".join(f"'sha256-{_sha256(text)}'" for text in scripts.values()),
        "content": Markup(_json(_content(study, report, axes, entries))),
    } | {name: Markup(text) for name, text in scripts.items()}
    loader = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return loader.from_string(_part("template.html")).render(values) + "\n"


def _timed(root: Path, study: Study, report: Report) -> latency.Records | None:
    """Return the latencies of the models as they are now, if any were measured here; a damaged file is passed over."""
    if not (root / latency.FILE).is_file():
        return None
    try:
        records = latency.read(root)
    except NetpressError as error:
        print(f"note: the page shows no latencies: {error}", file=sys.stderr)
        return None
    records = latency.of_now(records, {p.id: study.measured(p.id).weights_sha256 for p in report.points})
    return records if records.models else None


def _axes(study: Study, report: Report, timed: latency.Records | None) -> list[Axis]:
    """Return what models may be compared by, file size first."""
    axes = [
        Axis(key, title, unit, {point.id: getattr(study.measured(point.id), key) for point in report.points})
        for key, (title, unit) in AXES.items()
    ]
    if timed:
        axes.append(Axis(MS, "Time of an image on one thread", "ms", latency.at(timed)))
    return [axis for axis in axes if axis.costs]


def _content(study: Study, report: Report, axes: Sequence[Axis], entries: Sequence[Entry]) -> dict[str, Any]:
    """Return what the page's script draws and looks up."""
    return {
        "axes": {
            axis.key: {
                "unit": axis.unit,
                "costs": dict(axis.costs),
                "front": front_spec(study, report.points, report.halves, report.curves, axis),
                "steps": [_step(study, step) for step in _steps(study, report, axis)],
            }
            for axis in axes
        },
        "pruning": charts.pruning_spec(report.curves) if report.curves else None,
        "training": {entry.id: entry.training for entry in entries if entry.training},
    }


def _steps(study: Study, report: Report, axis: Axis) -> list[Step]:
    def budget(limit: float) -> Budget:
        if axis.key == MS:
            return Budget({}, most_ms=limit, milliseconds=axis.costs)
        return Budget({axis.key: limit})

    return choice.steps(study, [curve.model_id for curve in report.curves], axis.costs, budget)


def _step(study: Study, step: Step) -> dict[str, Any]:
    return {"limit": step.limit, "text": choice.text(study, step.choice), "model": step.choice.id}


def _commit(root: Path) -> str:
    """Return the short name of the commit that is checked out, with a word where files differ; '' without Git."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        name = git("rev-parse", "--short", "HEAD")
    except FileNotFoundError:
        return ""
    changed = name and git("status", "--porcelain", "--untracked-files=no")
    return f"{name}, with changes" if changed else name


def _below(markdown: str) -> str:
    """Return the tables' text one level of headings deeper, without its title, which the page has."""
    lines = markdown.partition("\n")[2].splitlines()
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines)


def _html(markdown: str) -> str:
    """Return Markdown as HTML, tables in frames of their own that scroll by finger, wheel and keyboard."""
    from markdown_it import MarkdownIt

    html: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    frame = '<div class="frame" tabindex="0" role="region" aria-label="Table">'
    return html.replace("<table>", f"{frame}<table>").replace("</table>", "</table></div>")


def _json(content: Mapping[str, Any]) -> str:
    """Return JSON that may stand in a script element."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _part(name: str) -> str:
    return package_files("netpress.report.page").joinpath(name).read_text(encoding="utf-8")
