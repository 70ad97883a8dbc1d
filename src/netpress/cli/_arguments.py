"""Types of arguments that several commands share."""

import argparse


def whole_number(text: str) -> int:
    """Return a number of 1 or more from the command line.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)
