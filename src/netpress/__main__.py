"""`python -m netpress COMMAND`: what is done by hand around `dvc repro`.

Every command acts on the nearest folder at or above the current one that holds dvc.yaml.
"""

import argparse
import importlib.metadata
import platform
import sys

from netpress.base.words import near_or_known
from netpress.cli import choose, diff, doctor, export, init, latency, predict, report, run, sensitivity, use, verify
from netpress.process.script import guarded

COMMANDS = {
    "use": use,
    "init": init,
    "doctor": doctor,
    "run": run,
    "report": report,
    "choose": choose,
    "verify": verify,
    "diff": diff,
    "latency": latency,
    "sensitivity": sensitivity,
    "export": export,
    "predict": predict,
}
#: Packages named by --version, the first of them this one.
PACKAGES = ("netpress", "torch", "dvc")


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv` (default: the command line) names; return its exit code.

    Without a command the help is printed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m netpress", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="store_true", help="print the versions of netpress, torch, dvc and Python")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, module in COMMANDS.items():
        doc = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=doc.splitlines()[0].rstrip("."),
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    given = sys.argv[1:] if argv is None else argv
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        parser.error(f"no command '{given[0]}'{near_or_known(given[0], list(COMMANDS))}")
    args = parser.parse_args(given)
    if args.version:
        print(versions())
        return 0
    if "run" not in args:
        parser.print_help()
        return 0
    return guarded(lambda: args.run(args))


def versions() -> str:
    """Return the versions that a report of a fault should name; nothing is imported for it."""
    return ", ".join([*(f"{name} {_version(name)}" for name in PACKAGES), f"Python {platform.python_version()}"])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
