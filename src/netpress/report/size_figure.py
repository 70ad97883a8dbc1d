"""Figure: validation accuracy against file size, with the Pareto front."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from netpress.base.model_id import ONE_VARIANT, ROUND, ModelId
from netpress.report import style
from netpress.report.collect import FAMILIES
from netpress.report.label_placement import place
from netpress.report.pareto import Point, front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(points: Sequence[Point], halves: Mapping[str, float]) -> bytes:
    """Return the PNG of all networks on one plane; the models of the front are named, rounds are small points.

    `halves` are what `pareto.intervals` says of some of the points: bars.
    """
    if not points:
        return style.message("No model in params.yaml")
    return style.render(partial(_draw, points, halves), (9.6, 5.4))


def _draw(points: Sequence[Point], halves: Mapping[str, float], figure: "Figure") -> None:
    axes = figure.add_subplot()
    sizes = [p.onnx_bytes for p in points]
    style.log_x(axes, sizes, style.tick_size, "Size of the ONNX file (log scale)", margin=1.9)
    bars = [(p, halves[p.id]) for p in points if p.id in halves]
    ends = [p.val_acc + sign * half for p, half in bars for sign in (-1, 1)]
    style.percent_y(axes, [100 * accuracy for accuracy in (*(p.val_acc for p in points), *ends)], above=0.1)
    style.grid(axes)
    on_front = front(points)
    _draw_front(axes, on_front)
    _draw_points(axes, points)
    _draw_intervals(axes, bars)
    axes.set_title("Accuracy against size: up and left is better")
    figure.legend(loc="outside right upper", handletextpad=0.4, labelspacing=0.6)
    named = [(float(p.onnx_bytes), 100 * p.val_acc, short_name(p.id)) for p in on_front]
    # From the best model down: where room is short, the most accurate keep their names.
    place(axes, named[::-1], [(p.onnx_bytes, 100 * p.val_acc) for p in points], _steps(on_front), size=8.5)


def short_name(model_id: str) -> str:
    """Return the name on the figure, where the marker says the stage: 'distill/kd_weak' -> 'kd_weak'."""
    model = ModelId(model_id)
    name = model.variant if model.section != ONE_VARIANT else model
    return name.replace(f"/{ROUND}", ", round ")


def _steps(on_front: Sequence[Point]) -> list[tuple[float, float]]:
    """Return the corners of the front's line."""
    corners: list[tuple[float, float]] = []
    for point in on_front:
        if corners:
            corners.append((float(point.onnx_bytes), corners[-1][1]))
        corners.append((float(point.onnx_bytes), 100 * point.val_acc))
    return corners


def _draw_points(axes: "Axes", points: Sequence[Point]) -> None:
    for number, family in enumerate(dict.fromkeys(row.title for row in FAMILIES.values())):
        colour, marker = style.PALETTE[number], style.MARKERS[number]
        for is_round in (False, True):
            some = [p for p in points if p.family == family and p.is_round == is_round]
            if some:
                axes.scatter(
                    [p.onnx_bytes for p in some],
                    [100 * p.val_acc for p in some],
                    s=30 if is_round else 62,
                    c=colour,
                    marker=marker,
                    edgecolors="white",
                    linewidths=0.4 if is_round else 0.8,
                    zorder=4 if is_round else 5,
                    label=f"{family}, rounds" if is_round else family,
                )


def _draw_intervals(axes: "Axes", known: Sequence[tuple[Point, float]]) -> None:
    """Draw how far each accuracy may be off, beside the most accurate network's."""
    if known:
        x = [point.onnx_bytes for point, _ in known]
        low, high = ([100 * (p.val_acc + sign * half) for p, half in known] for sign in (-1, 1))
        label = "95 % interval of the difference\nfrom the most accurate network"
        axes.vlines(x, low, high, color=style.GREY, linewidth=1.0, alpha=0.8, zorder=3, label=label)


def _draw_front(axes: "Axes", on_front: Sequence[Point]) -> None:
    """Draw the best accuracy that a given number of bytes buys, up to the right edge."""
    x, y = zip(*_steps(on_front), strict=True)
    right = axes.get_xlim()[1]
    axes.plot([*x, right], [*y, y[-1]], color=style.GREY, linewidth=1.2, zorder=2, label="Pareto front")
