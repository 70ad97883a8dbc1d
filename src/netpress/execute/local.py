"""Jobs of the graph side by side on this machine, each a `dvc repro` of one stage.

DVC lets others work while a stage's command runs, and its bookkeeping stays its own: what is up to date, what comes
from the cache, what goes into dvc.lock.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from netpress.execute.lock_file import LockFile
from netpress.graph.jobs import Job
from netpress.process.commands import environ
from netpress.process.stop import LEASH

#: Runs the stage whose name follows, and nothing before it; waits while another DVC does its bookkeeping.
DVC = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item")
LOGS = Path(".netpress/logs")
#: Seconds in which a job may end by itself when the run is stopped.
GRACE = 1.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class End(StrEnum):
    """How a job ended."""

    DONE = "done"
    UP_TO_DATE = "up to date"  # what it needs came out as it was
    FAILED = "FAILED"
    NOT_RUN = "not run"  # one that it needs failed


@dataclass(frozen=True)
class Outcome:
    """How the job of `stage` ended, and after how many seconds."""

    stage: str
    end: End
    seconds: float = 0.0


def execute(
    jobs: Mapping[str, Job],
    changed: Collection[str],
    root: Path,
    lock: LockFile,
    slots: int,
    seconds: Callable[[str], float],
    started: Callable[[str], None],
    command: Callable[[str], Sequence[str]] = lambda stage: [*DVC, stage],
) -> Generator[Outcome, None, None]:
    """Run jobs in the project at `root`; yield how each ended.

    A job begins when those that it needs have ended well. Where this generator is closed or interrupted, all that runs
    is ended.

    Args:
        jobs: what may have to run, in the order of the graph; what they need beside one another is up to date.
        changed: those that have to run whatever the others do.
        root: the project's folder.
        lock: its dvc.lock, as it was before any of them.
        slots: how many run at once, 1 or more.
        seconds: how long a job takes, about; those on the longest path to the end begin first.
        started: called with the name of each job that begins.
        command: what runs a stage and enters it into dvc.lock.
    """
    rank = urgency(jobs, seconds)
    waiting = sorted(jobs, key=lambda stage: -rank[stage])  # stable: then in the order of the graph
    ended: queue.Queue[tuple[str, int]] = queue.Queue()
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    done: set[str] = set()
    moved: set[str] = set()  # their outputs are others than before
    lost: set[str] = set()
    try:
        while waiting or running:
            for stage in [stage for stage in jobs if stage in waiting]:
                needs = jobs[stage].needs & jobs.keys()
                if needs & lost:
                    waiting.remove(stage)
                    lost.add(stage)
                    yield Outcome(stage, End.NOT_RUN)
                elif needs <= done and stage not in changed and not needs & moved:
                    waiting.remove(stage)
                    done.add(stage)
                    yield Outcome(stage, End.UP_TO_DATE)
            ready = [stage for stage in waiting if jobs[stage].needs & jobs.keys() <= done]
            for stage in ready[: slots - len(running)]:
                waiting.remove(stage)
                started(stage)
                running[stage] = _start(stage, command(stage), root, ended), time.monotonic()
            if running:
                stage, code = ended.get()
                _, began = running.pop(stage)
                (lost if code else done).add(stage)
                if not code and lock.moved(stage):
                    moved.add(stage)
                yield Outcome(stage, End.FAILED if code else End.DONE, time.monotonic() - began)
    finally:
        with _undisturbed():
            _end([process for process, _ in running.values()])
            lock.settle(complete=len(done) == len(jobs))


def urgency(jobs: Mapping[str, Job], seconds: Callable[[str], float]) -> dict[str, float]:
    """Return the seconds from each job's begin to the end of the last one that follows from it, were all at once."""
    found: dict[str, float] = {}
    for stage in reversed(list(jobs)):
        after = [found[other] for other in found if stage in jobs[other].needs]
        found[stage] = seconds(stage) + max(after, default=0.0)
    return found


def log_of(root: Path, stage: str) -> Path:
    """Return the file that holds what the last job of `stage` printed."""
    return root / LOGS / f"{stage.replace('/', '.')}.log"


def fault(lines: Sequence[str]) -> list[str]:
    """Return why a job failed, of the lines that it printed: the stage's own error, or else the last ones.

    A stage ends with a line `error: ...`, to which lines may be added; DVC says after it, in capitals, that it failed.
    """
    told = [line.rstrip() for line in lines if line.strip()]
    first = max((k for k, line in enumerate(told) if line.startswith("error:")), default=None)
    if first is None:
        return told[-12:] or ["it says nothing"]
    after = next((k for k, line in enumerate(told) if k > first and line.startswith("ERROR:")), len(told))
    return told[first:after]


def _start(
    stage: str, command: Sequence[str], root: Path, ended: "queue.Queue[tuple[str, int]]"
) -> "subprocess.Popen[bytes]":
    log = log_of(root, stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=environ(root) | {LEASH: "1"},
            stdin=subprocess.PIPE,  # which breaks when this process ends, however: then the stage ends too
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, so that all of it can be ended
        )

    def wait() -> None:
        code = process.wait()
        if code < 0:
            _signal(process, signal.SIGKILL)  # its stage must not go on alone
        ended.put((stage, code))

    threading.Thread(target=wait, name=stage, daemon=True).start()
    return process


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    """End the groups of `processes`: as Ctrl-C does, and after a moment for good."""
    for number in (signal.SIGINT, signal.SIGKILL):
        for process in processes:
            _signal(process, number)
        deadline = time.monotonic() + GRACE
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold signals back: a second Ctrl-C leaves no job behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
