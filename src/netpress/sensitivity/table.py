"""What was measured as a table, for a terminal and for a file."""

import textwrap
from collections.abc import Sequence
from typing import Any

from netpress.sensitivity.measure import WAYS, Effect, Row

#: Columns of the file: what a layer is, then KL in nats and the accuracy lost in points, for each way.
COLUMNS = (
    *("layer", "kind", "params", "params_share"),
    *(f"kl_{way.key}" for way in WAYS),
    *(f"drop_{way.key}" for way in WAYS),
)
#: Between columns, and between parts of the table.
GAP, WIDE_GAP = "  ", "    "
LEGEND = "-: does not apply; pruned, rank: normalizations are measured again, in the original too"
#: Letters of a layer's name that are left on the narrowest terminal.
LEAST = 8


def csv_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one row of `COLUMNS` a layer; what a way that does not apply would give is absent."""
    return [
        {"layer": row.layer, "kind": row.kind, "params": row.params, "params_share": row.share}
        | {f"kl_{key}": found.kl for key, found in row.effects.items() if found}
        | {f"drop_{key}": found.drop for key, found in row.effects.items() if found}
        for row in rows
    ]


def text(rows: Sequence[Row], width: int) -> str:
    """Return a line for each layer; KL and accuracy are two tables, one below the other, where `width` is too little.

    Long names lose their beginnings where that is too little still.
    """
    names = ["layer", *(row.layer for row in rows)]
    share = ["params", *(f"{100 * row.share:.1f} %" for row in rows)]
    kl = [[way.key, *(_kl(row.effects[way.key]) for row in rows)] for way in WAYS]
    drop = [[way.key, *(_drop(row.effects[way.key]) for row in rows)] for way in WAYS]
    shares = _part("", [share])
    parts = [_part("KL of the answers (nats)", kl), _part("accuracy lost (points)", drop)]
    together = _beside(_names(names, max(map(len, names))), shares, *parts)
    if len(together[0]) <= width:
        return f"{_lines(together)}{LEGEND}\n"
    tables = []
    for part in ([shares, parts[0]], [parts[1]]):
        room = width - sum(len(one[0]) + len(WIDE_GAP) for one in part)
        tables.append(_lines(_beside(_names(names, max(LEAST, min(room, max(map(len, names))))), *part)))
    return "\n".join([*tables, textwrap.fill(LEGEND, width)]) + "\n"


def _kl(found: Effect | None) -> str:
    if found is None:
        return "-"
    return f"{found.kl:.4f}" if found.kl >= 5e-5 or found.kl == 0 else f"{found.kl:.0e}"


def _drop(found: Effect | None) -> str:
    return "-" if found is None else f"{found.drop:.2f}"


def _names(names: Sequence[str], width: int) -> list[str]:
    """Return the names of layers, and an empty line above, all of one width; of long ones the end."""
    return [" " * width] + [(name if len(name) <= width else f"..{name[2 - width :]}").ljust(width) for name in names]


def _part(title: str, columns: Sequence[Sequence[str]]) -> list[str]:
    """Return columns as lines of one width, and their title above them."""
    widths = [max(map(len, column)) for column in columns]
    lines = [GAP.join(c.rjust(w) for c, w in zip(cells, widths, strict=True)) for cells in zip(*columns, strict=True)]
    width = max(len(title), len(lines[0]))
    return [title.rjust(width), *(line.rjust(width) for line in lines)]


def _beside(*parts: Sequence[str]) -> list[str]:
    return [WIDE_GAP.join(line) for line in zip(*parts, strict=True)]


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line.rstrip()}\n" for line in lines)
