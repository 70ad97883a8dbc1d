"""dvc.yaml, params.yaml, code and dvc.lock against one another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netpress.base.errors import ConfigError
from netpress.base.words import some
from netpress.params import reader
from netpress.verify.dvc_lock import NAME, Lock, changed_values, read_yaml
from netpress.verify.findings import Finding
from netpress.verify.imports import uncovered

#: In Git, so that a file that is not here was deleted. Models and data that lie here are looked at by `quick_local`.
TRACKED = ("src/", "stages/", "metrics/", "plots/")
RERUN = "run 'dvc repro' and commit dvc.lock, metrics/ and plots/ together with the change"


def code_findings(root: Path) -> list[Finding]:
    """Find stages whose `deps` do not cover what they import."""
    findings = []
    for name, stage in _stages(root).items():
        deps = stage.get("do", stage).get("deps", [])
        code = [dep for dep in deps if isinstance(dep, str) and dep.startswith(("src/", "stages/"))]
        if name == "check":
            continue  # its output never changes, so that no code matters to it
        try:
            missing = uncovered(root, code)
        except (OSError, SyntaxError) as error:
            text = f"its code cannot be read ({error})"
            findings.append(Finding("error", f"dvc.yaml: {name}", text, "fix the file"))
            continue
        if missing:
            text = f"imports {', '.join(missing)}, and its deps do not say so: an edit there would not run it again"
            findings.append(Finding("error", f"dvc.yaml: {name}", text, "add them to the stage's deps"))
    return findings


def lock_findings(root: Path, lock: Lock, status: Mapping[str, Any]) -> list[Finding]:
    """Find what differs from dvc.lock, stages that never ran, and entries that do not fit each other.

    `status` is of `changed_stages`.
    """
    wanted = _expanded(root)
    never = [name for name in wanted if name not in lock]
    findings = [Finding("error", f"{NAME}: {name}", "this stage of dvc.yaml has never run", RERUN) for name in never]
    findings += [
        Finding("warning", f"{NAME}: {name}", "dvc.yaml has no such stage any more", f"delete its entry from {NAME}")
        for name in lock
        if name not in wanted
    ]
    findings += _changed(root, lock, {stage: what for stage, what in status.items() if stage in lock})
    return findings + lineage(lock)


def lineage(lock: Lock) -> list[Finding]:
    """Find stages that read another content of an output than its stage made, according to dvc.lock alone."""
    made = {path: (stage, md5) for stage, entry in lock.items() for path, md5 in entry.outs.items()}
    findings = []
    for stage, entry in lock.items():
        for path, md5 in entry.deps.items():
            if path in made and made[path][1] != md5:
                maker, now = made[path]
                text = f"was made from {path} {md5[:12]}, but {maker} made {now[:12]}"
                findings.append(
                    Finding("error", f"{NAME}: {stage}", text, f"run 'dvc repro {stage}' and commit {NAME}")
                )
    return findings


def _changed(root: Path, lock: Lock, status: Mapping[str, Any]) -> list[Finding]:
    """Return one finding for each thing that changed, with the stages that read it.

    Of `status` the structure alone is read: which stage, which file, which key; what they are now is looked up.
    """
    params = reader.read(root / "params.yaml")
    since: dict[tuple[str, str], list[str]] = {}
    outputs: dict[str, str] = {}
    for stage, entries in status.items():
        parts = {part: names for entry in entries if isinstance(entry, dict) for part, names in entry.items()}
        changes = [("dvc.yaml", "the command changed")] if "changed command" in entries else []
        for path, what in parts.get("changed deps", {}).items():
            if isinstance(what, dict):  # keys of params.yaml
                for key in what:
                    values = changed_values(lock[stage].params.get(key), _value(params, key), key)
                    changes += [(path, f"{name} changed from {was!r} to {now!r}") for name, was, now in values]
            elif (root / path).exists():
                changes.append((path, "changed"))
            elif path.startswith(TRACKED):
                changes.append((path, "was deleted"))
        for change in changes:
            since.setdefault(change, []).append(stage)
        for path in parts.get("changed outs", {}):
            if path.startswith(TRACKED):
                outputs[path] = f"is {'not' if (root / path).exists() else 'missing, unlike'} what {stage} made"
    return [
        *(Finding("error", where, f"{text} since {some(by)} ran", RERUN) for (where, text), by in since.items()),
        *(
            Finding("error", path, text, f"go back with 'git checkout -- {path}', or {RERUN}")
            for path, text in outputs.items()
        ),
    ]


def _value(params: Mapping[str, Any], key: str) -> Any:
    value: Any = params
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _stages(root: Path) -> dict[str, Any]:
    graph = read_yaml(root / "dvc.yaml")
    stages = graph.get("stages") if isinstance(graph, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
        raise ConfigError("dvc.yaml has no stages; restore it from Git")
    return stages


def _expanded(root: Path) -> list[str]:
    """Return the names of all stages, those of a foreach as `stage@key`."""
    params = reader.read(root / "params.yaml")
    names = []
    for name, stage in _stages(root).items():
        each = stage.get("foreach")
        if each is None:
            names.append(name)
            continue
        items = _value(params, each.strip("${}")) if isinstance(each, str) else each
        names += [f"{name}@{key}" for key in items]
    return names
