"""Figure: how far the answers move where one layer alone is changed; a column for each way, a bar for each layer."""

import math
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from netpress.report import style
from netpress.sensitivity.measure import WAYS, Row, Way

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Inches: of the whole width, of a layer's bar, and of what stands above and below the bars.
WIDTH, BAR, MARGIN = 9.6, 0.19, 1.6
#: Decades of the axis at most; smaller values have no bar.
DECADES = 7
#: Points of accuracy from which a loss is told beside its bar.
TOLD = 1.0


def draw(rows: Sequence[Row], title: str) -> bytes:
    """Return the PNG: KL on one log axis for all ways, with losses of a point of accuracy and more beside the bars."""
    if not rows:
        return style.message("No convolution and no linear layer runs in this model")
    return style.render(partial(_draw, rows, title), (WIDTH, MARGIN + BAR * len(rows)))


def _draw(rows: Sequence[Row], title: str, figure: "Figure") -> None:
    values = [found.kl for row in rows for found in row.effects.values() if found and found.kl > 0] or [1.0]
    high = max(values)
    low = min(max(10.0 ** math.floor(math.log10(min(values))), high / 10**DECADES), high / 10)
    panels = figure.subplots(1, len(WAYS), sharey=True)
    for number, (axes, way) in enumerate(zip(panels, WAYS, strict=True)):
        _draw_way(axes, rows, way, low, high)
        axes.tick_params(axis="y", length=0)
        axes.set_title(way.title, fontsize=11)
        if number == 0:
            _name_layers(axes, rows)
    figure.suptitle(textwrap.fill(title, 90), x=0.01, ha="left", weight="bold", fontsize=11)
    under = (
        "KL(original || changed), nats, log scale; orange: normalizations measured again, in the original too\n"
        "beside the names: share of the parameters; beside the bars: points of accuracy lost, where one or more"
    )
    figure.supxlabel(under, fontsize=9)


def _draw_way(axes: "Axes", rows: Sequence[Row], way: Way, low: float, high: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    colour = style.PALETTE[1] if way.refitted else style.PALETTE[0]
    axes.set_xscale("log")
    decades = math.log10(high / low)
    axes.set_xlim(low, high * 10 ** (0.15 * decades))  # room for what is told beside the longest bar
    steps = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1, max(1, round(decades / 3)))
    axes.xaxis.set_major_locator(FixedLocator([10.0**step for step in steps]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    style.grid(axes, "x")
    for place, row in enumerate(rows):
        found = row.effects[way.key]
        if found is None:
            _tell(axes, "n/a", low, place, style.GREY)
            continue
        end = max(found.kl, low)
        axes.barh(place, end - low, left=low, height=0.72, color=colour)
        if found.drop >= TOLD:
            _tell(axes, f"{found.drop:.0f}", end, place, style.INK)


def _tell(axes: "Axes", text: str, x: float, y: float, colour: str) -> None:
    offset = {"xytext": (3, 0), "textcoords": "offset points"}
    axes.annotate(text, (x, y), va="center", fontsize=7.5, color=colour, **offset)  # type: ignore[arg-type]


def _name_layers(axes: "Axes", rows: Sequence[Row]) -> None:
    """Write each layer's name and its share of the parameters, the first layer at the top."""
    axes.set_ylim(len(rows) - 0.4, -0.6)
    names = [f"{row.layer}  ({100 * row.share:.1f} %)" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8.5)


def tick(value: float) -> str:
    """A power of ten on an axis: 0.001 -> '0.001', 1e-05 -> '1e-5'."""
    return f"{value:g}" if value >= 1e-3 else f"1e{round(math.log10(value))}"
