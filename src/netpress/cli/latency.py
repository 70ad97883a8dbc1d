"""Measure how long models take, side by side with what they were made from.

    python -m netpress latency                                    every model that is made
    python -m netpress latency quantize/student_int8 prune/main   these and their parents
    python -m netpress latency --batch 64 --json

One image and a batch, on one thread and on all cores, by onnxruntime; files take turns. Medians (p50) and ninetieth
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
from netpress.execute.slots import cores
from netpress.process.environment import cpu_name

if TYPE_CHECKING:
    from netpress.core.artifacts import Spec
    from netpress.deploy.latency import Records, Setting

#: Running processes, on average, from which figures are said to be doubtful.
LOADED = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("models", metavar="MODEL_ID", nargs="*", help="such as distill/kd_strong or prune/main/round_2")
    parser.add_argument("--batch", type=whole_number, default=32, help="images of the larger batch (default: 32)")
    parser.add_argument("--rounds", type=whole_number, default=15, help="turns of each file (default: 15)")
    parser.add_argument("--json", action="store_true", help="for scripts: what is written to the file")


def run(args: argparse.Namespace) -> None:
    """Measure models of the project around the current folder, and print a table."""
    import onnxruntime

    from netpress.core import artifacts
    from netpress.deploy import latency
    from netpress.deploy.latency import File, Setting, Timed
    from netpress.process.progress import ImageProgress

    root, load = find_root(), os.getloadavg()[0]
    specs = _specs(root, args.models)
    settings = [Setting(b, t) for b in sorted({1, args.batch}) for t in sorted({1, cores()})]
    listed, data = [], {}
    for name, (folder, spec) in specs.items():
        data[name] = artifacts.read_file(folder, spec, artifacts.ONNX)
        listed.append(File(name, data[name], spec.image))
    progress = ImageProgress("measuring", len(settings) * args.rounds, unit="rounds")
    found = latency.measure(listed, settings, args.rounds, lambda: progress.add(1))
    progress.close()
    records = latency.Records(
        cpu=cpu_name(),
        cores=cores(),
        onnxruntime=onnxruntime.__version__,
        load=round(load, 2),
        rounds=args.rounds,
        models={n: Timed(sha256=specs[n][1].weights_sha256, timings=timings) for n, timings in found.items()},
    )
    latency.write(root, records)
    if args.json:
        print((root / latency.FILE).read_text(encoding="utf-8"), end="")
        return
    print(_text(records, specs, data, settings))


def _specs(root: Path, named: list[str]) -> "dict[str, tuple[Path, Spec]]":
    """Return the models that are named, or all that are made, and their parents: name -> folder and spec."""
    from netpress.core import artifacts
    from netpress.params import reader

    wanted = [ModelId(name) for name in named]
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


def _text(
    records: "Records", specs: "dict[str, tuple[Path, Spec]]", data: dict[str, bytes], settings: "list[Setting]"
) -> str:
    """Return the table and what is to be known of it."""
    from netpress.report import markdown, units

    first, rows = settings[0], []
    for name, (_, spec) in specs.items():
        timed = records.models[name]
        cells = [f"{t.p50_ms:.3f} / {t.p90_ms:.3f}" for setting in settings if (t := timed.at(setting))]
        beside = ["-", "-", ""]
        parent = _beside(spec, specs)
        if parent and (own := timed.at(first)) and (its := records.models[parent].at(first)):
            faster = its.p50_ms / own.p50_ms
            beside = [parent, f"{faster:.2f}x", _why(data[name], spec, specs[parent][1], faster)]
        rows.append([name, units.size(spec.onnx_bytes), *cells, *beside])
    titles = [f"{setting} (ms, p50 / p90)" for setting in settings]
    head = ["Model", "ONNX", *titles, "Beside", "Times as fast", "Note"]
    told = [
        f"{records.cpu}, {records.cores} cores, onnxruntime {records.onnxruntime}; {records.rounds} rounds.",
        f"'Times as fast' compares the medians of {first}.",
    ]
    if records.load > LOADED:
        told.append(f"Other work was running (load {records.load:.1f}): figures are too high, and ratios doubtful.")
    return markdown.table(head, rows, last_left=True) + "\n" + "\n".join(told)


def _why(data: bytes, spec: "Spec", parent: "Spec", faster: float) -> str:
    """Say why a smaller file is no faster, if it is none."""
    from netpress.deploy.latency import kind_of

    if spec.onnx_bytes >= parent.onnx_bytes or faster >= 1.1:
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
