"""One process at a time: locks that vanish with their owner, however it ends."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netpress.base import files


@contextmanager
def held(path: Path, work: str = "", wait: bool = True) -> Iterator[bool]:
    """Hold the lock at `path`; while another process holds it, wait for that one and, with `work` given, name it.

    Yields whether it is held: always, unless it is not to be waited for.

    Args:
        path: of the lock; `<path>.lock` is locked, `<path>.owner` says by whom.
        work: what is guarded, for the message; "" for work of a moment.
        wait: for another process that holds it.

    The system frees the lock when its owner ends, also by kill -9. A process whose parent was killed still owns it.
    """
    from filelock import FileLock, Timeout  # here, so that a stage script takes Ctrl-C sooner

    path.parent.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(f"{path}.lock"), path.with_name(f"{path.name}.owner")
    try:
        lock.acquire(timeout=-1 if wait and not work else 0)
    except Timeout:
        if not wait:
            yield False
            return
        print(f"{work}: {_describe(owner)} is at work on it; waiting for it to end (Ctrl-C leaves)", file=sys.stderr)
        sys.stderr.flush()
        lock.acquire()
    try:
        owner.unlink(missing_ok=True)  # it names the one before
        if work:
            started = time.strftime("%H:%M:%S")
            files.write_json(owner, {"pid": os.getpid(), "command": " ".join(sys.argv), "started": started})
        yield True
    finally:
        lock.release()


def _describe(owner: Path) -> str:
    try:
        facts = json.loads(owner.read_bytes())
        return f"process {facts['pid']} ({facts['command']}, since {facts['started']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun
        return "another process"
