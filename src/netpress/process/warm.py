"""A process that has PyTorch loaded, and forks itself for each stage that asks: most of a short stage is imports.

`Warm` starts it and names its socket to all that is started from then on. A stage's script hands its arguments,
folder, environment and standard streams over that socket, and ends as the fork ends; where there is no such process, or
none any more, it does its work itself. Only packages are loaded beforehand, never the code of the project, which a fork
reads as it stands then.
"""

import functools
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from netpress.process.stop import end

#: Environment variable: the socket of the process that has everything loaded.
WARM = "NETPRESS_WARM"
#: Where torch's exporter has its translations of operators.
TRANSLATIONS = "torch.onnx._internal.exporter._registration"
#: Behind the socket's name: a file that is there once everything is loaded.
READY = ".ready"
#: Bytes of a request at most: arguments and environment.
MOST = 1 << 20


class Warm:
    """The process, for the time of a `with` block; a stage that comes before it is ready waits for it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="netpress-")
        self.path = str(Path(self._folder.name) / "socket")  # short, as sockets want it

    def __enter__(self) -> Self:
        listener = listening(self.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "netpress.process.warm", str(listener.fileno())],
            stdin=subprocess.PIPE,  # which breaks when this process ends, however: then it ends too
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for those whom it serves
        )
        listener.close()
        os.environ[WARM] = self.path
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.environ.pop(WARM, None)
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def listening(path: str) -> socket.socket:
    """Return a socket at `path` in whose queue connections wait until somebody serves it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    return listener


def received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return what `handed_over` sends, and the standard streams of who asked; nothing where it has ended meanwhile."""
    head, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    data = bytearray()
    while len(data) < min(int.from_bytes(head, "big"), MOST):
        if not (part := connection.recv(MOST)):
            return {}, []
        data += part
    request: dict[str, Any] = json.loads(data or b"{}")
    return request, descriptors


def handed_over(wait: bool = True) -> int | None:
    """Have the process named in the environment do what this one was started for; return the exit code.

    None where there is none, or it is not ready yet and not to be waited for, so that the work is still to be done.
    """
    path = os.environ.get(WARM)
    if not path or not (wait or Path(path + READY).exists()):
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError:
        return None
    with connection:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: end(number))
        while not Path(path + READY).exists():
            if select.select([connection], [], [], 0.05)[0]:  # closed: it has ended
                return None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
        request = {
            "argv": sys.argv,
            "path": sys.path,
            "cwd": str(Path.cwd()),
            "environ": {k: v for k, v in os.environ.items() if k != WARM},
        }
        data = json.dumps(request).encode()
        socket.send_fds(connection, [len(data).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(data)
        answer = connection.recv(4)
    if len(answer) < 4:
        print("error: the process that loads PyTorch for all stages was killed; run again", file=sys.stderr)
        return 1
    code = int.from_bytes(answer, "big", signed=True)
    if code < 0:  # by a signal: end as it ended
        with suppress(OSError):  # of kill -9 nothing else can be made
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def serve(listener: socket.socket) -> None:
    """Fork for every connection, and answer with the exit code, until standard input ends."""
    children: dict[int, socket.socket] = {}
    life, lifeline = os.pipe()  # of which forks have the end that tells them when this process is gone
    wake, woken = socket.socketpair()
    for side in (wake, woken):
        side.setblocking(False)
    signal.set_wakeup_fd(woken.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector:
        for file in (listener, wake, sys.stdin.buffer):
            selector.register(file, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    if (child := os.fork()) == 0:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        os.close(lifeline)
                        for other in (listener, wake, woken, *children.values()):
                            other.close()
                        _work(connection, life)
                    children[child] = connection
                elif key.fileobj is wake:
                    with suppress(BlockingIOError):
                        wake.recv(4096)
                    _reap(children)
                else:
                    return


def _reap(children: dict[int, socket.socket]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with children.pop(ended[0]) as connection, suppress(OSError):  # who asked may be gone
                connection.sendall(os.waitstatus_to_exitcode(ended[1]).to_bytes(4, "big", signed=True))


def _work(connection: socket.socket, life: int) -> None:
    """Become the process that asked: its streams, folder, environment and arguments; never returns."""
    code = 70
    try:
        request, descriptors = received(connection)
        if not request:  # who asked has ended while this process was loading
            code = 0
            return
        os.setsid()  # where the system shares cores among sessions (sched_autogroup), each job has a share of its own
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(request["environ"])
        os.chdir(request["cwd"])
        sys.argv, sys.path[:] = request["argv"], request["path"]
        for name in [name for name in sys.modules if name.partition(".")[0] == "netpress"]:
            del sys.modules[name]  # that of this process may be another copy
        watched = {signal.SIGINT, signal.SIGTERM}
        for number in watched:  # until the stage itself sees to it
            signal.signal(number, lambda number, _: end(number))
        signal.pthread_sigmask(signal.SIG_BLOCK, watched)  # they are for the thread that does the work
        threading.Thread(target=_heed, args=(connection,), name="asked", daemon=True).start()
        threading.Thread(target=_follow, args=(life,), name="loaded", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as ended:  # as Python itself ends
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            with suppress(OSError):  # nobody reads any more
                print(ended.code, file=sys.stderr)
    except BaseException:  # likewise; a fork must not go on as the one that serves
        code = 1
        with suppress(OSError):
            traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _heed(connection: socket.socket) -> None:
    """Pass on the signals of the process that asked, and end with it."""
    while number := connection.recv(1):
        os.kill(os.getpid(), number[0])
    os.kill(os.getpid(), signal.SIGTERM)


def _follow(life: int) -> None:
    """End with the process that was forked: nobody else could tell who asked how this one ends."""
    os.read(life, 1)
    os._exit(128 + signal.SIGTERM)  # as safe as kill -9, and who asked says why


def keep_translations() -> None:
    """Have torch's exporter keep its 500 translations of operators, if it is loaded and this torch has them there.

    It reads them again for each network, a third of the time of an export; the files come out the same.
    """
    registry: Any = getattr(sys.modules.get(TRANSLATIONS), "ONNXRegistry", None)
    if hasattr(registry, "from_torchlib") and not hasattr(registry.from_torchlib, "cache_info"):
        registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))


def load() -> None:
    """Load what stages take seconds to load, by exporting the smallest network there is.

    On one thread, since a pool of threads does not survive a fork.
    """
    import logging
    import warnings

    import torch

    torch.set_num_threads(1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (TRANSLATIONS, "torch_pruning"):
            with suppress(ImportError):  # of other versions, or left out
                importlib.import_module(name)
        keep_translations()
        torch.onnx.export(torch.nn.Linear(1, 1).eval(), (torch.zeros(1, 1),), dynamo=True, verbose=False)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as bound:
        load()
        Path(bound.getsockname() + READY).touch()
        serve(bound)
