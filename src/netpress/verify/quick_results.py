"""Tables against the metrics that they show, and files of models that params.yaml does not have."""

import json
from pathlib import Path
from typing import Any

from netpress.base.errors import ArtifactError
from netpress.base.project import MODEL_STAGES
from netpress.params.whole import Params
from netpress.process import environment
from netpress.report.collect import collect, stale_metrics
from netpress.report.write import make_report, stale_curves
from netpress.verify.findings import Finding

AGGREGATE = "run 'dvc repro --force --single-item aggregate' and commit metrics/, plots/ and dvc.lock"


def table_findings(root: Path, params: Params) -> list[Finding]:
    """Find metrics that are missing, damaged or of other weights, and tables that do not follow from them."""
    try:
        study = collect(root, params.items(), params.final, params.claims, params.experiments)
        report = make_report(root, study)
    except ArtifactError as error:
        where, _, text = str(error).partition(" ")
        return [Finding("error", where, text, "the tables are checked after that")]
    wrong = [path for path, text in report.texts.items() if _read(root / path) != text.encode("utf-8")]
    wrong += [path for path, value in report.numbers.items() if _json(root / path) != value]
    findings = [
        Finding("error", path.as_posix(), "does not follow from params.yaml and metrics/", AGGREGATE) for path in wrong
    ]
    return findings + [
        Finding("warning", path.as_posix(), "shows a curve that params.yaml does not have", AGGREGATE)
        for path in stale_curves(root, report)
    ]


def orphans(root: Path, params: Params) -> list[Finding]:
    """Find metrics, records of environments and model folders of variants that params.yaml does not have."""
    text, items, final = "params.yaml has no such model", params.items(), params.final
    findings = [Finding("warning", path.as_posix(), text, AGGREGATE) for path in stale_metrics(root, items, final)]
    file = environment.FILE.as_posix()
    try:
        recorded = environment.load(root).results
    except ArtifactError as error:
        return [*findings, Finding("error", file, str(error), environment.REMEDY)]
    wanted = environment.results_of(items, final)
    findings += [
        Finding("warning", f"{file}: {result}", text, AGGREGATE) for result in recorded if result not in wanted
    ]
    folders = [path for stage in MODEL_STAGES for path in sorted((root / "models" / stage).glob("*")) if path.is_dir()]
    for folder in folders:
        if folder.relative_to(root / "models").as_posix() not in items:
            name = folder.relative_to(root).as_posix()
            findings.append(Finding("warning", name, text, f"delete the folder: rm -r {name}"))
    return findings


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _json(path: Path) -> Any:
    try:
        return json.loads(_read(path) or b"")
    except ValueError:
        return None
