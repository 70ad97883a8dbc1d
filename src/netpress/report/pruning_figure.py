"""Figure: validation accuracy against parameters, one line a pruning curve."""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from netpress.report import style
from netpress.report.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGEND_COLUMNS = 2


def draw(curves: Sequence[Curve]) -> bytes:
    """Return the PNG of the pruning curves; each parent's accuracy is a light horizontal line."""
    curves = [curve for curve in curves if curve.rounds]
    if not curves:
        return style.message("No pruning curve in params.yaml")
    with_control = [curve for curve in curves if any(row.control_val_acc is not None for row in curve.rounds)]
    lines = math.ceil((len(curves) + len(with_control)) / LEGEND_COLUMNS)
    return style.render(partial(_draw, curves), (8.4, 4.6 + 0.26 * lines))


def _draw(curves: Sequence[Curve], figure: "Figure") -> None:
    axes = figure.add_subplot()
    rounds = [row for curve in curves for row in curve.rounds]
    style.log_x(axes, [row.params for row in rounds], style.tick_count, "Parameters (log scale)", margin=1.3)
    controls = [row.control_val_acc for row in rounds if row.control_val_acc is not None]
    style.percent_y(axes, [100 * accuracy for accuracy in (*(row.val_acc for row in rounds), *controls)])
    style.grid(axes)
    _draw_parents(axes, curves)
    for number, curve in enumerate(curves):
        _draw_curve(axes, curve, number)
    axes.set_title("Pruning, round by round")
    figure.legend(loc="outside lower center", ncols=LEGEND_COLUMNS, handlelength=2.6, labelspacing=0.6)


def _draw_curve(axes: "Axes", curve: Curve, number: int) -> None:
    # Colours repeat after seven curves; the line style then tells them apart.
    colour = style.PALETTE[number % len(style.PALETTE)]
    marker = style.MARKERS[number % len(style.MARKERS)]
    dashes = ("-", "--", ":", "-.")[number // len(style.PALETTE) % 4]
    x = [row.params for row in curve.rounds]
    y = [100 * row.val_acc for row in curve.rounds]
    label = f"{curve.name}: {curve.parent}, rate {curve.rate:g}"
    # Round 0 is the parent, an unfilled marker like the controls'.
    axes.plot(
        x,
        y,
        dashes,
        color=colour,
        linewidth=1.8,
        zorder=3,
        label=label,
        marker=marker,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.7,
    )
    deviations = [100 * (row.val_acc_std or 0.0) if row.n_seeds > 1 else 0.0 for row in curve.rounds]
    if any(deviations):
        axes.errorbar(x, y, yerr=deviations, fmt="none", ecolor=colour, elinewidth=1, capsize=2.5, zorder=2)
    axes.plot(x[:1], y[:1], marker, color=colour, markersize=6.5, markerfacecolor="white", zorder=4)
    _draw_controls(axes, curve, colour, marker)


def _draw_controls(axes: "Axes", curve: Curve, colour: str, marker: str) -> None:
    """Draw the shapes trained from scratch: small unfilled markers, each joined to its round by a thin dotted line."""
    rounds = [row for row in curve.rounds if row.control_val_acc is not None]
    if not rounds:
        return
    x = [row.params for row in rounds]
    y = [100 * (row.control_val_acc or 0.0) for row in rounds]
    axes.vlines(x, y, [100 * row.val_acc for row in rounds], color=colour, linewidth=1, linestyle=":", zorder=2)
    deviations = [100 * (row.control_val_acc_std or 0.0) if row.n_seeds > 1 else 0.0 for row in rounds]
    if any(deviations):
        axes.errorbar(x, y, yerr=deviations, fmt="none", ecolor=colour, elinewidth=1, capsize=2.5, zorder=2)
    axes.plot(
        x,
        y,
        marker,
        color=colour,
        markersize=5.5,
        markerfacecolor="white",
        markeredgewidth=1.3,
        zorder=4,
        label=f"{curve.name}: same shapes trained from scratch",
    )


def _draw_parents(axes: "Axes", curves: Sequence[Curve]) -> None:
    before = {curve.parent: 100 * curve.rounds[0].val_acc for curve in curves}
    low, high = axes.get_ylim()
    last = None
    for parent, accuracy in sorted(before.items(), key=lambda pair: (-pair[1], pair[0])):
        axes.axhline(accuracy, color=style.GREY, linewidth=0.9, linestyle=(0, (5, 4)), alpha=0.7, zorder=1)
        # Under its line where the line above is too near for a text between the two.
        is_near = last is not None and last - accuracy < 0.05 * (high - low)
        axes.annotate(
            f"{parent} before pruning",
            (0.004, accuracy),
            xycoords=("axes fraction", "data"),
            xytext=(0, -3 if is_near else 3),
            textcoords="offset points",
            va="top" if is_near else "bottom",
            fontsize=8,
            color=style.GREY,
        )
        last = accuracy
