"""dvc.yaml, params.yaml, code and dvc.lock against one another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netpress.base.errors import ConfigError
from netpress.base.words import some
from netpress.params import reader
from netpress.verify.dvc_lock import NAME, Lock, changed_values, read_yaml
from netpress.verify.findings import Finding
from netpress.verify.imports import missing_deps, needless_deps

#: How DVC calls what is not here; models and data are not in Git, so that says nothing about them.
ABSENT = ("deleted", "not in cache")
RERUN = "run 'dvc repro' and commit dvc.lock, metrics/ and plots/ together with the change"


def code_findings(root: Path) -> list[Finding]:
    """Find stages whose `deps` do not cover what they import, or name code that they do not import."""
    findings = []
    for name, stage in _stages(root).items():
        body = stage.get("do", stage)
        try:
            missing, needless = missing_deps(root, body), needless_deps(root, body)
        except (OSError, SyntaxError) as error:
            findings.append(
                Finding("error", f"dvc.yaml: {name}", f"its code cannot be read ({error})", "mend the file")
            )
            continue
        if missing:
            text = f"imports {', '.join(missing)}, and its deps do not say so: an edit there would not run it again"
            findings.append(Finding("error", f"dvc.yaml: {name}", text, "add them to the stage's deps"))
        if needless:
            text = f"deps name {', '.join(needless)}, which it does not import: an edit there would run it for nothing"
            findings.append(Finding("error", f"dvc.yaml: {name}", text, "take them from the stage's deps"))
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
    """Turn DVC's words, stage by stage, into one finding for each thing that changed."""
    params = reader.read(root / "params.yaml")
    since: dict[tuple[str, str], list[str]] = {}
    outputs: dict[str, str] = {}
    for stage, entries in status.items():
        for entry in entries:
            if not isinstance(entry, dict):
                continue  # "always changed": nothing to compare
            if "changed command" in entry:
                since.setdefault(("dvc.yaml", "the command changed"), []).append(stage)
            for path, what in entry.get("changed deps", {}).items():
                for change in _words(path, what, lock[stage].params, params):
                    since.setdefault(change, []).append(stage)
            for path, what in entry.get("changed outs", {}).items():
                if what not in ABSENT or path.startswith(("metrics/", "plots/")):
                    outputs[path] = f"{'is missing, unlike' if what in ABSENT else 'is not'} what {stage} made"
    findings = [
        Finding("error", where, f"{text} since {some(stages)} ran", RERUN) for (where, text), stages in since.items()
    ]
    return findings + [
        Finding("error", path, text, f"go back with 'git checkout -- {path}' or 'dvc checkout {path}', or {RERUN}")
        for path, text in outputs.items()
    ]


def _words(path: str, what: Any, old: Mapping[str, Any], params: Mapping[str, Any]) -> list[tuple[str, str]]:
    if path == "params.yaml" and isinstance(what, dict):
        found = []
        for key in what:
            for name, was, now in changed_values(old.get(key), _value(params, key), key):
                found.append((path, f"{name} changed from {was!r} to {now!r}"))
        return found
    if what in ABSENT and not path.startswith(("src/", "stages/", "metrics/")):
        return []
    return [(path, "was deleted" if what in ABSENT else "changed")]


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
