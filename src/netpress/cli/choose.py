"""Name the model to take under a budget, what it costs, and whether the next best is any worse.

    python -m netpress choose --max-bytes 250kB            the most accurate model of at most 250 kB
    python -m netpress choose --max-macs 1M --max-params 50k --json
    python -m netpress choose --max-latency 0.2            milliseconds of an image, as `latency` measured them here
    python -m netpress choose --max-drop 1 --of train/resnet18_strong    the smallest that loses at most one point

It reads metrics/ alone, and for times reports/latency.json; models that are not made yet do not count, nor those that
were measured on other data than data/prepared or made from other weights of a parent. The exit code is 1 where nothing
fits.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from netpress.base.errors import NetpressError
from netpress.base.model_id import ModelId
from netpress.base.project import PREPARED, find_root, metrics_file
from netpress.cli._arguments import number_up_to
from netpress.cli.report import up_to_date

if TYPE_CHECKING:
    from netpress.report.collect import Study

FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
AMOUNT = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([kmg]?)(b?)", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--max-bytes", metavar="SIZE", type=_size, help="of the ONNX file, such as 1MB or 250kB")
    parser.add_argument("--max-params", metavar="COUNT", type=_count, help="parameters, such as 50k")
    parser.add_argument("--max-macs", metavar="COUNT", type=_count, help="multiply-adds of an image, such as 1.5M")
    parser.add_argument(
        "--max-latency", metavar="MS", type=_milliseconds, help="of one image on one thread, such as 0.5 or 0.5ms"
    )
    drop = "points of validation accuracy that may be lost: takes the smallest model, not the most accurate"
    parser.add_argument("--max-drop", metavar="POINTS", type=number_up_to(100, "1 is one point"), help=drop)
    parser.add_argument("--of", metavar="MODEL", help="the model that --max-drop is measured from")
    parser.add_argument("--json", action="store_true", help="for scripts: one JSON object")


def run(args: argparse.Namespace) -> None:
    """Print the choice among the models of the project around the current folder."""
    amounts = {"onnx_bytes": args.max_bytes, "params": args.max_params, "macs": args.max_macs}
    limits = {key: value for key, value in amounts.items() if value is not None}
    if not limits and args.max_drop is None and args.max_latency is None:
        names = "--max-bytes, --max-params, --max-macs, --max-latency or --max-drop"
        raise NetpressError(f"name a budget: {names}; see --help")
    if (args.max_drop is None) != (args.of is None):
        raise NetpressError("--max-drop and --of go together: --max-drop 1 --of train/resnet18_strong")
    from netpress.base.words import some
    from netpress.core.dataset import load_manifest
    from netpress.graph.checks import load_checked
    from netpress.params.plugins import near_or_known
    from netpress.report import choice
    from netpress.report.collect import collect
    from netpress.report.curves import drawn_curves
    from netpress.report.present import present

    root = find_root()
    params = load_checked(root / "params.yaml")
    items = params.items()
    made = up_to_date(items, {ModelId(n).stage for n in items if not metrics_file(root, n).is_file()})
    if missing := [name for name in items if name not in made]:
        print(f"not made yet, so not counted: {some(missing)}", file=sys.stderr)
    prepared = root / PREPARED
    manifest = load_manifest(prepared) if prepared.is_dir() else None
    kept, tested = present(root, made, params.final, manifest.sha256["val_images.npy"] if manifest else None)
    if other := [name for name in made if name not in kept]:
        print(f"left out, since made from other data or weights than are there now: {some(other)}", file=sys.stderr)
    study = collect(root, kept, tested)
    lowest = 0.0
    if args.of is not None:
        if ModelId(args.of).base not in study.by_id:
            raise NetpressError(f"--of: no model '{args.of}'{near_or_known(args.of, list(study.by_id))}")
        lowest = study.measured(args.of).val_acc - args.max_drop / 100
    curves = [curve.model_id for curve in drawn_curves(study)]
    measured = {} if args.max_latency is None else _milliseconds_of(root, study, curves)
    budget = choice.Budget(limits, lowest, args.max_latency, measured)
    found = choice.choose(study, curves, budget, smallest=args.max_drop is not None)
    print(json.dumps(choice.as_json(study, found)) if args.json else choice.text(study, found), end="\n" * args.json)


def _milliseconds_of(root: Path, study: "Study", curves: list[str]) -> dict[str, float]:
    """Return the time of an image of each model that was measured as it is now."""
    from netpress.report import latency
    from netpress.report.pareto import points_of

    known = {point.id: study.measured(point.id).weights_sha256 for point in points_of(study, curves)}
    return latency.at(latency.of_now(latency.read(root), known))


def _milliseconds(text: str) -> float:
    try:
        value = float(text.strip().removesuffix("ms"))
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"'{text}' is no time; write milliseconds, such as 0.5 or 0.5ms")
    return value


def _amount(text: str, kind: str) -> float:
    match = AMOUNT.fullmatch(text.strip())
    if not match or (match[3] and kind != "size") or float(match[1]) == 0:
        example = "1MB, 250kB or 300000" if kind == "size" else "1.5M, 50k or 300000"
        raise argparse.ArgumentTypeError(f"'{text}' is no {kind}; write it as {example}")
    return float(match[1]) * FACTORS[match[2].lower()]


def _size(text: str) -> float:
    return _amount(text, "size")


def _count(text: str) -> float:
    return _amount(text, "count")
