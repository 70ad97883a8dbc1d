"""`netpress run`, and at its end which files of the commit it has changed and whether that is expected.

`make repro` runs this. The exit code is that of `netpress run`, which also gets Ctrl-C and other signals as if alone.
"""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from netpress.base import files
from netpress.base.errors import NetpressError
from netpress.base.project import find_root
from netpress.base.words import some
from netpress.process import environment
from netpress.process.commands import git, has_git
from netpress.verify.clone import RESULTS
from netpress.verify.surroundings import compare

#: What results follow from; a change here explains theirs.
INPUTS = ("data", "dvc.yaml", "params.yaml", "src", "stages")
#: What is run, before the arguments.
COMMAND = (sys.executable, "-m", "netpress", "run")
SHOWN = 6  # differences of the environment


def main(arguments: Sequence[str]) -> int:
    """Run `netpress run` with `arguments` in the project around the current folder; return its exit code."""
    root = find_root()
    command = [*COMMAND, *arguments]
    try:
        before = changed_files(root)
    except NetpressError as error:  # Git's trouble is no reason not to run
        print(f"repro: what the run changes of the commit will not be told: {error}", file=sys.stderr)
        return _run(command, root)
    code = _run(command, root)
    if code == 0:
        try:
            for line in changes(root, before):
                print(f"repro: {line}")
        except NetpressError as error:
            print(f"repro: what the run has changed of the commit cannot be told: {error}", file=sys.stderr)
    return code


def _run(command: Sequence[str], root: Path) -> int:
    """Run a command as the shell would with `exec`: signals reach it, and its exit code is returned."""
    with subprocess.Popen(command, cwd=root) as process:
        signal.signal(signal.SIGINT, lambda *_: None)  # a terminal sends Ctrl-C to both; the other ends the run
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: process.send_signal(number))
        code = process.wait()
    return code if code >= 0 else 128 - code


def changed_files(root: Path) -> dict[str, str]:
    """Return every tracked file that differs from the commit, with its sha256 ("" where it is gone).

    Nothing without Git, and before the first commit.
    """
    if not has_git(root) or not git(root, "rev-list", "--max-count=1", "--all"):
        return {}
    names = git(root, "diff", "--name-only", "--no-renames", "-z", "HEAD").split("\0")
    return {name: _sha256(root / name) for name in names if name}


def _sha256(path: Path) -> str:
    return files.sha256_file(path) if path.is_file() else ""


def changes(root: Path, before: Mapping[str, str]) -> list[str]:
    """Say what a run has changed of the commit, why, and how to keep it or to go back; nothing if nothing changed.

    `before` is of `changed_files` before the run.
    """
    after = changed_files(root)
    new = [name for name, sha256 in after.items() if before.get(name) != sha256 and _top(name) in RESULTS]
    if not new:
        return []
    tops = sorted({_top(name) for name in new})
    counts = Counter(_top(name) for name in new)
    shown = ", ".join(top if top in new else f"{counts[top]} in {top}" for top in tops)
    number = "1 file differs" if len(new) == 1 else f"{len(new)} files differ"
    lines = [f"of what Git tracks, {number} from the commit now: {shown}"]
    inputs = [name for name in after if _top(name) in INPUTS]
    if inputs:
        lines.append(f"they follow from what you changed: {some(inputs)}")
    if differences := _differences(root):
        words = [f"{key}: {then} -> {now}" for key, (then, now) in differences.items()]
        lines.append(f"expected: the committed results were made in another environment ({some(words, SHOWN)})")
        lines.append(
            "where processor, libraries or threads differ, sums round otherwise; docs/params.md has by how much"
        )
    elif not inputs:
        lines.append(
            "neither inputs nor environment differ from the commit's: 'python -m netpress verify' looks for why"
        )
    return [*lines, f"to keep them, commit {' '.join(tops)} together; to go back: git restore {' '.join(tops)}"]


def _differences(root: Path) -> dict[str, tuple[str, str]]:
    """Return key -> (in the commit, now) of the environments of those results that were made again."""
    old, new = _committed(root), environment.load(root)
    again = [name for name, entry in new.results.items() if name in old.results and old.results[name] != entry]
    then, now = (
        {name: records.environments[records.results[name].environment] for name in again} for records in (old, new)
    )
    return dict(compare(then, now).differences)


def _committed(root: Path) -> environment.Records:
    """Return the record of environments of the commit, empty if it has none."""
    name = environment.FILE.as_posix()
    if not git(root, "ls-tree", "HEAD", "--", name):
        return environment.Records()
    with TemporaryDirectory() as folder:
        files.write_text(Path(folder) / name, git(root, "show", f"HEAD:{name}"))
        return environment.load(Path(folder))


def _top(name: str) -> str:
    return name.split("/")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
