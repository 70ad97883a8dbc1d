"""Say whether this machine and params.yaml are ready for a run.

    python -m netpress doctor             everything
    python -m netpress doctor --quiet     only what has to be fixed

Prints versions, device, speed, threads, free memory and disk, and checks arithmetic, the data folder, files of weights,
params.yaml and DVC's lock.
The exit code is 1 when something has to be fixed.
"""

import argparse
import importlib.metadata
import json
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from netpress.base.errors import ConfigError, NetpressError
from netpress.base.project import find_root
from netpress.cli._inputs import Line, inputs
from netpress.cli._unpulled import to_pull
from netpress.process.commands import changed_stages, has_git
from netpress.process.environment import cpu_name
from netpress.process.machine import MEMORY, cores, image_budget

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--quiet", action="store_true", help="print only what has to be fixed")
    parser.add_argument("--data", action="store_true", help="also open every image of the data source")


def run(args: argparse.Namespace) -> None:
    """Print the findings; raise when one of them is a FAIL."""
    root = find_root()
    findings = list(examine(root, args.data, timed=not args.quiet))
    faults = [line for line in findings if line.mark == "FAIL"]
    if args.quiet:
        if faults:
            raise NetpressError("not ready for a run\n" + table(faults))
        return
    print(table(findings))
    if faults:
        raise NetpressError(f"fix {', '.join(line.name for line in faults)}, as said above")


def table(findings: list[Line]) -> str:
    """Return `findings` as aligned lines."""
    width = max(len(line.name) for line in findings)
    indent = "\n" + " " * (width + 8)
    return "\n".join(f"{f.mark:<4}  {f.name:<{width}}  {f.text.replace(chr(10), indent)}" for f in findings)


def examine(root: Path, every_image: bool = False, timed: bool = True) -> Iterator[Line]:
    """Yield the findings for the project in `root`.

    `every_image` opens each image of the data source; `timed` also says how fast the processor is and what could be
    pulled, in about a second each.
    """
    version = platform.python_version()
    yield Line("ok" if sys.version_info >= (3, 11, 4) else "FAIL", "python", f"{version} (3.11.4 or later)")
    for package in PACKAGES:
        yield _package(package)
    device = _device()
    yield device
    if device.mark == "ok":
        yield _arithmetic(timed)
        yield _proposal()
    yield from _machine(root)
    yield from _rwlock(root)
    if timed:
        yield from _unpulled(root)
    yield from inputs(root, every_image)


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


def _arithmetic(timed: bool) -> Line:
    """Compare layers with double precision and, if `timed`, say how fast they are trained."""
    from netpress.core.kernels import small_maps
    from netpress.process import selftest

    errors = selftest.errors(small_maps)
    if wrong := [f"{name} by {error:.2g}" for name, error in errors.items() if not error <= selftest.ALLOWED]:
        said = f"off by more than {selftest.ALLOWED:g} of the largest value in double precision: {', '.join(wrong)}"
        remedy = "install PyTorch again (rm -rf .venv; make setup), or use another machine"
        return Line("FAIL", "arithmetic", f"{said}\n{remedy}")
    if not timed:
        return Line("ok", "arithmetic", "as in double precision")
    speeds = ", ".join(f"{name} {speed:.1f}" for name, speed in selftest.speeds(small_maps).items())
    return Line("ok", "arithmetic", f"as in double precision; GFLOP/s of one thread: {speeds}")


def _proposal() -> Line:
    """Say which `runtime` suits this machine."""
    import torch

    from netpress.core.runtime import has_bf16

    count = cores()
    if torch.cuda.is_available():
        return Line("ok", "runtime", f"proposed: device: auto, threads: {count}, precision: bf16")
    jobs = f"{count} jobs side by side (python -m netpress run)" if count > 1 else "one job after another"
    precision = "mixed" if has_bf16() else "fp32"
    return Line("ok", "runtime", f"proposed: device: cpu, threads: 1, precision: {precision}; {jobs}")


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
    try:
        yield Line("ok", "splits", f"of up to {image_budget() / 1e9:.1f} GB are held in memory ({MEMORY})")
    except ConfigError as error:
        yield Line("FAIL", "splits", str(error))


def _rwlock(root: Path) -> Iterator[Line]:
    try:
        json.loads((root / RWLOCK).read_bytes())
    except FileNotFoundError:
        return
    except ValueError:
        remedy = f"free some space and, unless a dvc is running here, run 'rm {RWLOCK}'"
        yield Line("FAIL", "rwlock", f"{RWLOCK} is cut off, as a full disk leaves it, and dvc cannot run:\n{remedy}")


def _unpulled(root: Path) -> Iterator[Line]:
    if not has_git(root) or not (root / "dvc.lock").is_file():
        return
    try:
        line = to_pull(root, changed_stages(root))
    except NetpressError:  # dvc cannot run here, of which the other lines say why
        return
    if line:
        yield Line("warn", "outputs", line)
