"""Models and data that lie here, byte by byte: DVC itself trusts size and time of a file it has hashed before."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netpress.base.errors import ArtifactError
from netpress.base.files import read_checked
from netpress.base.model_id import ModelId
from netpress.base.project import PREPARED, metrics_file
from netpress.verify.findings import Finding


def data_findings(root: Path) -> list[Finding]:
    """Find prepared arrays that are not those of their manifest; nothing where there are none."""
    folder = root / PREPARED
    if not folder.exists():
        return []
    from netpress.core.dataset import REMEDY, load_manifest

    findings = []
    try:
        manifest = load_manifest(folder)
    except ArtifactError as error:
        return [_finding(root, folder, error)]
    for name, sha256 in manifest.sha256.items():
        try:
            read_checked(folder / name, sha256, REMEDY)
        except ArtifactError as error:
            findings.append(_finding(root, folder, error))
    return findings


def model_findings(root: Path, items: Mapping[str, Any]) -> list[Finding]:
    """Find model files that are not those of their spec, and models that are not those of the committed metrics."""
    here = [model_id for model_id in items if ModelId(model_id).folder(root).exists()]
    if not here:
        return []
    # These load torch, which a clone without models can do without.
    from netpress.base.model_files import SPEC
    from netpress.core.artifacts import read_file, read_spec, seed_folder

    findings = []
    for model_id in here:
        folder = ModelId(model_id).folder(root)
        seeds = sorted(path.parent for path in folder.rglob(SPEC))
        try:
            shipped = seed_folder(folder, None)
            for seed in seeds:
                spec = read_spec(seed)
                for name in spec.sha256:
                    read_file(seed, spec, name)
            weights = read_spec(shipped).weights_sha256
        except ArtifactError as error:
            findings.append(_finding(root, folder, error))
            continue
        if weights != _weights_of(metrics_file(root, model_id)):
            findings.append(
                Finding(
                    "error",
                    folder.relative_to(root).as_posix(),
                    f"its weights are not those that metrics/{model_id}.json describes",
                    "run 'dvc checkout' for the committed models, or 'dvc repro' to make them again",
                )
            )
    return findings


def _finding(root: Path, folder: Path, error: ArtifactError) -> Finding:
    text, _, remedy = str(error).replace(f"{root}/", "").rpartition("; ")
    return Finding("error", folder.relative_to(root).as_posix(), text, remedy)


def _weights_of(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes()).get("weights_sha256")
    except (OSError, ValueError, AttributeError):  # the tables' check names the file
        return None
