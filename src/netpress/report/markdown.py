"""Markdown tables that are also legible as plain text."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, last_left: bool = False) -> str:
    """Return a table whose columns are padded to one width.

    Args:
        header: the columns' titles.
        rows: cells as text, as many a row as titles.
        left: this many leading columns are aligned to the left, the rest to the right.
        last_left: the last column is aligned to the left too.
    """
    words = {*range(left), len(header) - 1} if last_left else {*range(left)}
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(row, widths, words) for row in cells]
    rule = ["-" * width if i in words else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([lines[0], f"| {' | '.join(rule)} |", *lines[1:]]) + "\n"


def _line(row: Sequence[str], widths: Sequence[int], words: set[int]) -> str:
    padded = [c.ljust(w) if i in words else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
    return f"| {' | '.join(padded)} |"
