"""Say whether this machine and params.yaml are ready for a run.

    python -m netpress doctor             everything
    python -m netpress doctor --quiet     only what has to be fixed

Prints versions, device, speed, threads, free memory and disk, and checks arithmetic, the data folder, files of weights,
params.yaml and DVC's lock.
The exit code is 1 when something has to be fixed.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import platform
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from netpress.base.errors import ArtifactError, ConfigError, NetpressError
from netpress.base.project import find_root
from netpress.cli._unpulled import to_pull
from netpress.process.blame import blamed
from netpress.process.commands import changed_stages, has_git
from netpress.process.environment import cpu_name
from netpress.process.machine import MEMORY, cores, image_budget

if TYPE_CHECKING:
    from netpress.ingest.pieces import Source
    from netpress.params.items import Data
    from netpress.params.recipes import Runtime
    from netpress.params.whole import Params

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
NAMED = 200  # bad images, at most
RWLOCK = ".dvc/tmp/rwlock"  # who reads and writes what, as DVC notes it; it writes this file in place


@dataclass(frozen=True)
class Line:
    """One finding: `mark` is ok, warn (a run will work, perhaps not well) or FAIL."""

    mark: str
    name: str
    text: str


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
    yield from _project(root, every_image)


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


def _project(root: Path, every_image: bool) -> Iterator[Line]:
    path = root / "params.yaml"
    try:
        from netpress.core.runtime import lacking
        from netpress.graph.checks import check_project
        from netpress.params import reader
    except (ImportError, OSError) as error:
        yield Line("FAIL", "params.yaml", f"cannot be checked ({error}): run 'make setup'")
        return
    try:
        shared = reader.for_shared(path)
        yield _threads(shared.runtime)
        yield from (Line("FAIL", key, text) for key, text in lacking(shared.runtime))
    except ConfigError:
        yield Line("ok", "threads", f"{cores()} cores")
    try:
        with blamed():
            params = check_project(root)
            yield from _weights(root, params)
            yield from _data(root, params.data, every_image)
        yield Line("ok", "params.yaml", f"valid: profile {params.profile}, {len(params.items())} models")
    except NetpressError as error:
        yield Line("FAIL", "params.yaml", str(error))


def _weights(root: Path, params: "Params") -> Iterator[Line]:
    """Give every network of `train` the file of weights that its `init` names, as its stage will."""
    from netpress.base.files import sha256_file
    from netpress.core.networks import build_model
    from netpress.graph.rounds import known_shape
    from netpress.params.items import NONE
    from netpress.params.reader import weights_file
    from netpress.train.pretrained import load_into

    classes, channels = known_shape(params.data)
    for name, item in params.train.items():
        if item.init == NONE:
            continue
        key, count = f"train.{name}.init", len(item.class_names or ()) or classes
        path = weights_file(root, item.init, key)
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                load_into(
                    build_model(item.arch, count, channels, **item.options),
                    path,
                    sha256_file(path),
                    item.arch,
                    key,
                    count,
                )
        except ArtifactError as error:
            yield Line("FAIL", "weights", str(error))
        else:
            yield Line("ok", "weights", f"train/{name} {said.getvalue().strip()}")


def _data(root: Path, data: "Data", every_image: bool) -> Iterator[Line]:
    """Look at the listing of a folder of pictures, or at every image of any source."""
    from netpress.base.errors import DataError
    from netpress.params import plugins

    # An archive would have to be unpacked.
    listed = every_image or (data.source in LISTED and (root / data.root).is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix="netpress-") as folder:
            if listed:
                module = plugins.load("ingest/sources", data.module, "data.source")
                source = module.read(root / data.root, data, Path(folder) / "unpacked")
                yield from (Line("warn", "data", note) for note in source.notes)
            if every_image:
                yield from _images(source, data.on_bad_image)
        yield Line("ok", "data", data.root)
    except DataError as error:
        yield Line("FAIL", "data", str(error))


def _images(source: "Source", on_bad_image: str) -> Iterator[Line]:
    """Open every image, and say which cannot be used and what becomes of them."""
    from netpress.ingest.spool import all_pieces
    from netpress.process.progress import ImageProgress

    counts: Counter[str] = Counter()
    bad: list[str] = []
    with contextlib.closing(ImageProgress("opening", source.total)) as progress:
        for name, piece in all_pieces(source):
            counts[name] += len(piece.labels)
            bad += piece.bad
            progress.add(len(piece.labels) + len(piece.bad))
    said = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    yield Line("ok", "images", f"{counts.total():,} can be used: {said}")
    if bad:
        more = [f"and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
        mark, remedy = "FAIL", "cannot be used; fix or remove them, or set data.on_bad_image: skip in params.yaml:"
        if on_bad_image == "skip":
            mark, remedy = "warn", "are skipped (data.on_bad_image):"
        yield Line(mark, "bad images", "\n".join([f"{len(bad)} {remedy}", *bad[:NAMED], *more]))


def _threads(runtime: "Runtime") -> Line:
    from netpress.core.runtime import devices_of

    count, devices = cores(), devices_of(runtime)
    many = f" for each of {devices} devices (runtime.devices)" if devices > 1 else ""
    text = f"{runtime.threads} of {count} cores (runtime.threads){many}"
    return Line("ok" if runtime.threads * devices <= count else "warn", "threads", text)
