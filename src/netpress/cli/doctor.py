"""Say whether this machine and params.yaml are ready for a run.

Prints versions, device, threads, free memory and disk, and checks the data folder, params.yaml and DVC's lock.
The exit code is 1 when something has to be mended.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from netpress.base.errors import ConfigError, NetpressError
from netpress.base.project import find_root
from netpress.environment import cpu_name

PACKAGES = (
    "torch",
    "torchvision",
    "dvc",
    "torch-pruning",
    "tensorly",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "safetensors",
    "pydantic",
    "ruamel.yaml",
    "numpy",
    "pandas",
    "matplotlib",
)
OLDEST_TORCH = (2, 11)
MEMORY_GB = 4.0  # what the default profile may take
DISK_GB = 2.0
RWLOCK = ".dvc/tmp/rwlock"  # who reads and writes what, as DVC notes it; it writes this file in place


@dataclass(frozen=True)
class Line:
    """One finding: `mark` is ok, warn (a run will work, perhaps not well) or FAIL."""

    mark: str
    name: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--quiet", action="store_true", help="print only what has to be mended")
    parser.add_argument("--mend", action="store_true", help=f"remove {RWLOCK} if a full disk has cut it off")


def run(args: argparse.Namespace) -> None:
    """Print the findings; raise when one of them is a FAIL."""
    root = find_root()
    if args.mend:
        mend(root)
    findings = list(examine(root))
    faults = [line for line in findings if line.mark == "FAIL"]
    if args.quiet:
        if faults:
            raise NetpressError("not ready for a run\n" + table(faults))
        return
    print(table(findings))
    if faults:
        raise NetpressError(f"mend {', '.join(line.name for line in faults)}, as said above")


def table(findings: list[Line]) -> str:
    """Return `findings` as aligned lines."""
    width = max(len(line.name) for line in findings)
    indent = "\n" + " " * (width + 8)
    return "\n".join(f"{f.mark:<4}  {f.name:<{width}}  {f.text.replace(chr(10), indent)}" for f in findings)


def examine(root: Path) -> Iterator[Line]:
    """Yield the findings for the project in `root`."""
    version = platform.python_version()
    yield Line("ok" if sys.version_info >= (3, 11) else "FAIL", "python", f"{version} (3.11 or later)")
    for package in PACKAGES:
        yield _package(package)
    yield _device()
    yield from _machine(root)
    yield from _rwlock(root)
    yield from _project(root)


def mend(root: Path) -> None:
    """Remove DVC's lock if it is cut off and no dvc is at work in the project, and say so; DVC makes it anew."""
    if _is_cut_off(root / RWLOCK) and not _dvc_at_work(root):
        (root / RWLOCK).unlink()
        print(f"removed {RWLOCK}, which a full disk had cut off")


def _package(name: str) -> Line:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Line("FAIL", name, "not installed: run 'make setup'")
    if name == "torch" and tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TORCH:
        return Line("FAIL", name, f"{version}, older than {'.'.join(map(str, OLDEST_TORCH))}: run 'make setup'")
    return Line("ok", name, version)


def _device() -> Line:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Line("FAIL", "device", f"torch cannot be imported ({str(error).splitlines()[0]}): run 'make setup'")
    if torch.cuda.is_available():
        return Line("ok", "device", f"cuda, {torch.cuda.get_device_name()}; cpu, {cpu_name()}")
    return Line("ok", "device", f"cpu, {cpu_name()}; no cuda")


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine(root: Path) -> Iterator[Line]:
    disk = shutil.disk_usage(root).free / 1e9
    yield Line("ok" if disk >= DISK_GB else "warn", "disk", f"{disk:.1f} GB free here")
    try:
        import psutil
    except ImportError:
        yield Line("FAIL", "memory", "psutil is not installed: run 'make setup'")
        return
    memory = psutil.virtual_memory().available / 1e9
    hint = "" if memory >= MEMORY_GB else f"; the default profile may take {MEMORY_GB:.0f} GB"
    yield Line("warn" if hint else "ok", "memory", f"{memory:.1f} GB free{hint}")


def _rwlock(root: Path) -> Iterator[Line]:
    if not _is_cut_off(root / RWLOCK):
        return
    if at_work := _dvc_at_work(root):  # which may be writing it at this moment
        yield Line("warn", "rwlock", f"{RWLOCK} is not whole; dvc is at work here, process {at_work[0]}")
    else:
        remedy = f"free some space and run 'rm {RWLOCK}' (no dvc is running here), or 'make repro', which removes it"
        yield Line("FAIL", "rwlock", f"{RWLOCK} is cut off, as a full disk leaves it, and dvc cannot run:\n{remedy}")


def _is_cut_off(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def _dvc_at_work(root: Path) -> list[int]:
    """Return the processes that are called dvc and work in the project, or in a folder that may not be asked for."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        cwd = process.info["cwd"]
        is_dvc = any(Path(word).name == "dvc" for word in process.info["cmdline"] or [])
        if is_dvc and (cwd is None or Path(cwd).is_relative_to(root.resolve())):
            found.append(process.pid)
    return found


def _project(root: Path) -> Iterator[Line]:
    path = root / "params.yaml"
    try:
        from netpress import reader
        from netpress.checks import check_project
    except ImportError as error:
        yield Line("FAIL", "params.yaml", f"cannot be checked ({error}): run 'make setup'")
        return
    try:
        shared = reader.for_shared(path)
        yield _threads(shared.runtime.threads)
        if shared.runtime.device == "cuda" and not _has_cuda():
            yield Line("FAIL", "runtime.device", "cuda, but there is none here: set it to auto or cpu in params.yaml")
    except ConfigError:
        yield Line("ok", "threads", f"{_cores()} cores")
    try:
        params = check_project(root)
        yield Line("ok", "data", params.data.root)
        yield Line("ok", "params.yaml", f"valid: profile {params.profile}, {len(params.items())} models")
    except NetpressError as error:
        yield Line("FAIL", "params.yaml", str(error))


def _threads(threads: int) -> Line:
    cores = _cores()
    text = f"{threads} of {cores} cores (runtime.threads)"
    return Line("ok" if threads <= cores else "warn", "threads", text)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
