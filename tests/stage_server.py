"""Runs stage scripts in forks of a process that has everything imported, and kills them where it is told to.

Says `ready` once it is. Reads one JSON request a line: `script`, `args`, `cwd`, `kill_after` (seconds, or null),
`kill_at` (the moment of a write at which the process kills itself, such as `half fit_2.safetensors`, or its number;
or null), `share` (of the time that checkpoints may take; null: every epoch leaves one, however short) and `patch`
(Python to run first, or null). Answers with `code` (negative: the signal), `output`, `moments` (all that were passed)
and `seconds`.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

import netpress.core.checkpoint
import netpress.core.export
import netpress.distill.run
import netpress.factorize.run
import netpress.prune.run
import netpress.quantize.run
import netpress.report.write
import netpress.train.run
from netpress.base import files
from netpress.core.export import export_onnx
from netpress.core.networks import build_model
from netpress.process.warm import TRANSLATIONS, keep_translations


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def watch_writes(kill_at, log):
    """Note the moments of every write and renaming, and end the process at the one named or numbered `kill_at`."""
    passed = []
    replace, rename, write = Path.replace, Path.rename, files.write_bytes

    def moment(when, path):
        passed.append(f"{when} {path.name}")
        log.write_text("\n".join(passed))
        if kill_at in (len(passed), passed[-1]):
            if when == "half":  # as the aside file stands when a process dies in the middle of writing it
                path.parent.mkdir(parents=True, exist_ok=True)
                files.aside_of(path).write_bytes(b"half")
            die()

    def write_bytes(path, data):
        moment("before", path)
        moment("half", path)
        write(path, data)
        moment("after", path)

    def replaced(self, target):
        moment("renaming", Path(target))
        return replace(self, target)

    def renamed(self, target):
        moment("moving", Path(target))
        return rename(self, target)

    files.write_bytes = write_bytes
    Path.replace = replaced
    Path.rename = renamed


def run(request, output, log):
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    os.chdir(request["cwd"])
    sys.argv = [request["script"], *request["args"]]
    netpress.core.checkpoint.SHARE = request["share"] or 1e9
    watch_writes(request["kill_at"], log)
    if request["patch"]:
        exec(request["patch"], {})
    code = 1
    try:
        runpy.run_path(request["script"], run_name="__main__")
    except SystemExit as ended:
        code = int(ended.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def kill_later(child, seconds, ended):
    if not ended.wait(seconds):
        os.kill(child, signal.SIGKILL)


def warm_up():
    """Load what the exporter loads; on one thread, since a pool of threads does not survive a fork.

    Forks find the graphs of the little project's designs traced, which takes longer than their training.
    """
    torch.set_num_threads(1)
    importlib.import_module(TRANSLATIONS)
    keep_translations()
    kept, traced = {}, netpress.core.export._traced

    def trace(network, example, name):
        key = str(network), example.shape
        if key not in kept:
            kept[key] = traced(network, example, name)
        return kept[key]

    netpress.core.export._traced = trace
    sections = runpy.run_path(str(Path(__file__).with_name("little.py")))["SECTIONS"]
    for design in (sections["train"]["teacher"], sections["distill"]["kd"], sections["lowrank"]["depthwise"]):
        export_onnx(build_model(design["arch"], 10, 1, **design["options"]).eval(), 1, 28, 28)
    gc.freeze()  # what is loaded by now is not looked through again in every fork


def main():
    warm_up()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            output, log = (Path(folder) / "output").open("w+"), Path(folder) / "moments"
            start = time.monotonic()
            child = os.fork()
            if child == 0:
                try:
                    run(request, output, log)
                finally:
                    os._exit(70)
            ended = threading.Event()
            if request["kill_after"]:
                threading.Thread(target=kill_later, args=(child, request["kill_after"], ended)).start()
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            ended.set()
            output.seek(0)
            answer = {
                "code": code,
                "output": output.read(),
                "moments": log.read_text().splitlines() if log.exists() else [],
                "seconds": time.monotonic() - start,
            }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
