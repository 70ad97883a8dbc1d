"""The processes of jobs on this machine: of each its stage and, where slots are free, those ahead of it.

A process is in a group of its own, on a leash that breaks with this process, and prints into a log.
"""

import os
import queue
import signal
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from netpress.process.ahead import AHEAD
from netpress.process.commands import environ
from netpress.process.stop import LEASH

LOGS = Path(".netpress/logs")
#: Seconds in which a job may end by itself when the run is stopped.
GRACE = 1.0
#: Seconds after which a job gets further processes: shorter ones end before that pays.
AHEAD_AFTER = 5.0


@dataclass(frozen=True)
class Running:
    """A process of the job of `stage`, since when, and whether it is one ahead of the stage itself."""

    stage: str
    process: "subprocess.Popen[bytes]"
    began: float
    ahead: bool


class Processes:
    """At most `slots` processes at once in the project at `root`.

    Args:
        root: the project's folder, where they work.
        slots: how many there may be.
        seeds: job -> its count of seeds, which as many processes may share.
        started: called with a job of which a process begins, and how many it has then.
    """

    def __init__(self, root: Path, slots: int, seeds: Mapping[str, int], started: Callable[[str, int], None]) -> None:
        self._root, self._slots, self._seeds, self._started = root, slots, seeds, started
        self._ended: queue.Queue[tuple[str, int]] = queue.Queue()
        self._running: dict[str, Running] = {}  # by the names of their logs
        self._worked: dict[str, float] = defaultdict(float)  # job -> seconds of its processes that have ended
        self._given_out: set[str] = set()  # jobs without a seed that nobody is at

    def jobs(self) -> list[str]:
        """Return the jobs at work."""
        return [name for name, one in self._running.items() if not one.ahead]

    def free(self) -> int:
        """Return how many more may begin."""
        return max(0, self._slots - len(self._running))

    def begin(self, stage: str, command: Sequence[str]) -> None:
        """Begin a job."""
        self._start(stage, stage, command, {})

    def share(self, urgency: Callable[[str], float], command: Callable[[str], Sequence[str]]) -> None:
        """Give free slots to further seeds of the jobs at work, of which those on the longest path come first."""
        while self.free() and (due := [stage for stage in self._open() if self._wait_for(stage) <= 0]):
            count = Counter(one.stage for one in self._running.values())
            stage = max(due, key=lambda stage: urgency(stage) / count[stage])
            self._start(f"{stage}+{count[stage]}", stage, command(stage), {AHEAD: "1"})

    def wait(self) -> tuple[str, int, float, float] | None:
        """Wait for a job's end: its name, exit code, its seconds and those of all its processes.

        None where something else has happened after which there may be more to begin.
        """
        if not self._running:
            return None
        waits = [self._wait_for(stage) for stage in self._open()] if self.free() else []
        try:
            name, code = self._ended.get(timeout=min(waits, default=None))
        except queue.Empty:
            return None
        if name not in self._running:  # it was ended with its job
            return None
        one = self._take(name)
        if one.ahead:
            self._given_out.add(one.stage)  # or it has failed: then the stage will say why
            return None
        for other in [other for other, it in self._running.items() if it.stage == name]:
            _signal(self._take(other).process, signal.SIGKILL)
        return name, code, time.monotonic() - one.began, self._worked[name]

    def close(self) -> None:
        """End all, as Ctrl-C does, and after a moment for good."""
        processes = [one.process for one in self._running.values()]
        for number in (signal.SIGINT, signal.SIGKILL):
            for process in processes:
                _signal(process, number)
            deadline = time.monotonic() + GRACE
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))

    def _open(self) -> list[str]:
        """Return the jobs at work with seeds for one more process."""
        count = Counter(one.stage for one in self._running.values())
        return [stage for stage in self.jobs() if stage not in self._given_out and count[stage] < self._seeds[stage]]

    def _wait_for(self, stage: str) -> float:
        """Return in how many seconds a job at work may get one more process."""
        return max(0.0, self._running[stage].began + AHEAD_AFTER - time.monotonic())

    def _take(self, name: str) -> Running:
        """Take a process, which has ended or is about to, off what runs."""
        one = self._running.pop(name)
        self._worked[one.stage] += time.monotonic() - one.began
        return one

    def _start(self, name: str, stage: str, command: Sequence[str], more: Mapping[str, str]) -> None:
        log = log_of(self._root, name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=self._root,
                env=environ(self._root) | {LEASH: "1", **more},
                stdin=subprocess.PIPE,  # which breaks when this process ends, however: then the stage ends too
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, so that all of it can be ended
            )
        self._running[name] = Running(stage, process, time.monotonic(), ahead=name != stage)

        def wait() -> None:
            code = process.wait()
            if code < 0:
                _signal(process, signal.SIGKILL)  # its stage must not go on alone
            self._ended.put((name, code))

        threading.Thread(target=wait, name=name, daemon=True).start()
        self._started(stage, sum(one.stage == stage for one in self._running.values()))


def log_of(root: Path, stage: str) -> Path:
    """Return the file that holds what the last job of `stage` printed."""
    return root / LOGS / f"{stage.replace('/', '.')}.log"


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
