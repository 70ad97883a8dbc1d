"""Ctrl-C: the process ends at once, in the middle of whatever it does, with one line."""

import os
import signal
import threading

#: Environment variable: where it is set, standard input is a pipe of the process that runs this one.
LEASH = "NETPRESS_LEASH"
MESSAGE = "stopped: run the same command (or 'dvc repro') again to go on from where it was"


def end_at_once(silent: bool = False) -> None:
    """From now on end the process within moments of Ctrl-C or SIGTERM, or of the end of who runs it on a leash.

    With the line that says how to go on, unless `silent`: then who runs it says so.

    Python looks at signals between two of its own steps only, and the backward pass of a large network is one
    step of seconds. A thread therefore waits for the signal and ends the process, which is safe because every
    file is written aside and renamed: what survives kill -9 survives this.
    """
    watched = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)  # threads made later block them too
    threading.Thread(target=_wait, args=(watched, silent), name="stop", daemon=True).start()
    if LEASH in os.environ:
        threading.Thread(target=_follow, name="leash", daemon=True).start()


def _wait(watched: set[signal.Signals], silent: bool) -> None:
    end(signal.sigwait(watched), "" if silent else f"\n{MESSAGE}\n")


def end(number: int, text: str = f"\n{MESSAGE}\n") -> None:
    """End the process as this signal asks, with the line that says how to go on."""
    try:
        os.write(2, text.encode())  # not through sys.stderr, whose lock the main thread may hold
    finally:  # also when nobody reads any more
        os._exit(128 + number)


def _follow() -> None:
    """Wait for the end of standard input, which comes however the process at its other side ends, also by kill -9."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
