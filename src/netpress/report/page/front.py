"""The page's chart of accuracy against what a model costs, with the Pareto front and what a budget buys."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netpress.base.model_id import ModelId
from netpress.params.families import FAMILIES
from netpress.report import style
from netpress.report.collect import Study
from netpress.report.curves import Curve
from netpress.report.page.charts import Spec, bars, frame, log_x, percent_y
from netpress.report.pareto import Point, front
from netpress.report.size_figure import short_name

TITLES = tuple(dict.fromkeys(row.title for row in FAMILIES.values()))
#: What is shown beside the families: not to be chosen, since its weights are not kept.
CONTROL = "pruned shape from scratch"
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
LOOKS = dict(zip((*TITLES, CONTROL), zip(style.PALETTE, SHAPES, strict=True), strict=True))
#: Of a label: away from the edges.
ALIGN = {
    "expr": "scale('x', datum.cost) > 0.7 * width ? 'right' : scale('x', datum.cost) < 0.3 * width ? 'left' : 'center'"
}
#: Names of neighbours on the front stand in so many rows below them, since models of about one size are close.
ROWS = 3
DOWN = {"expr": "16 + 13 * datum.row"}
FITS = {"condition": {"test": "datum.cost <= budget", "value": 1}, "value": 0.3}


@dataclass(frozen=True)
class Axis:
    """What models may cost.

    Attributes:
        key: of the costs.
        title: as the axis is called.
        unit: what follows a number of it: B, parameters, MACs or ms.
        costs: model id -> cost, of the models where it is known.
    """

    key: str
    title: str
    unit: str
    costs: Mapping[str, float]


def front_spec(
    study: Study, points: Sequence[Point], halves: Mapping[str, float], curves: Sequence[Curve], axis: Axis
) -> Spec:
    """Return accuracy against one cost: models by colour and shape of their family, intervals, and the Pareto front.

    The parameters `budget` and `winner` say which points fit and which one is named.
    """
    known = [point for point in points if point.id in axis.costs]
    rows = [_row(study, point, axis, halves.get(point.id)) for point in known] + _controls(curves, axis)
    best = front(known, axis.costs)
    unit = axis.unit if axis.unit in ("B", "ms") else ""
    x = log_x("cost", f"{axis.title} (log scale)", unit, (row["cost"] for row in rows))
    y = percent_y("accuracy", rows)
    line = [
        {"cost": axis.costs[p.id], "accuracy": 100 * p.val_acc, "label": short_name(p.id), "model": p.id, "row": row}
        for p, row in zip(best, itertools.cycle(range(ROWS)), strict=False)
    ]
    return {
        **frame(f"Validation accuracy against {axis.title} of {len(rows)} networks", 400),
        "params": [{"name": "budget", "value": max(axis.costs.values(), default=1)}, {"name": "winner", "value": ""}],
        "layer": [
            {
                "data": {"values": line},
                "mark": {"type": "line", "interpolate": "step-after", "strokeDash": [5, 3], "strokeWidth": 1.2},
                "encoding": {"x": x, "y": y, "color": {"value": style.GREY}},
            },
            {
                "data": {"values": [{}]},
                "mark": {"type": "rule", "strokeWidth": 1, "color": style.GREY},
                "transform": [{"calculate": "budget", "as": "cost"}],
                "encoding": {"x": x},
            },
            *bars(rows, {"x": x, "opacity": FITS}),
            {
                "data": {"values": rows},
                "mark": {"type": "point", "filled": True, "strokeWidth": 0.8},
                "encoding": {"x": x, "y": y, "opacity": FITS, **_marks(rows, axis)},
            },
            {
                "data": {"values": line},
                "mark": {"type": "text", "dy": DOWN, "fontSize": 10.5, "tooltip": False, "align": ALIGN},
                "encoding": {
                    "x": x,
                    "y": y,
                    "text": {"field": "label"},
                    "opacity": {"condition": {"test": "datum.model == winner", "value": 0}, "value": 0.8},
                },
            },
            {
                # Not filtered, since a layer without rows has no extent, which Vega warns of.
                "data": {"values": rows},
                "layer": [
                    {"mark": {"type": "point", "size": 330, "strokeWidth": 2, "filled": False, "tooltip": False}},
                    {
                        "mark": {"type": "text", "dy": -17, "fontWeight": "bold", "tooltip": False, "align": ALIGN},
                        "encoding": {"text": {"field": "model"}},
                    },
                ],
                "encoding": {
                    "x": x,
                    "y": y,
                    "opacity": {"condition": {"test": "datum.model == winner", "value": 1}, "value": 0},
                },
            },
        ],
    }


def _row(study: Study, point: Point, axis: Axis, half: float | None) -> Spec:
    ends = {"low": 100 * (point.val_acc - half), "high": 100 * (point.val_acc + half)} if half else {}
    return {
        "model": point.id,
        "anchor": f"#{ModelId(point.id).base}",
        "family": point.family,
        "is_model": ModelId(point.id).round is None,
        "cost": axis.costs[point.id],
        "accuracy": round(100 * point.val_acc, 3),
        "seeds": study.measured(point.id).n_seeds,
    } | ends


def _controls(curves: Sequence[Curve], axis: Axis) -> list[Spec]:
    """Return the pruned shapes that were trained from scratch; how long they take was not measured."""
    return [
        {
            "model": f"the shape of {curve.model_id}, round {row.round}",
            "anchor": f"#{curve.model_id}",
            "family": CONTROL,
            "is_model": True,
            "cost": getattr(row, axis.key),
            "accuracy": round(100 * row.control_val_acc, 3),
            "seeds": row.n_seeds,
        }
        for curve in curves
        for row in curve.rounds
        if row.control_val_acc is not None and hasattr(row, axis.key)
    ]


def _marks(rows: Sequence[Spec], axis: Axis) -> Spec:
    """Return colour, shape and size of the points, what is shown of one, and where it leads."""
    shown = [name for name in LOOKS if any(row["family"] == name for row in rows)]
    colours, shapes = zip(*(LOOKS[name] for name in shown), strict=True)
    number = ",.4~g" if axis.unit == "ms" else ","
    return {
        "color": {
            "field": "family",
            "type": "nominal",
            "scale": {"domain": shown, "range": list(colours)},
            "legend": {"title": None, "orient": "top", "columns": 4, "symbolSize": 90, "labelLimit": 300},
        },
        "shape": {"field": "family", "type": "nominal", "scale": {"domain": shown, "range": list(shapes)}},
        "size": {"condition": {"test": "datum.is_model", "value": 110}, "value": 60},
        "href": {"field": "anchor", "type": "nominal"},
        "tooltip": [
            {"field": "model", "type": "nominal", "title": "model"},
            {"field": "family", "type": "nominal", "title": "family"},
            {"field": "accuracy", "type": "quantitative", "format": ".2f", "title": "accuracy (%)"},
            {"field": "seeds", "type": "quantitative", "title": "seeds"},
            {
                "field": "cost",
                "type": "quantitative",
                "format": number,
                "title": "bytes" if axis.unit == "B" else axis.unit,
            },
        ],
    }
