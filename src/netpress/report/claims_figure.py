"""Figure: the differences that the claims are about, with their intervals."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from netpress.report import style
from netpress.report.claims import FAILS, HOLDS, OPEN, Comparison, Judged, words
from netpress.report.crossed import CONFIDENCE, WITHIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {HOLDS: style.PALETTE[2], FAILS: style.PALETTE[1], OPEN: style.GREY}
MARKERS = {HOLDS: "o", FAILS: "X", OPEN: "s"}


def draw(judged: Sequence[Judged]) -> bytes:
    """Return the PNG: a line for each comparison, its difference in points and its interval."""
    lines = [(claim, comparison) for claim in judged for comparison in claim.comparisons]
    if not lines:
        return style.message("No claim in params.yaml")
    return style.render(partial(_draw, lines), (9.6, 1.6 + 0.42 * len(lines)))


def _draw(lines: Sequence[tuple[Judged, Comparison]], figure: "Figure") -> None:
    axes = figure.add_subplot()
    axes.axvline(0, color=style.GREY, linewidth=1.0, zorder=1)
    for place, (_, comparison) in enumerate(lines):
        if comparison.margin is not None:
            axes.barh(place, 200 * comparison.margin, 0.64, -100 * comparison.margin, color=style.LIGHT, zorder=0)
        colour, marker = COLOURS[comparison.verdict], MARKERS[comparison.verdict]
        if comparison.crossed is not None:
            # Equality is told by the inner interval.
            for confidence, width in ((CONFIDENCE, 2), (WITHIN, 5))[: 1 if comparison.margin is None else 2]:
                half = comparison.crossed.half_width(confidence)
                ends = [100 * (comparison.difference - half), 100 * (comparison.difference + half)]
                axes.plot(ends, [place, place], color=colour, linewidth=width, solid_capstyle="butt", zorder=2)
        axes.scatter([100 * comparison.difference], [place], color=colour, marker=marker, s=48, zorder=3)
    names = [f"{claim.name}:  {words(comparison)}" for claim, comparison in lines]
    axes.set_yticks(range(len(lines)), names, fontsize=8.5)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel("Difference in validation accuracy (points)")
    style.grid(axes, axis="x")
    axes.set_title("Claims, judged over the seeds")
    _legend(figure, [comparison for _, comparison in lines])


def _legend(figure: "Figure", compared: Sequence[Comparison]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown = {comparison.verdict for comparison in compared}
    handles: list[Line2D | Patch] = [
        Line2D([], [], marker=MARKERS[verdict], linestyle="", color=COLOURS[verdict], markersize=7, label=verdict)
        for verdict in COLOURS
        if verdict in shown
    ]
    judged = [comparison for comparison in compared if comparison.crossed is not None]
    if judged:
        handles.append(Line2D([], [], color=style.INK, linewidth=2, label="95 % interval"))
    if any(comparison.margin is not None for comparison in judged):
        handles.append(Line2D([], [], color=style.INK, linewidth=5, label="90 %, within: equal"))
    if any(comparison.margin is not None for comparison in compared):
        handles.append(Patch(color=style.LIGHT, label="margin"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
