"""dvc.lock while several DVCs write it: never taken half-written, and in the order in which one DVC would write it."""

import re
from collections.abc import Iterable
from pathlib import Path

from netpress.base import files

NAME = "dvc.lock"
#: Which entries dvc.lock had before a run that has not come to its end.
BEFORE = Path(".netpress/dvc_lock_before.json")
HEAD = "schema: '2.0'\nstages:\n"
#: An entry of a stage: its name, and deeper lines.
_ENTRY = re.compile(r"  (\S.*):\n(?:    .*\n)+")


class LockFile:
    """dvc.lock of a project, as DVC last wrote it to its end.

    DVC holds a lock of its own while it writes, but truncates the file: who reads beside it, or ends it in that moment,
    finds a part. `graph` is every stage, in the order in which one DVC runs them.
    """

    def __init__(self, root: Path, graph: Iterable[str]) -> None:
        self._path, self._note, self._graph = root / NAME, root / BEFORE, tuple(graph)
        self._whole = self._first = _entries(self._path)
        if not self._note.exists():
            files.write_json(self._note, list(self._first))

    def moved(self, stage: str) -> bool:
        """Whether the outputs of `stage`, whose job has ended, are others than before the run; True in doubt."""
        entry = self._read().get(stage)
        return entry is None or _outs(entry) != _outs(self._first.get(stage, ""))

    def settle(self, complete: bool) -> None:
        """Put the file in order once the last DVC has ended: entries where they were, new ones as one DVC appends them.

        `complete` says that the run has come to its end: the next one takes the order that this one leaves.
        """
        entries = self._read()
        before = files.read_json(self._note, f"delete {BEFORE}")
        order = [stage for stage in dict.fromkeys([*before, *self._graph, *entries]) if stage in entries]
        if entries and list(_entries(self._path)) != order:
            files.write_text(self._path, HEAD + "".join(entries[stage] for stage in order))
        if complete:
            self._note.unlink()

    def _read(self) -> dict[str, str]:
        """Return the entries as they are now, or, of a file that is not whole, as they last were."""
        now = _entries(self._path)
        if self._whole.keys() <= now.keys():
            self._whole = now
        return self._whole


def forget(root: Path) -> None:
    """Take dvc.lock as it is from now on: whatever run had not come to its end, somebody else has ended it."""
    (root / BEFORE).unlink(missing_ok=True)


def _entries(path: Path) -> dict[str, str]:
    """Return stage -> its lines; nothing of a file that does not hold those alone."""
    text = path.read_text(encoding="utf-8").removeprefix(HEAD) if path.exists() else ""
    found = {match[1]: match[0] for match in _ENTRY.finditer(text)}
    return found if "".join(found.values()) == text else {}


def _outs(entry: str) -> str:
    return entry.partition("\n    outs:\n")[2]
