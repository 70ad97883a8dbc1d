"""A tree of files of which nothing outside is read and nothing but plain files is opened."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from netpress.base.errors import DataError
from netpress.ingest.archives import FINDER, printable

#: Folders left out that one note names.
NAMED = 3


@dataclass(frozen=True)
class Tree:
    """The folder `root`, which messages call `shown`.

    Hidden folders and macOS's `__MACOSX` hold no pictures of the user's: nothing below them is listed, and `left_out`
    gets their names.
    """

    root: Path
    shown: str
    left_out: set[str] = field(default_factory=set)

    def show(self, path: Path) -> str:
        """Return what a message calls a path below the root."""
        below = path.relative_to(self.root).as_posix()
        return printable(self.shown if below == "." else f"{self.shown}/{below}")

    def folders(self, folder: Path) -> list[Path]:
        """Return the folders in `folder`, sorted, without those that are left out.

        Raises:
            DataError: it cannot be read, a name cannot be shown, or a link leads out of the root.
        """
        found = [Path(entry.path) for entry in self._scan(folder) if entry.is_dir() and entry.name[0] != "."]
        for place in found:
            if not place.name.isprintable():
                raise DataError(f"{self.show(place)}: a folder's name that is not plain UTF-8 text; rename it")
            self._require_inside(place)
        return sorted(found)

    def others(self, folder: Path) -> list[str]:
        """Return the names of what is no folder in `folder`, sorted and ready to be shown."""
        return sorted(printable(entry.name) for entry in self._scan(folder) if not entry.is_dir())

    def files(self, folder: Path) -> list[str]:
        """Return names below `folder` of all that is no folder, also of linked folders, which are not followed.

        Hidden files are left out too. The order is that of the names' parts.

        Raises:
            DataError: a folder cannot be read, or a link leads out of the root.
        """
        found, waiting = [], [folder]
        prefix = len(os.fspath(folder)) + 1
        while waiting:
            for entry in self._scan(waiting.pop()):
                if entry.is_symlink():
                    self._require_inside(Path(entry.path))
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.name[0] != ".":
                    found.append(entry.path[prefix:])
        return sorted(found, key=lambda name: name.replace("/", "\0"))

    def notes(self) -> tuple[str, ...]:
        """Return a note of the folders that were left out, if there are any."""
        names = sorted(self.left_out)
        if not names:
            return ()
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return (f"left out {len(names)} hidden or {FINDER} folders: {', '.join(names[:NAMED])}{more}",)

    def _scan(self, folder: Path) -> list["os.DirEntry[str]"]:
        """Return what is in `folder` but for folders that are left out, which are noted."""
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except OSError as error:
            raise DataError(f"{self.show(folder)} cannot be read ({error.strerror}); fix it or move it away") from None
        strays = [e for e in found if (e.name[0] == "." or e.name == FINDER) and e.is_dir(follow_symlinks=False)]
        self.left_out.update(self.show(Path(entry.path)) for entry in strays)
        return [entry for entry in found if entry not in strays]

    def _require_inside(self, path: Path) -> None:
        try:
            inside = path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):  # a link to itself: named when it is read
            return
        if not inside:
            raise DataError(f"{self.show(path)} leads out of {self.shown}; copy the picture instead of linking it")
