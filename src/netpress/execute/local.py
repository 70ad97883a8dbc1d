"""Jobs of the graph side by side on this machine, each a `dvc repro` of one stage.

DVC lets others work while a stage's command runs, and its bookkeeping stays its own: what is up to date, what comes
from the cache, what goes into dvc.lock.
"""

import signal
import sys
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from netpress.execute.lock_file import LockFile
from netpress.execute.processes import Processes
from netpress.graph.jobs import Job
from netpress.params.families import FAMILIES

#: Runs the stage whose name follows, and nothing before it; waits while another DVC does its bookkeeping.
DVC = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class End(StrEnum):
    """How a job ended."""

    DONE = "done"
    UP_TO_DATE = "up to date"  # what it needs came out as it was
    FAILED = "FAILED"
    NOT_RUN = "not run"  # one that it needs failed


@dataclass(frozen=True)
class Outcome:
    """How the job of `stage` ended, after how many seconds, and how many its processes took together."""

    stage: str
    end: End
    seconds: float = 0.0
    worked: float = 0.0


def execute(
    jobs: Mapping[str, Job],
    changed: Collection[str],
    root: Path,
    lock: LockFile,
    slots: int,
    seconds: Callable[[str], float],
    started: Callable[[str, int], None],
    command: Callable[[str], Sequence[str]] = lambda stage: [*DVC, stage],
    ahead: Callable[[str], Sequence[str]] = lambda stage: [sys.executable, *script_of(stage)],
) -> Generator[Outcome, None, None]:
    """Run jobs in the project at `root`; yield how each ended.

    A job begins when those that it needs have ended well. Slots for which there is none make further seeds of those
    that run, see `process.ahead`. Where this generator is closed or interrupted, all that runs is ended.

    Args:
        jobs: what may have to run, in the order of the graph; what they need beside one another is up to date.
        changed: those that have to run whatever the others do.
        root: the project's folder.
        lock: its dvc.lock, as it was before any of them.
        slots: how many processes run at once, 1 or more.
        seconds: how long a job takes, about; those on the longest path to the end begin first.
        started: called with the name of a job of which a process begins, and how many it has then.
        command: what runs a stage and enters it into dvc.lock.
        ahead: what makes further seeds of a stage.
    """
    rank = urgency(jobs, seconds)
    waiting = sorted(jobs, key=lambda stage: -rank[stage])  # stable: then in the order of the graph
    running = Processes(root, slots, {stage: job.seeds for stage, job in jobs.items()}, started)
    done: set[str] = set()
    moved: set[str] = set()  # their outputs are others than before
    lost: set[str] = set()
    try:
        while waiting or running.jobs():
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
            for stage in ready[: running.free()]:
                waiting.remove(stage)
                running.begin(stage, command(stage))
            running.share(rank.__getitem__, ahead)
            if ended := running.wait():
                stage, code, lasted, worked = ended
                (lost if code else done).add(stage)
                if not code and lock.moved(stage):
                    moved.add(stage)
                yield Outcome(stage, End.FAILED if code else End.DONE, lasted, worked)
    finally:
        with _undisturbed():
            running.close()
            lock.settle(complete=len(done) == len(jobs))


def script_of(stage: str) -> list[str]:
    """Return a stage's script and its arguments, as dvc.yaml has them."""
    section, _, variant = stage.partition("@")
    return [f"stages/{FAMILIES[section].stage}.py", *filter(None, [variant])]


def urgency(jobs: Mapping[str, Job], seconds: Callable[[str], float]) -> dict[str, float]:
    """Return the seconds from each job's begin to the end of the last one that follows from it, were all at once."""
    found: dict[str, float] = {}
    for stage in reversed(list(jobs)):
        after = [found[other] for other in found if stage in jobs[other].needs]
        found[stage] = seconds(stage) + max(after, default=0.0)
    return found


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


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold signals back: a second Ctrl-C leaves no job behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
