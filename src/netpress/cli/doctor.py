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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from netpress.base.errors import ConfigError, NetpressError
from netpress.base.project import find_root
from netpress.process.environment import cpu_name

if TYPE_CHECKING:
    from netpress.params.items import Data

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
LISTED = ("imagefolder", "food11")  # sources that are folders of pictures
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
    parser.add_argument("--data", action="store_true", help="also open every image of the data source")
    parser.add_argument("--mend", action="store_true", help=f"remove {RWLOCK} if a full disk has cut it off")


def run(args: argparse.Namespace) -> None:
    """Print the findings; raise when one of them is a FAIL."""
    root = find_root()
    if args.mend:
        mend(root)
    findings = list(examine(root, args.data))
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


def examine(root: Path, every_image: bool = False) -> Iterator[Line]:
    """Yield the findings for the project in `root`; `every_image` opens each image of the data source."""
    version = platform.python_version()
    yield Line("ok" if sys.version_info >= (3, 11) else "FAIL", "python", f"{version} (3.11 or later)")
    for package in PACKAGES:
        yield _package(package)
    yield _device()
    yield from _machine(root)
    yield from _rwlock(root)
    yield from _project(root, every_image)


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


def _project(root: Path, every_image: bool) -> Iterator[Line]:
    path = root / "params.yaml"
    try:
        from netpress.graph.checks import check_project
        from netpress.params import reader
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
        yield from _data(root, params.data, every_image)
        yield Line("ok", "params.yaml", f"valid: profile {params.profile}, {len(params.items())} models")
    except NetpressError as error:
        yield Line("FAIL", "params.yaml", str(error))


def _data(root: Path, data: "Data", every_image: bool) -> Iterator[Line]:
    """Look at the listing of a folder of pictures, or at every image of any source."""
    from netpress.base.errors import DataError
    from netpress.ingest.look import look_through, open_source

    try:
        if every_image:
            seen = look_through(root, data)
            counts = ", ".join(f"{name} {count:,}" for name, count in seen.counts.items())
            yield Line("ok", "images", f"{sum(seen.counts.values()):,} can be used: {counts}")
            if seen.bad:
                yield _bad(seen.bad, seen.lines, data.on_bad_image)
        elif data.source in LISTED and (root / data.root).is_dir():  # an archive would have to be unpacked
            for note in open_source(root, data, root / data.root).notes:
                yield Line("warn", "data", note)
        yield Line("ok", "data", data.root)
    except DataError as error:
        yield Line("FAIL", "data", str(error))


def _bad(count: int, lines: Sequence[str], on_bad_image: str) -> Line:
    """Say which images cannot be used, and what becomes of them."""
    more = [f"and {count - len(lines)} more"] if count > len(lines) else []
    if on_bad_image == "skip":
        return Line("warn", "bad images", "\n".join([f"{count} are skipped (data.on_bad_image):", *lines, *more]))
    remedy = "fix or remove them, or set data.on_bad_image: skip in params.yaml"
    return Line("FAIL", "bad images", "\n".join([f"{count} cannot be used; {remedy}:", *lines, *more]))


def _threads(threads: int) -> Line:
    cores = _cores()
    text = f"{threads} of {cores} cores (runtime.threads)"
    return Line("ok" if threads <= cores else "warn", "threads", text)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
