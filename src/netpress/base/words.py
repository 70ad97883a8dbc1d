"""Lists of names in messages."""

import difflib

#: Known words that an error lists at most.
MAX_LISTED = 40


def near_or_known(word: str, known: list[str]) -> str:
    """Return `, did you mean 'x'?; known: x, y` with the nearest of the known words and the first of all of them."""
    more = f" and {len(known) - MAX_LISTED} more" if len(known) > MAX_LISTED else ""
    return f"{did_you_mean(word, known)}; known: {', '.join(known[:MAX_LISTED]) or 'none'}{more}"


def did_you_mean(word: str, known: list[str]) -> str:
    """Return `, did you mean 'x'?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean '{near[0]}'?" if near else ""


def some(names: list[str], shown: int = 3) -> str:
    """Return `names` in words: the first few, and how many there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
