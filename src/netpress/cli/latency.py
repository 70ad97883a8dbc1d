"""Measure how long models take, side by side with what they were made from.

    python -m netpress latency                                    every model that is made
    python -m netpress latency quantize/student_int8 prune/main   these and their parents
    python -m netpress latency --batch 64 --json

One image and a batch, on one thread and on all cores, by onnxruntime, and by OpenVINO where it is installed
(.venv/bin/uv pip install -r requirements-openvino.txt); files take turns. Medians (p50) and ninetieth
percentiles (p90) are of one batch. What is found goes to reports/latency.json, where `choose --max-latency` and
`export` look it up; it is of this machine alone, and no result follows from it.
"""

import argparse
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from netpress.base.errors import ArtifactError, NetpressError
from netpress.base.model_id import ModelId
from netpress.base.project import find_root, metrics_file
from netpress.cli._arguments import whole_number
from netpress.cli._models import made
from netpress.process.environment import cpu_name
from netpress.process.machine import cores

if TYPE_CHECKING:
    from netpress.core.artifacts import Spec
    from netpress.report.latency import Timed

#: From here on a file counts as faster.
FASTER = 1.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("models", metavar="MODEL_ID", nargs="*", help="such as distill/kd_strong or prune/main/round_2")
    parser.add_argument("--batch", type=whole_number, default=32, help="images of the larger batch (default: 32)")
    parser.add_argument("--rounds", type=whole_number, default=15, help="turns of each file (default: 15)")
    parser.add_argument("--runtime", metavar="NAME", help="onnxruntime or openvino; default: all that are installed")
    parser.add_argument("--json", action="store_true", help="for scripts: what is written to the file")


def run(args: argparse.Namespace) -> None:
    """Measure models of the project around the current folder, and print a table."""
    from netpress.base import model_files
    from netpress.core import artifacts
    from netpress.deploy.latency import File, measure, runtimes
    from netpress.process.progress import ImageProgress
    from netpress.report import latency
    from netpress.report.latency import Setting, Timed

    root, load = find_root(), os.getloadavg()[0]
    specs = _specs(root, args.models)
    known = runtimes()
    if args.runtime not in (None, *known):
        raise NetpressError(f"--runtime {args.runtime}: installed here are {' and '.join(known)}; see --help")
    taken = {name: version for name, version in known.items() if args.runtime in (None, name)}
    settings = [Setting(b, t, r) for r in taken for b in sorted({1, args.batch}) for t in sorted({1, cores()})]
    listed, data = [], {}
    for name, (folder, spec) in specs.items():
        data[name] = artifacts.read_file(folder, spec, model_files.ONNX)
        listed.append(File(name, data[name], spec.image))
    progress = ImageProgress("measuring", len(settings) * args.rounds, unit="rounds")
    found = measure(listed, settings, args.rounds, lambda: progress.add(1))
    progress.close()
    models = {
        name: Timed(
            sha256=specs[name][1].weights_sha256,
            onnx_bytes=specs[name][1].onnx_bytes,
            timings=timings,
            beside=_beside(specs[name][1], specs),
        )
        for name, timings in found.items()
    }
    for name, timed in models.items():
        if timed.beside is not None:
            models[name] = timed.model_copy(update={"note": _why(data[name], timed, models[timed.beside])})
    records = latency.Records(
        cpu=cpu_name(),
        cores=cores(),
        runtimes=taken,
        load=round(load, 2),
        rounds=args.rounds,
        models=models,
    )
    latency.write(root, records)
    if args.json:
        print((root / latency.FILE).read_text(encoding="utf-8"), end="")
        return
    print(latency.latency_table(records), end="")


def _specs(root: Path, named: list[str]) -> "dict[str, tuple[Path, Spec]]":
    """Return the models that are named, or all that are made, and their parents: name -> folder and spec."""
    from netpress.core import artifacts
    from netpress.params import reader

    wanted = [made(root, name) for name in named]
    if not wanted:
        known = [ModelId(name) for name in reader.load(root / "params.yaml").items()]
        wanted = [name for name in known if metrics_file(root, name).is_file() and name.folder(root).is_dir()]
    if not wanted:
        raise NetpressError("no model is made here; run 'dvc repro', or 'dvc pull' where another machine made them")
    found: dict[str, tuple[Path, Spec]] = {}
    for name in wanted:
        folder = artifacts.seed_folder(name.folder(root), None)
        found[name] = folder, artifacts.read_spec(folder)
    for name in wanted:
        spec = found[name][1]
        if (parent := spec.parent) is not None and _beside(spec, found) is None:
            try:
                folder = artifacts.seed_folder(ModelId(parent).folder(root), None)
                found[parent] = folder, artifacts.read_spec(folder)
            except ArtifactError as error:
                print(f"note: {parent} is left out: {error}", file=sys.stderr)
    return found


def _beside(spec: "Spec", specs: "dict[str, tuple[Path, Spec]]") -> str | None:
    """Return the measured model that one was made from or taught by; the last round of a curve bears two names."""
    return next((name for name, (_, one) in specs.items() if one.weights_sha256 == spec.parent_sha256), None)


def _why(data: bytes, timed: "Timed", parent: "Timed") -> str:
    """Say why a smaller file is no faster, if it is none."""
    from netpress.deploy.latency import kind_of
    from netpress.report.latency import times_as_fast

    faster = times_as_fast(timed, parent)
    if timed.onnx_bytes >= parent.onnx_bytes or faster is None or faster >= FASTER:
        return ""
    kind = kind_of(data)
    if kind == "integers" and not _multiplies_integers():
        why = "this processor has no instructions for products of integers (VNNI)"
    elif kind == "integers":
        why = "its layers are so small that turning floats into integers takes what their products save"
    elif kind == "weights":
        why = "its weights are turned into floats when it is loaded"
    else:
        why = "thin layers take as long as wider ones, in all but their products"
    return f"smaller, not faster: {why}"


def _multiplies_integers() -> bool:
    """Whether the processor has instructions for products of integers of 8 bits."""
    import torch

    known = torch.cpu.get_capabilities()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not x86 or any(known.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
