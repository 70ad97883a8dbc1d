"""`python -m netpress COMMAND`: what is done by hand around `dvc repro`.

Every command acts on the nearest folder at or above the current one that holds dvc.yaml.
"""

import argparse
import sys

from netpress.base.script import guarded
from netpress.cli import doctor, predict, report, use, verify

COMMANDS = {"use": use, "doctor": doctor, "report": report, "verify": verify, "predict": predict}


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv` (default: the command line) names; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m netpress", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
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
    args = parser.parse_args(argv)
    return guarded(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
