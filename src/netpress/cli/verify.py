"""Check that the committed results follow from the committed code, params and data.

    python -m netpress verify               all of them, made again: as long as a run
    python -m netpress verify --quick       what is written agrees, in seconds
    python -m netpress verify --sample 2    two models drawn by the commit

Runs the stages of dvc.lock again in a clean clone of the commit and says for every output whether it is bit-exact,
equivalent (other bytes, as accurate within a margin) or drifted, which stage diverged first, and what differs in the
environment. --quick runs nothing: it checks that code, params, dvc.lock, metrics and tables agree with one another.
Exit codes: 0 bit-exact or nothing found, 3 equivalent, 4 cannot tell, 1 drifted or findings, 2 usage, 130 Ctrl-C.
"""

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType

from netpress.base.project import find_root
from netpress.cli._arguments import number_up_to, whole_number
from netpress.verify.equivalence import MARGIN
from netpress.verify.plan import UsageError

OK, FOUND, USAGE = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="run nothing, compare what is written; takes seconds")
    which.add_argument(
        "--stage",
        metavar="NAME",
        action="append",
        help="a stage (train@plain_cnn), all of a section (train) or a model id, with all it follows from; repeatable",
    )
    which.add_argument(
        "--sample",
        metavar="N",
        type=whole_number,
        help="N stages that make models, drawn by the commit, with their ancestors",
    )
    parser.add_argument(
        "--margin",
        metavar="SHARE",
        type=number_up_to(1, "0.01 is one point"),
        default=MARGIN,
        help=f"largest difference of accuracies that counts as none, 0 to 1 (default {MARGIN:g}, one point)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document; progress goes to stderr")
    parser.add_argument("--keep", action="store_true", help="keep the clean clone and name it")


def run(args: argparse.Namespace) -> None:
    """Verify the project around the current folder; exits with the verdict's code."""
    root = find_root()
    signal.signal(signal.SIGTERM, _stop)
    code = _quick(root, args.json) if args.quick else _full(root, args)
    if code:
        raise SystemExit(code)


def _quick(root: Path, as_json: bool) -> int:
    from netpress.verify import quick, words

    findings = quick.examine(root)
    print(_dump(words.findings_json(findings)) if as_json else words.findings_text(findings))
    return FOUND if findings else OK


def _full(root: Path, args: argparse.Namespace) -> int:
    from netpress.verify import full, words

    try:
        result = full.verify(root, args.stage or [], args.sample, args.margin, args.keep)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    print(_dump(words.result_json(result)) if args.json else words.result_text(result))
    return result.verdict.exit_code


def _dump(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def _stop(number: int, frame: FrameType | None) -> None:
    """End as by Ctrl-C, so that the clone and its processes go too."""
    raise KeyboardInterrupt
