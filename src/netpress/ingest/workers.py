"""A function over many jobs, in processes side by side; what comes out, and in which order, is as in a loop."""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, cycle
from types import TracebackType
from typing import Any, Self, TypeVar

from netpress.base.errors import NetpressError

J = TypeVar("J")
R = TypeVar("R")

#: Seconds for which this process works alone: a small folder is done before others have started.
PATIENCE = 1.0
#: Processes at most: about so many keep the one that takes their answers busy, and each takes some 50 MB.
MOST = 16
#: Jobs that a process has at once, one in work and one to go on with.
AHEAD = 2
#: Starts one.
COMMAND = (sys.executable, "-m", "netpress.ingest.workers")


def in_order(function: Callable[[J], R], jobs: Iterable[J], count: int) -> Iterator[R]:
    """Yield `function(job)` of each job, in their order, with up to `count` processes once it takes `PATIENCE`.

    Memory holds `AHEAD` jobs or answers for each process. However this process ends, the others end too.

    Args:
        function: of a module, or a partial of one, so that it can be pickled; likewise jobs and answers.
        jobs: taken as they are needed.
        count: processes; with 1 this one does all.

    Raises:
        NetpressError: one of the processes was killed, or cannot be started.
    """
    jobs, end = iter(jobs), time.monotonic() + PATIENCE
    for job in jobs:
        if count > 1 and time.monotonic() >= end:
            yield from _spread(function, chain([job], jobs), min(count, MOST))
        else:
            yield function(job)


def _spread(function: Callable[[J], R], jobs: Iterable[J], count: int) -> Iterator[R]:
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(function)) for _ in range(count)]
        asked: deque[_Worker] = deque()
        for worker, job in zip(cycle(workers), jobs, strict=False):
            if len(asked) == AHEAD * count:
                yield asked.popleft().answer()
            worker.ask(job)
            asked.append(worker)
        while asked:
            yield asked.popleft().answer()


class _Worker:
    """A process that computes `function` of what it is asked, for the time of a `with` block."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        try:
            self._process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise NetpressError(f"no process for decoding can be started ({error.strerror}); run again") from None
        self._requests: Any = self._process.stdin
        self._answers: Any = self._process.stdout
        self.ask(function)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, job: object) -> None:
        """Give it a job, or at first its function."""
        try:
            self._requests.write(pickle.dumps(job))
            self._requests.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> Any:
        """Wait for its next answer."""
        try:
            return pickle.load(self._answers)
        except (EOFError, pickle.UnpicklingError):
            raise self._ended() from None

    def _ended(self) -> NetpressError:
        code = self._process.wait()
        how = f"was killed (signal {-code}), perhaps because memory is short" if code < 0 else f"ended with code {code}"
        return NetpressError(f"one of the processes that decode pictures {how}; nothing was written, run again")


def serve() -> None:
    """Answer what is asked on standard input, until it ends, in the middle of whatever this does then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks ends by it, and this process then
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    function, jobs = pickle.load(requests), queue.SimpleQueue[Any]()
    threading.Thread(target=_listen, args=(requests, jobs), daemon=True).start()
    while True:
        answers.write(pickle.dumps(function(jobs.get()), pickle.HIGHEST_PROTOCOL))
        answers.flush()


def _listen(requests: Any, jobs: "queue.SimpleQueue[Any]") -> None:
    """Take jobs while others are at work, so that who asks never waits to be heard, and end with it."""
    while True:
        try:
            jobs.put(pickle.load(requests))
        except (EOFError, pickle.UnpicklingError):
            os._exit(0)


if __name__ == "__main__":
    serve()
