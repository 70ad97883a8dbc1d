"""The stages' work on the nodes of a Ray cluster, which share the project's folder.

DVC stays here: each job is the `dvc repro --single-item` that it always is, so that one machine alone writes dvc.lock.
The stage's script hands over its work as it does to `process.warm`, to the process of `execute.ray_tasks`, which
submits a Ray task for it. That process is apart from this one because Ray ends the process that has lost its cluster.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from netpress.base.errors import ConfigError, NetpressError
from netpress.params.recipes import Runtime
from netpress.params.schema import ALL
from netpress.process.warm import READY, WARM, listening

#: Where Ray's own words go.
LOG = Path(".netpress/logs/ray.log")
#: Seconds in which Ray may end by itself when the run does.
GRACE = 5.0


class OnRay:
    """The process that submits stages to Ray, for the time of a `with` block; `slots` says how many run at once.

    Args:
        root: the project's folder.
        address: of the cluster's head, `auto` for the one of this machine, `local` for a new one of its own.
        runtime: the threads and the devices of each stage.

    Raises:
        NetpressError: on entry, Ray is not installed, not there, or its nodes cannot run a stage; on exit, it was lost.
    """

    def __init__(self, root: Path, address: str, runtime: Runtime) -> None:
        if address.startswith("ray://"):
            raise ConfigError(
                f"--address {address}: ray:// is for clients outside of the cluster; run this on a node of it, "
                "with '--address auto', or submit it by 'ray job submit'"
            )
        if runtime.devices == ALL:
            raise ConfigError(
                "runtime.devices = all: nodes of a Ray cluster may have several numbers of them; name a number"
            )
        if find_spec("ray") is None:
            raise NetpressError("--on ray needs the package ray; run: .venv/bin/uv pip install -r requirements-ray.txt")
        self._root, self._address, self._runtime = root, address, runtime
        self._leaving, self._lost = False, ""

    def __enter__(self) -> Self:
        (self._root / LOG).parent.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="netpress-")
        path = str(Path(self._folder.name) / "socket")
        listener = listening(path)
        settings = [str(self._root), self._address, str(self._runtime.threads), self._runtime.device]
        settings.append(str(self._runtime.devices))
        with (self._root / LOG).open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "netpress.execute.ray_tasks", str(listener.fileno()), *settings],
                stdin=subprocess.PIPE,  # which breaks when this process ends, however: then it ends too
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is for those whom it serves
            )
        listener.close()
        try:
            told = self._told()
            if "error" in told:
                raise NetpressError(told["error"])
        except BaseException:
            self._end()
            raise
        self.slots: int = told["slots"]
        Path(path + READY).touch()
        self._before = os.environ.get(WARM)
        os.environ[WARM] = path
        threading.Thread(target=self._watch, name="ray", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leaving = True
        os.environ.pop(WARM)
        if self._before is not None:
            os.environ[WARM] = self._before
        self._end()
        if self._lost:
            raise NetpressError(f"{self._lost}; what is done stays done: run again to go on") from None

    def _told(self) -> dict[str, Any]:
        """Return the next line of the process."""
        line = cast(IO[bytes], self._process.stdout).readline()
        told: dict[str, Any] = json.loads(line or b"{}")
        return told or {"error": f"the process that speaks with Ray has ended; {LOG} says why"}

    def _watch(self) -> None:
        """Interrupt the run when the process ends: without it stages would do their work here."""
        told = self._told()
        if not self._leaving:
            self._lost = told["error"]
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _end(self) -> None:
        cast(IO[bytes], self._process.stdin).close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        with suppress(ProcessLookupError):  # a Ray of its own goes with it
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()
