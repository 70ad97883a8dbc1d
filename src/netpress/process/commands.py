"""Git and DVC, run in a project's folder."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netpress.base.errors import NetpressError


def has_git(root: Path) -> bool:
    """Whether the project is the root of a Git repository."""
    return (root / ".git").exists()


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


def changed_stages(root: Path) -> dict[str, Any]:
    """Return what DVC says of every stage that is not up to date: never run, or changed since; stage -> its words."""
    without_git(root)
    found = json.loads(execute(root, [sys.executable, "-m", "dvc", "status", "--json"]))
    return found if isinstance(found, dict) else {}
