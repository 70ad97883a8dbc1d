"""A clean copy of the commit in a folder of its own, and commands that run in it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netpress.base import params_file
from netpress.base.errors import NetpressError
from netpress.base.files import sha256_file
from netpress.base.project import WEIGHTS
from netpress.config import Data
from netpress.verify import lock

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


def has_git(root: Path) -> bool:
    """Whether the project is the root of a Git repository."""
    return (root / ".git").exists()


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
    document = params_file.read(folder / "params.yaml")
    with document.located():
        data = document.section(Data, "data").root  # not there yet, perhaps: `reader.for_data` would refuse it
    for name in (data, *weights):
        if (root / name).exists() and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to((root / name).resolve())


def _require_lock(folder: Path, fault: str) -> None:
    if not (folder / lock.NAME).is_file():
        raise NetpressError(f"{lock.NAME} {fault}; there is nothing to verify yet")


def without_git(root: Path) -> None:
    """Let DVC work in a folder that is no Git repository, as `make repro` does."""
    config = root / ".dvc/config.local"
    if not has_git(root) and "no_scm" not in (config.read_text(encoding="utf-8") if config.is_file() else ""):
        execute(root, [sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true"])


def git(root: Path, *command: str) -> str:
    """Run Git in `root` and return what it prints."""
    return execute(root, ["git", *command])


def execute(root: Path, command: Sequence[str]) -> str:
    """Run a command in `root` and return what it prints.

    Raises:
        NetpressError: it is not installed or fails; quotes its last line.
    """
    try:
        done = subprocess.run(command, cwd=root, env=environ(root), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NetpressError(f"{command[0]} is missing; install it and run again") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        words = " ".join(command).replace(f"{sys.executable} -m ", "")
        raise NetpressError(f"'{words}' failed in {root}: {lines[-1].strip()}")
    return done.stdout


def environ(root: Path) -> dict[str, str]:
    """Return the environment for commands in `root`: its own code, this interpreter, no one's Git or DVC settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_"))}
    bin_folder = str(Path(sys.executable).parent)
    path = f"{bin_folder}{os.pathsep}{inherited.get('PATH', '')}"
    return inherited | {"PYTHONPATH": str(root / "src"), "PATH": path, "PYTHONUNBUFFERED": "1"}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
