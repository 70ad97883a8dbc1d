"""Print as Markdown what changed in the results between two commits.

    python -m netpress diff main            HEAD against the branch main
    python -m netpress diff v1 v2 > changes.md

Claims with their verdicts, accuracies with the intervals of their differences, sizes, and `dvc metrics diff`. It reads
the metrics that the commits hold and runs nothing; CI writes it to the pull request.
"""

import argparse

from netpress.base.project import find_root


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("base", metavar="BASE", help="a commit, branch or tag: the results before")
    parser.add_argument("head", metavar="HEAD", nargs="?", default="HEAD", help="the results now (default: HEAD)")


def run(args: argparse.Namespace) -> None:
    """Print the changes of the project around the current folder."""
    from netpress.verify.changes import changes

    print(changes(find_root(), args.base, args.head), end="")
