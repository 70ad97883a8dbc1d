"""Types of arguments that several commands share."""

import argparse
from collections.abc import Callable


def whole_number(text: str) -> int:
    """Return a number of 1 or more from the command line.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def number_up_to(highest: int, unit: str) -> Callable[[str], float]:
    """Return what reads a number from 0 to `highest`; `unit` says in messages what it counts.

    It raises argparse.ArgumentTypeError.
    """

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= highest:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to {highest}; {unit}")
        return value

    return read
