"""Processes that are told over a pipe what to do, and the rounds in which candidates take turns."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from netpress.base.errors import NetpressError
from speed.series import Series

FOLDER = Path(__file__).parent.parent
WAITING = "OMP_WAIT_POLICY"
#: Steps without end, for a process that shall be busy.
ENDLESS = 10**12


@dataclass(frozen=True)
class Work:
    """How a worker works.

    Attributes:
        kind: of job, a key of `jobs.JOBS`.
        threads: of PyTorch or onnxruntime.
        loaders: processes that load images; 0 for none.
        passive: whether threads that wait sleep; else they wait as OpenMP does where nothing is set.
        packages: a folder of further packages that are imported.
    """

    kind: str
    threads: int
    loaders: int = 0
    passive: bool = True
    packages: Path | None = None


class Worker:
    """A process that does one kind of job until it is closed; used as a context."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process runs)
        command = [sys.executable, "-m", "speed.worker", work.kind, f"{work.threads}", f"{work.loaders}"]
        self._process = subprocess.Popen(
            command,
            env=environment(work, os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # which also ends one that is paused
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            with suppress(BrokenPipeError):  # an order that was never read
                if stream:
                    stream.close()

    def order(self, **order: Any) -> None:
        """Give an order; `answer` waits until it is done."""
        try:
            print(json.dumps(order), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> dict[str, Any]:
        """Return what the last order came to: `done` and `seconds`.

        Raises:
            NetpressError: the process has ended; quotes its last line.
        """
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise self._ended()
        found: dict[str, Any] = json.loads(line)
        return found

    def take(self, case: Any) -> None:
        """Get ready for a case."""
        self.order(case=case)
        self.answer()

    def do(self, steps: int) -> dict[str, Any]:
        """Do one round and return its answer."""
        self.order(steps=steps)
        return self.answer()

    def pause(self) -> None:
        """Stop the process where it stands."""
        self._process.send_signal(signal.SIGSTOP)

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Let a paused process go on within the context."""
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.pause()

    def _ended(self) -> NetpressError:
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it says nothing")
        return NetpressError(f"the process that measures '{self.work.kind}' ended with {code}: {last.strip()}")


def environment(work: Work, outside: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker: how threads wait, and where packages are."""
    found = {key: value for key, value in outside.items() if not key.startswith(("OMP_", "GOMP_", "MKL_", "KMP_"))}
    if work.passive:
        found[WAITING] = "PASSIVE"
    places = [FOLDER, FOLDER.parent / "src", *([work.packages] if work.packages else [])]
    inherited = [outside["PYTHONPATH"]] if outside.get("PYTHONPATH") else []
    return found | {"PYTHONPATH": os.pathsep.join([*map(str, places), *inherited])}


@dataclass
class Team:
    """Workers that do a round side by side; their images count together, and the slowest says how long it took."""

    workers: Sequence[Worker]
    steps: int = field(default=1, init=False)

    def take(self, case: Any) -> None:
        """Get ready for a case."""
        for worker in self.workers:
            worker.order(case=case)
        for worker in self.workers:
            worker.answer()

    def pace(self, seconds: float, longest: int) -> None:
        """Warm up, and choose the steps of a round of so many seconds: 1 to `longest`."""
        self.round()
        took, steps = self._seconds(1), 1
        if took < seconds / 4:  # what one step takes says little of many
            steps = min(4, longest)
            took = self._seconds(steps)
        self.steps = min(max(1, round(seconds / (took / steps))), longest)

    def round(self) -> float:
        """Do one round; return how much was done a second."""
        for worker in self.workers:
            worker.order(steps=self.steps)
        answers = [worker.answer() for worker in self.workers]
        return float(sum(answer["done"] for answer in answers) / max(answer["seconds"] for answer in answers))

    def _seconds(self, steps: int) -> float:
        for worker in self.workers:
            worker.order(steps=steps)
        return max(float(worker.answer()["seconds"]) for worker in self.workers)


def interleaved(candidates: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Series]:
    """Call the candidates in turn, `rounds` times each; nothing else of ours runs meanwhile."""
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            found[name].append(measure())
    return {name: Series(tuple(values)) for name, values in found.items()}
