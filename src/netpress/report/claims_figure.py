"""Figure: the differences that the claims are about, with their intervals."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from netpress.report import style
from netpress.report.claims import FAILS, HOLDS, OPEN, Comparison, Judged, words

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
    shown = set[str]()
    for place, (_, comparison) in enumerate(lines):
        verdict, centre = comparison.verdict, 100 * comparison.difference
        if comparison.margin is not None:
            axes.fill_betweenx(
                [place - 0.32, place + 0.32],
                -100 * comparison.margin,
                100 * comparison.margin,
                color=style.LIGHT,
                linewidth=0,
                label=None if "margin" in shown else "counts as equal",
                zorder=0,
            )
            shown.add("margin")
        if comparison.low is not None and comparison.high is not None:
            axes.plot(
                [100 * comparison.low, 100 * comparison.high], [place, place], color=COLOURS[verdict], linewidth=2
            )
        label = None if verdict in shown else verdict
        axes.scatter([centre], [place], color=COLOURS[verdict], marker=MARKERS[verdict], s=48, zorder=3, label=label)
        shown.add(verdict)
    axes.set_yticks(range(len(lines)), [f"{claim.name}:  {words(comparison)}" for claim, comparison in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel("Difference of the validation accuracies (points), with its 95 % interval where there are seeds")
    style.grid(axes, axis="x")
    axes.set_title("Claims, judged over the seeds")
    figure.legend(loc="outside right upper", handletextpad=0.4, labelspacing=0.6)
