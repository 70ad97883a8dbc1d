"""What every stage script does around its one call: arguments, project root, lock, errors in one line."""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from netpress.base.errors import NetpressError, ParamsError
from netpress.base.project import find_root
from netpress.process import torchrun
from netpress.process.ahead import is_ahead
from netpress.process.blame import blamed, out_of_memory
from netpress.process.lock import held
from netpress.process.stop import MESSAGE, end_at_once
from netpress.process.warm import handed_over


def guarded(action: Callable[[], None]) -> int:
    """Run `action`; a user's mistake ends in its message and exit code 1, Ctrl-C in 130."""
    try:
        with blamed():
            action()
    except NetpressError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, missing rights: the machine's state, not a bug
        print(f"error: {error}; fix it and run again", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print("error: out of memory; lower batch_size of the recipe or data.resolution, then go on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(MESSAGE, file=sys.stderr)
        return 130
    return 0


def run_stage(doc: str, action: Callable[[Path], None]) -> None:
    """Run a stage without a variant from the project's root and exit."""
    _parser(doc).parse_args()
    _run("", action)


def run_variant_stage(
    doc: str, action: Callable[[Path, str], None], variant_help: str, default: str | None = None
) -> None:
    """Run the stage of the variant named on the command line, or of `default`, from the project's root and exit."""
    parser = _parser(doc)
    nargs = "?" if default else None
    parser.add_argument("variant", metavar="VARIANT", help=variant_help, nargs=nargs, default=default)
    variant = parser.parse_args().variant
    _run(variant, lambda root: action(root, variant))


def _run(variant: str, action: Callable[[Path], None]) -> None:
    """Run `action` while no other process runs the same stage of the same variant here.

    Processes ahead of a stage work beside it; each seed has a lock of its own. Stages without a variant load less than
    they would wait for. Processes of one stage have locks of their own beside that of the process that started them,
    which may be gone before they are.
    """
    one_of_many = torchrun.number()
    if one_of_many is None and (code := handed_over(wait=bool(variant))) is not None:
        sys.exit(code)
    end_at_once(silent=one_of_many is not None)
    stage = Path(sys.argv[0]).stem
    name = re.sub(r"[^a-z0-9_]", ".", f"{stage} {variant}".strip())[:200]  # of a file

    def locked() -> None:
        root = find_root()
        os.chdir(root)  # params.yaml names folders relative to it
        lock = name if one_of_many is None else f"{name}.{one_of_many}"
        mine = held(root / ".netpress/locks" / lock, f"{stage} {variant}".strip())
        with nullcontext() if is_ahead() else mine:
            _located(root / "params.yaml", lambda: action(root))

    code = guarded(locked)
    if code and one_of_many:
        time.sleep(torchrun.PATIENCE)  # the first, whose words are shown, is to end before this one where both fail
    sys.exit(code)


def _located(params: Path, action: Callable[[], None]) -> None:
    """Run `action`; faults of keys that it finds while it works get their file, line and column."""
    try:
        action()
    except ParamsError as error:
        from netpress.params.document import read_document

        raise read_document(params).error(error.faults) from None


def _parser(doc: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
