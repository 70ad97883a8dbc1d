"""The process that stands between stages' scripts and a Ray cluster: it submits a task for each, and answers for it.

`execute.ray` starts it. A task runs the same script, in the same folder, on some node.
"""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from netpress.base.errors import ConfigError, NetpressError
from netpress.process.environment import FLAGS
from netpress.process.machine import cores
from netpress.process.stop import LEASH
from netpress.process.warm import received

#: The files by which nodes show that they see the project's folder.
TOKENS = Path(".netpress/ray")
#: How often a stage whose node or process is lost is begun again; it goes on from its last checkpoint.
RETRIES = 2
#: Seconds between looks at the head, and without it until the run is given up.
LOOK, PATIENCE = 1.0, 10.0
#: Seconds by which a folder on the network may lag behind.
LAG = 5.0
#: Bytes of Ray's store of objects here; only lines of text go through it.
STORE = 100 << 20


class LostError(Exception):
    """A node, or the process on it, ended in the middle of a stage."""


def share(nodes: Sequence[Mapping[str, float]], threads: int, device: str, devices: int = 1) -> tuple[int, int]:
    """Return how many stages the nodes, given by what Ray says that they have, take at once, and the GPUs of each.

    A stage has so many `devices`, each with its `threads`.

    Raises:
        ConfigError: no node can run one.
    """
    on_gpu = device == "cuda" or (device == "auto" and any(node.get("GPU", 0) >= 1 for node in nodes))
    need, gpus = threads * devices, devices if on_gpu else 0
    slots = sum(
        int(min(node.get("CPU", 0) // need, node.get("GPU", 0) // gpus if gpus else math.inf)) for node in nodes
    )
    if not slots:
        many = " for each of runtime.devices" if devices > 1 else ""
        gpu = f" and {'a GPU' if gpus == 1 else f'{gpus} GPUs'} (runtime.device)" if gpus else ""
        has = "; ".join(f"{node.get('CPU', 0):g} cores, {node.get('GPU', 0):g} GPUs" for node in nodes) or "none"
        raise ConfigError(
            f"params.yaml asks for {need} cores (runtime.threads{many}){gpu}, "
            f"which no node of the Ray cluster has ({has}); add such a node, or change it"
        )
    return slots, gpus


def refusal(error: Exception) -> str:
    """Return in one line why Ray does not take a connection, and what to do."""
    first = str(error).strip().partition("\n")[0]
    if "AuthenticationError" in str(error.__cause__):  # a traceback in words; Ray looks for no token at an address
        return f"{first}: it asks for a token; set RAY_AUTH_MODE=token, with the ~/.ray/auth_token of its head here"
    return f"{first}; 'ray start --head --port=6379' starts one, and without --address the run has its own"


def insist(attempt: Callable[[], Iterable[bytes | int]], say: Callable[[bytes], object]) -> int:
    """Return the exit code of a stage, begun again where its node or process is lost.

    Args:
        attempt: begins it; yields what it prints and, last, its exit code. Raises LostError.
        say: takes what is printed.
    """
    why = ""
    for left in reversed(range(RETRIES + 1)):
        try:
            for said in attempt():
                if isinstance(said, int):
                    return said
                say(said)
            why = "its task gave no exit code"
        except LostError as error:
            why = str(error)
        if left:
            say(f"lost: {why}; it is begun again and goes on from its last checkpoint\n".encode())
    say(f"error: lost {RETRIES + 1} times, the last time: {why}; is there memory enough on the nodes?\n".encode())
    return 1


def stage(root: str, token: str, argv: list[str], environ: dict[str, str], lag: float) -> Iterator[bytes | int]:
    """Run a stage's script on a node: yield what it prints and, last, its exit code.

    A Ray task, which has only the standard library and itself, since the project's code may be out of its reach. The
    file `token` shows that the folder is the run's, on which a node may lag behind by `lag` seconds.
    """
    node = f"node {socket.gethostname()}"
    deadline = time.monotonic() + lag
    while not (seen := Path(token).exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
    if not seen:
        yield (
            f"error: {node} does not see {root} as it is where the run was started; with --on ray the project must "
            "lie in a folder that all nodes share at the same path\n"
        ).encode()
        yield 1
        return
    yield f"on {node}\n".encode()
    own = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GIT_", "DVC_"))}  # Ray's own among them
    path = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', '')}"
    process = subprocess.Popen(
        [sys.executable, *argv],
        cwd=root,
        env=own | environ | {"PATH": path, "PYTHONPATH": f"{root}/src", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,  # the stage's leash, which ends it when this process ends, however
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    for line in process.stdout or ():  # noqa: UP028 (Ray sends values into the task, which files do not take)
        yield line
    yield process.wait()


class Server:
    """Takes work from stages' scripts over a socket, has Ray do it, and answers with the exit code."""

    def __init__(self, root: str, address: str, threads: int, device: str, devices: int) -> None:
        import ray
        from ray.exceptions import RayTaskError, TaskCancelledError

        self._ray, self._failed, self._cancelled = ray, RayTaskError, TaskCancelledError
        own: dict[str, Any] = {"num_cpus": cores(), "object_store_memory": STORE, "include_dashboard": False}
        host, colon, port = address.rpartition(":")
        try:
            if colon and port.isdigit():  # Ray itself tries for minutes
                socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
            ray.init(address=address, log_to_driver=False, **own if address == "local" else {})
        except (OSError, RuntimeError, ValueError) as error:  # nobody there; other versions; no address
            raise NetpressError(f"no Ray to work with at {address!r}: {refusal(error)}") from None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.slots, gpus = share(nodes, threads, device, devices)
        self._task = ray.remote(num_cpus=threads * devices, num_gpus=gpus, max_retries=0)(stage)
        self._token = Path(root) / TOKENS / uuid.uuid4().hex  # a name that no node has looked for before
        self._token.parent.mkdir(parents=True, exist_ok=True)
        self._token.touch()

    def close(self) -> None:
        """Leave the cluster, which ends the tasks, and end a Ray of its own."""
        self._token.unlink(missing_ok=True)
        self._ray.shutdown()

    def head(self) -> tuple[str, int]:
        """Return host and port of the cluster's head."""
        host, _, port = self._ray.get_runtime_context().gcs_address.rpartition(":")
        return host.strip("[]"), int(port)

    def accept(self, listener: socket.socket) -> None:
        """Serve each connection in a thread of its own."""
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        with connection:
            request, files = received(connection)
            if not request:
                return
            running: list[Any] = []
            stopped: list[int] = []

            def attempt() -> Iterator[bytes | int]:
                return self._attempt(request, running, stopped)

            threading.Thread(target=self._heed, args=(connection, running, stopped), daemon=True).start()
            with os.fdopen(files[1], "wb", 0) as out:
                code = insist(attempt, out.write)
            running.clear()  # who asked is about to end: there is nothing to cancel
            for file in (files[0], files[2]):
                os.close(file)
            with suppress(OSError):  # who asked may be gone
                connection.sendall(code.to_bytes(4, "big", signed=True))

    def _attempt(self, request: dict[str, Any], running: list[Any], stopped: list[int]) -> Iterator[bytes | int]:
        """Run a stage as a task: yield what it prints and, last, its exit code."""
        environ = {k: v for k, v in request["environ"].items() if FLAGS.match(k) or k.startswith(("NETPRESS_", "OMP_"))}
        name = " ".join(Path(word).stem for word in request["argv"])
        running[:] = [
            self._task.options(name=name).remote(
                request["cwd"], str(self._token), request["argv"], environ | {LEASH: "1"}, LAG
            )
        ]
        try:
            for reference in running[0]:
                if stopped:
                    break
                said = self._ray.get(reference)
                if said == -signal.SIGKILL:
                    raise LostError("its process was killed")
                yield said
        except self._cancelled:
            pass
        except self._failed as error:
            if not stopped:
                yield f"error: {error}\n".encode()
                yield 1
        except self._ray.exceptions.RayError as error:
            if not stopped:
                raise LostError(str(error).strip().partition("\n")[0]) from None
        if stopped:
            yield -stopped[0]

    def _heed(self, connection: socket.socket, running: list[Any], stopped: list[int]) -> None:
        """Cancel the task when the process that asked gets a signal or ends."""
        with suppress(OSError):  # closed: it has its answer
            number = connection.recv(1)
            stopped.append(number[0] if number else signal.SIGTERM)
            for task in running:
                self._ray.cancel(task, force=True)


def wait_for_loss(head: tuple[str, int]) -> None:
    """Return once the head has not been there for a while."""
    seen = time.monotonic()
    while time.monotonic() - seen < PATIENCE:
        time.sleep(LOOK)
        with suppress(OSError), socket.create_connection(head, timeout=LOOK):
            seen = time.monotonic()


def main(number: str, root: str, address: str, threads: str, device: str, devices: str) -> int:
    """Serve the socket `number` until standard input ends; one line of JSON says that it begins, or what is wrong."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    answer = os.fdopen(os.dup(1), "w", 1)
    os.dup2(2, 1)  # what Ray prints
    begun = threading.Event()

    def follow() -> None:
        while os.read(0, 1):
            pass
        if not begun.is_set():
            os._exit(1)

    leash = threading.Thread(target=follow, daemon=True)
    leash.start()
    try:
        server = Server(root, address, int(threads), device, int(devices))
    except NetpressError as error:
        print(json.dumps({"error": str(error)}), file=answer)
        return 1
    print(json.dumps({"slots": server.slots}), file=answer)
    listener = socket.socket(fileno=int(number))
    threading.Thread(target=server.accept, args=(listener,), daemon=True).start()

    def look() -> None:
        host, port = server.head()
        wait_for_loss((host, port))
        print(json.dumps({"error": f"Ray's head at {host}:{port} does not answer any more"}), file=answer)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
    begun.set()
    leash.join()
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
