"""Run stages again in a clean clone and compare each output with the committed one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from netpress.process import environment
from netpress.process.commands import environ
from netpress.verify import dvc_lock as locks
from netpress.verify.dvc_lock import Lock
from netpress.verify.outcome import Read, StageOutcome, judge, worst

OPTIONS = ("--single-item", "--force", "--no-commit", "--no-run-cache")
GRACE = 10  # seconds for DVC and its stage to end


def rerun(
    folder: Path, committed: Lock, stages: Sequence[str], margin: float, report: Callable[[StageOutcome], None]
) -> list[StageOutcome]:
    """Run `stages` (in the order of the graph) again in the clean clone `folder` and judge them.

    Each outcome goes to `report` as soon as it is known.
    The clone's dvc.lock is deleted first, so that a stage stands in the new one if, and only if, it ran to its end;
    its record of environments too, so that it tells those of this run alone.
    """
    path = folder / locks.NAME
    read_committed = _before(folder, committed)
    path.unlink()
    (folder / environment.FILE).unlink(missing_ok=True)
    made = {out for entry in committed.values() for out in entry.outs}
    outcomes: list[StageOutcome] = []
    failed: set[str] = set()
    for stage in stages:
        if locks.parents(committed, stage) & failed:
            seconds, error = None, "was not run, since a stage before it failed"
        else:
            started = time.monotonic()
            error = _run(folder, stage)
            seconds = time.monotonic() - started
        found = locks.read_lock(path).get(stage)
        if error or found is None:
            failed.add(stage)
            outcome = StageOutcome(stage, (), (), seconds, error or "did not run to its end")
        else:
            models = worst([outcome.verdict for outcome in outcomes])
            outputs = judge(committed[stage], found, read_committed, _reader(folder), margin, models)
            changed = tuple(locks.changed_inputs(committed[stage], found, made))
            outcome = StageOutcome(stage, outputs, changed, seconds)
        outcomes.append(outcome)
        report(outcome)
    return outcomes


def _run(folder: Path, stage: str) -> str:
    """Run one stage by DVC; return why it failed in the stage's own words, or DVC's last ones, else nothing."""
    with (folder.parent / "log").open("a+", encoding="utf-8", errors="replace") as log:
        start = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", *OPTIONS, stage],
            cwd=folder,
            env=environ(folder),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches this process alone, which then ends all of them
        )
        try:
            if process.wait() == 0:
                return ""
        finally:
            _end(process)
        log.seek(start)
        lines = [line.rstrip() for line in log if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["failed without a word"])[-1]


def _end(process: "subprocess.Popen[bytes]") -> None:
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
