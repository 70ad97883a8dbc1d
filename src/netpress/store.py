"""Finished seeds, kept outside the graph, so that adding a seed trains only the new one.

DVC empties a stage's outputs before it runs. Each finished seed of a variant is therefore kept under
`.netpress/finished/<stage>/<variant>/seed_<k>/` with a fingerprint of all it follows from: params, data,
parent, code and library versions. Another fingerprint means that it is trained again.
"""

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from netpress.base import files
from netpress.base.errors import ArtifactError

STORE = ".netpress/finished"
RECORD = "record.json"
LIBRARIES = ("torch", "numpy", "onnx", "onnxscript", "onnxruntime", "safetensors", "tensorly", "torch-pruning")
#: Parts of the package that no trained model depends on.
UNRELATED = ("report", "cli", "sources", "graph.py", "profiles.py", "__main__.py")


def fingerprint(facts: dict[str, Any], scripts: Path) -> str:
    """Return a hash of `facts` (JSON), of the code in the package and in `scripts`, and of the libraries' versions."""
    package = Path(__file__).parent
    code = {
        path.relative_to(folder).as_posix(): files.sha256_file(path)
        for folder in (package, scripts)
        for path in sorted(folder.rglob("*.py"))
        if path.relative_to(folder).parts[0] not in UNRELATED
    }
    versions = {name: version(name) for name in LIBRARIES}
    text = json.dumps([facts, code, versions], sort_keys=True, allow_nan=False)
    return files.sha256_bytes(text.encode())


def finished_seed(
    root: Path, model_id: str, seed: int, print_of: str, make: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """Put the files of one seed into the variant's folder, made by `make` unless they were finished before.

    Args:
        root: the project.
        model_id: `<stage>/<variant>`.
        seed: which seed.
        print_of: the fingerprint of all that the seed follows from.
        make: writes the seed's files below the folder it is given and returns the seed's metrics.

    Returns:
        The seed's metrics.
    """
    kept = root / STORE / model_id / f"seed_{seed}"
    record = _read_record(kept / RECORD)
    if record is not None and record["fingerprint"] == print_of and _intact(kept, record):
        print(f"{model_id} seed {seed}: finished before with the same params, data and code; taken from {STORE}")
    else:
        shutil.rmtree(kept, ignore_errors=True)
        metrics = make(kept / "files")
        record = {"fingerprint": print_of, "metrics": metrics, "sha256": _hashes(kept)}
        files.write_json(kept / RECORD, record)
    shutil.copytree(kept / "files", root / "models" / model_id, dirs_exist_ok=True)
    metrics = record["metrics"]
    if not isinstance(metrics, dict):
        raise ArtifactError(f"{kept / RECORD} is damaged; delete {kept} and run again")
    return metrics


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    wanted = {"fingerprint", "metrics", "sha256"}
    return record if isinstance(record, dict) and wanted <= record.keys() else None


def _hashes(kept: Path) -> dict[str, str]:
    found = sorted(p for p in (kept / "files").rglob("*") if p.is_file())
    return {path.relative_to(kept).as_posix(): files.sha256_file(path) for path in found}


def _intact(kept: Path, record: dict[str, Any]) -> bool:
    return _hashes(kept) == record["sha256"]
