"""A clean copy of the commit in a folder of its own, and commands that run in it."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netpress.base.errors import NetpressError
from netpress.base.files import sha256_file
from netpress.base.project import WEIGHTS
from netpress.params.document import read_document
from netpress.params.items import Data
from netpress.process.commands import git, has_git, without_git
from netpress.verify import dvc_lock as lock

#: What a run leaves behind, at any depth; a project without Git has nothing else that says so.
LEFT_BEHIND = shutil.ignore_patterns(".git", ".venv", ".netpress", "__pycache__", "*.pyc", ".*_cache", ".hypothesis")
#: The same, below the project's folder.
MADE = {"data/prepared", "data/checked", "data/downloads", "reports", ".dvc/cache", ".dvc/tmp"}
RESULTS = ("dvc.lock", "metrics", "plots")


@dataclass(frozen=True)
class Clone:
    """The clean copy: its folder, the commit ("" without Git), and changed files of the original that it lacks."""

    folder: Path
    commit: str
    left_out: tuple[str, ...]

    @property
    def seed(self) -> str:
        """What a sample is drawn by: another commit draws another one."""
        return self.commit or sha256_file(self.folder / lock.NAME)


@contextmanager
def clean_clone(root: Path, keep: bool) -> Iterator[Clone]:
    """Yield a clean copy of the project; it is removed at the end, however that comes, unless `keep`.

    Raises:
        NetpressError: results are changed and not committed, or there are none.
    """
    work = Path(tempfile.mkdtemp(prefix="netpress-verify-"))
    folder = work / "project"
    try:
        clone = _git_clone(root, folder) if has_git(root) else _copy(root, folder)
        _link_data(root, folder)
        yield clone
    finally:
        if keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)


def _git_clone(root: Path, folder: Path) -> Clone:
    status = git(root, "status", "--porcelain", "--untracked-files=all", "--no-renames", "-z").split("\0")
    changed = [line[3:] for line in status if line]
    results = [name for name in changed if name.split("/")[0] in RESULTS]
    if results:
        raise NetpressError(
            f"results are changed and not committed ({_some(results)}), and only what is committed can be verified; "
            "commit them together with the change that made them, or go back with 'git checkout -- dvc.lock metrics "
            "plots', and run again"
        )
    commit = git(root, "rev-parse", "HEAD").strip()
    git(root, "clone", "--quiet", "--no-checkout", ".", str(folder))
    git(folder, "checkout", "--quiet", "--detach", commit)
    _require_lock(folder, "is not committed: run 'dvc repro' and commit dvc.lock, metrics/ and plots/")
    return Clone(folder, commit, tuple(changed))


def _copy(root: Path, folder: Path) -> Clone:
    def ignore(parent: str, names: list[str]) -> set[str]:
        here = Path(parent).relative_to(root).as_posix()
        made = {name for name in names if (f"{here}/{name}" if here != "." else name) in MADE}
        models = {name for name in names if here == "models" and name != "none"}
        return set(LEFT_BEHIND(parent, names)) | made | models

    shutil.copytree(root, folder, ignore=ignore, symlinks=True)
    _require_lock(folder, "is missing: run 'dvc repro'")
    without_git(folder)
    return Clone(folder, "", ())


def _link_data(root: Path, folder: Path) -> None:
    """Give the clone the user's own data, and weights trained elsewhere, where they are not in Git."""
    weights = [path.relative_to(root).as_posix() for path in sorted((root / WEIGHTS).glob("*"))]
    document = read_document(folder / "params.yaml")
    with document.located():
        data = document.section(Data, "data").root  # not there yet, perhaps: `reader.for_data` would refuse it
    for name in (data, *weights):
        if (root / name).exists() and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to((root / name).resolve())


def _require_lock(folder: Path, fault: str) -> None:
    if not (folder / lock.NAME).is_file():
        raise NetpressError(f"{lock.NAME} {fault}; there is nothing to verify yet")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
