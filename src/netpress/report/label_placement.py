"""Labels beside points that cover neither one another nor the points."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from netpress.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

#: Tried in turn, in points from the marker: horizontal and vertical offset, alignments.
PLACES = [
    *(
        (dx, dy, ha, va)
        for dx, dy, ha, va in (
            (-7, 6, "right", "bottom"),
            (7, -6, "left", "top"),
            (7, 5, "left", "bottom"),
            (-7, -6, "right", "top"),
            (0, 10, "center", "bottom"),
            (0, -10, "center", "top"),
            (11, 0, "left", "center"),
            (-11, 0, "right", "center"),
        )
    ),
    *((-7, d, "right", "bottom") for d in (18, 30, 42, 54)),
    *((7, -d, "left", "top") for d in (18, 30, 42, 54)),
    *((0, d, "center", "bottom") for d in (22, 34, 46, 58)),
    *((0, -d, "center", "top") for d in (22, 34, 46, 58)),
]


def place(
    axes: "Axes",
    anchors: Sequence[tuple[float, float, str]],
    obstacles: Sequence[tuple[float, float]],
    line: Sequence[tuple[float, float]],
    size: float,
) -> None:
    """Write each anchor's text near (x, y), in the first place where it covers nothing; with a thin line when far.

    A text for which no place is free is left out; the tables name every point.

    Args:
        axes: where to write; its limits and scales are set.
        anchors: x, y and text of the named points.
        obstacles: all points.
        line: corners of a line of horizontal and vertical pieces that texts keep off, too.
        size: of the text, in points.
    """
    axes.figure.canvas.draw()  # settles the layout, so that boxes are known in pixels
    taken = [_box_around(axes, [point], 4.5) for point in obstacles]
    taken += [_box_around(axes, piece, 1.0) for piece in pairwise(line)]
    room = axes.get_window_extent()
    for x, y, text in anchors:
        for offset in PLACES:
            note = _note(axes, (x, y), text, offset, size)
            box = _text_box(note)
            inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            note.remove()


def _note(
    axes: "Axes", at: tuple[float, float], text: str, offset: tuple[float, float, str, str], size: float
) -> "Annotation":
    dx, dy, ha, va = offset
    note = axes.annotate(
        text,
        at,
        xytext=(dx, dy),
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=size,
        zorder=6,
        arrowprops={"arrowstyle": "-", "color": style.GREY, "linewidth": 0.6, "shrinkB": 3} if abs(dy) > 12 else None,
    )
    note.set_in_layout(False)  # else the layout moves after the boxes were measured
    return note


def _text_box(note: "Annotation") -> "Bbox":
    """Return the box of an annotation's text in pixels, without its line."""
    from matplotlib.text import Text

    note.update_positions(note.axes.figure.canvas.get_renderer())  # type: ignore[union-attr]
    return Text.get_window_extent(note)


def _box_around(axes: "Axes", points: Sequence[tuple[float, float]], margin: float) -> "Bbox":
    """Return the box in pixels around points of the data, `margin` typographic points wider on all sides."""
    from matplotlib.transforms import Bbox

    pixels = axes.transData.transform(points)
    free = margin * style.DPI / 72
    return Bbox([pixels.min(axis=0) - free, pixels.max(axis=0) + free])
