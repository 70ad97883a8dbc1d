"""How fast netpress is, as ratios to something ordinary that is measured in turn with it, in the same run.

Training: `fit` beside an ordinary PyTorch loop (PIL, torchvision's transforms, DataLoader without and with processes
that load images, fp32, default memory format), on a quiet machine and beside a process that multiplies matrices; the
limit is the rate of the best matrix product here. Distillation: the same, and torchdistill's loop. Each loop has a
process of its own that lives on between its rounds; ours waits as the pipeline does, the others as OpenMP does where
nothing is set. Then start-up, `dvc repro` with nothing to do, `prepare`, int8, and the share of a run's time that is
spent on checkpoints. Every cell is a median with the lowest and the highest round.

    python benchmarks/bench.py                                   about 20 minutes on two cores
    python benchmarks/bench.py --quick                           two networks, two minutes
    python benchmarks/bench.py --write docs/results/bench.md     the whole table, into the file too

torchdistill is installed beside the requirements, into a folder of its own:
    uv pip install --no-deps --target build/torchdistill torchdistill==1.1.5
"""

import argparse
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from speed.cases import CASES, PAIR, QUICK
from speed.commands import beside_training, checkpoints
from speed.training import Effort, sections

from netpress.base.errors import NetpressError
from netpress.base.files import write_text
from netpress.cli._arguments import whole_number
from netpress.process.environment import cpu_name

ROOT = Path(__file__).parent.parent
PARTS = ("training", "beside", "checkpoints")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for and print it as Markdown; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="training alone, two networks, short rounds")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone; may be given again")
    parser.add_argument("--rounds", type=whole_number, help="of each candidate (default: 5; with --quick 3)")
    parser.add_argument("--seconds", type=_seconds, help="of a round, at least a step (default: 0.6; with --quick 0.3)")
    parser.add_argument("--threads", type=_threads, default=2, help="of each loop (default: 2)")
    parser.add_argument("--torchdistill", type=_folder, metavar="FOLDER", help="where torchdistill was installed")
    parser.add_argument("--pictures", type=Path, metavar="ZIP", help="photos in Food-11's layout, for `prepare`")
    parser.add_argument("--write", type=_place, metavar="FILE", help="write the Markdown there, too")
    given = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(given)
    rounds, seconds = args.rounds or (3 if args.quick else 5), args.seconds or (0.3 if args.quick else 0.6)
    effort = Effort(args.threads, rounds, seconds, args.torchdistill)
    try:
        text = report(args, effort, shlex.join(["python", "benchmarks/bench.py", *given]))
        if args.write:
            write_text(args.write, text)
    except NetpressError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text, end="")
    return 0


def report(args: argparse.Namespace, effort: Effort, command: str) -> str:
    """Measure the parts that are asked for; return the page."""
    parts = args.only or (PARTS[:1] if args.quick else PARTS)
    found = [head(effort, command)]
    if "training" in parts:
        pair = [PAIR] if effort.torchdistill or not args.quick else []
        found.append(sections([*(QUICK if args.quick else CASES), *pair], effort))
    if "beside" in parts:
        found.append(beside_training(ROOT, args.pictures, effort))
    if "checkpoints" in parts:
        found.append(checkpoints(effort))
    return "\n".join(found)


def head(effort: Effort, command: str) -> str:
    """Return the title, and on what machine and how it was measured."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "onnxruntime", "dvc"))
    return (
        f"# Speed\n\n{cpu_name()}, {os.cpu_count()} cores, {effort.threads} threads; {packages}, Python "
        f"{platform.python_version()}. Medians of {effort.rounds} rounds (lowest to highest); the rounds of all "
        f"candidates alternate, and each ratio is the median of the ratios of rounds that followed one another.\n\n"
        f"```sh\n{command}\n```\n"
    )


def _threads(text: str) -> int:
    cores = os.cpu_count() or 1
    if whole_number(text) > cores:
        raise argparse.ArgumentTypeError(f"{text}: this machine has {cores} cores")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 60:
        raise argparse.ArgumentTypeError(f"{text!r}: a number above 0, at most 60, is wanted")
    return seconds


def _folder(text: str) -> Path:
    place = Path(text).resolve()
    if not (place / "torchdistill/__init__.py").is_file():
        command = f"uv pip install --no-deps --target {text} torchdistill==1.1.5"
        raise argparse.ArgumentTypeError(f"{text} holds no torchdistill; install it: {command}")
    return place


def _place(text: str) -> Path:
    if not Path(text).absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: its folder is not there; make it first")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
