"""Run stages again in a clean clone and compare each output with the committed one."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

from netpress.base.errors import NetpressError
from netpress.process import environment
from netpress.process.commands import environ
from netpress.verify import dvc_lock as locks
from netpress.verify.dvc_lock import Lock
from netpress.verify.outcome import Read, StageOutcome, judge, worst

RUNNING = re.compile(r"^Running stage '([^']+)'")
#: What DVC itself says about a stage that failed; the stage's own words stand above.
DVC_LINE = re.compile(r"^(WARNING|ERROR|INFO|>|$|Updating lock|Generating lock|To track|\s+git add|Use `dvc|To enable)")
GRACE = 10  # seconds for DVC and its stage to end


def rerun(
    folder: Path, committed: Lock, stages: Sequence[str], tolerance: float, report: Callable[[StageOutcome], None]
) -> list[StageOutcome]:
    """Run `stages` (in the order of the graph) anew in the clean clone `folder` and judge them.

    Each outcome goes to `report` as soon as it is known.
    The clone's dvc.lock is deleted first, so that a stage stands in the new one if, and only if, it ran to its end;
    its record of environments too, so that it tells those of this run alone.
    """
    path = folder / locks.NAME
    read_committed = _before(folder, committed)
    path.unlink()
    (folder / environment.FILE).unlink(missing_ok=True)
    outcomes: dict[str, StageOutcome] = {}
    made = {out for entry in committed.values() for out in entry.outs}

    def judged(stage: str, seconds: float | None, error: str) -> None:
        found = locks.read_lock(path).get(stage)
        expected = committed.get(stage)
        if found is None or expected is None:
            outcome = StageOutcome(stage, (), (), seconds, error or "did not run to its end")
        else:
            models = worst([o.verdict for name, o in outcomes.items() if name != stage])
            outputs = judge(expected, found, read_committed, _reader(folder), tolerance, models)
            outcome = StageOutcome(stage, outputs, tuple(locks.changed_inputs(expected, found, made)), seconds)
        outcomes[stage] = outcome
        report(outcome)

    with closing(follow(folder, stages)) as run:
        for stage, seconds, error in run:
            judged(stage, seconds, error)
    for stage in stages:
        if stage not in outcomes:
            judged(stage, None, "was not run, since a stage before it failed")
    return [outcomes[stage] for stage in stages] + [o for name, o in outcomes.items() if name not in stages]


def follow(folder: Path, stages: Sequence[str]) -> Generator[tuple[str, float, str]]:
    """Run `dvc repro` for `stages` and what they follow from; yield (stage, seconds, last line if it failed)."""
    options = ["--force", "--no-commit", "--no-run-cache", "--keep-going"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *options, *stages],
        cwd=folder,
        env=environ(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that Ctrl-C reaches this process alone, which then ends all of them
    )
    name, started, failed, lines = "", time.monotonic(), False, list[str]()
    try:
        with (folder.parent / "log").open("w", buffering=1, encoding="utf-8") as log:
            for line in process.stdout or ():
                log.write(line)
                match = RUNNING.match(line)
                if match:
                    if name:
                        yield name, time.monotonic() - started, _error(lines) if failed else ""
                    name, started, failed, lines = match[1], time.monotonic(), False, []
                elif line.startswith("WARNING: failed to run"):
                    failed = True
                elif not failed:
                    lines = [*lines[-20:], line.rstrip()]
        code = process.wait()
        if name:
            yield name, time.monotonic() - started, _error(lines) if failed else ""
        elif code:
            raise NetpressError(f"'dvc repro' failed in the clean clone: {(lines or ['it says nothing'])[-1]}")
    finally:
        _end(process)


def _error(lines: Sequence[str]) -> str:
    """Return the last line with which a stage failed, its own before DVC's."""
    own = [line for line in lines if not DVC_LINE.match(line)]
    errors = [line for line in own if line.startswith("error:")]
    return (errors or own or ["failed without a word"])[-1]


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is not None:
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(GRACE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _before(folder: Path, committed: Lock) -> Read:
    """Return a reader of what the clone holds now, before anything runs."""
    contents: dict[str, bytes] = {}
    for entry in committed.values():
        for out in entry.outs:
            data = _reader(folder)(out)
            if data is not None:
                contents[out] = data
    return contents.get


def _reader(folder: Path) -> Read:
    def read(name: str) -> bytes | None:
        path = folder / name
        return path.read_bytes() if path.is_file() else None

    return read
