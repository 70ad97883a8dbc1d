"""Outputs that a clone lacks and a DVC remote may hold."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from netpress.base.errors import NetpressError
from netpress.process.commands import execute

#: What DVC says of a file that is not here, as opposed to one that is another.
ABSENT = {"deleted", "not in cache"}


def to_pull(root: Path, changed: Mapping[str, Any]) -> str:
    """Return a line on 'dvc pull' where stages lack nothing but their files and a remote is the default; else "".

    Args:
        root: the project's folder.
        changed: what DVC says of each stage that is not up to date, as `changed_stages` returns it.
    """
    lacking = [stage for stage, changes in changed.items() if _lacks_files_alone(changes)]
    if not lacking or not (remote := _default_remote(root)):
        return ""
    stages = "1 stage" if len(lacking) == 1 else f"{len(lacking)} stages"
    fetch = f"'dvc pull' fetches them from the remote '{remote}', or a run makes them again"
    return f"nothing but the outputs of {stages} is missing here: {fetch}"


def _lacks_files_alone(changes: Any) -> bool:
    if not any(isinstance(change, Mapping) and "changed outs" in change for change in changes):
        return False
    return set(_states(changes)) <= ABSENT


def _states(changes: Any) -> Iterator[str]:
    """Yield every word of what DVC says of a stage; params are nested one level deeper than files."""
    if isinstance(changes, str):
        yield changes
    else:
        for inner in changes.values() if isinstance(changes, Mapping) else changes:
            yield from _states(inner)


def _default_remote(root: Path) -> str:
    try:
        return execute(root, [sys.executable, "-m", "dvc", "config", "core.remote"]).strip()
    except NetpressError:  # none is set
        return ""
