"""The page's charts, as Vega-Lite specifications without colours of text and background: the page has two themes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netpress.base.model_id import ModelId
from netpress.params.families import FAMILIES
from netpress.report import style
from netpress.report.collect import Study
from netpress.report.curves import Curve
from netpress.report.pareto import Point
from netpress.report.size_figure import short_name

Spec = dict[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
TITLES = tuple(dict.fromkeys(row.title for row in FAMILIES.values()))
#: What is shown beside the families: not to be chosen, since its weights are not kept.
CONTROL = "pruned shape from scratch"
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
LOOKS = dict(zip((*TITLES, CONTROL), zip(style.PALETTE, SHAPES, strict=True), strict=True))
#: Of a label: away from the edges.
ALIGN = {
    "expr": "scale('x', datum.cost) > 0.7 * width ? 'right' : scale('x', datum.cost) < 0.3 * width ? 'left' : 'center'"
}
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
    line = steps_up(known, axis.costs)
    unit = axis.unit if axis.unit in ("B", "ms") else ""
    x = _log("cost", f"{axis.title} (log scale)", unit, (row["cost"] for row in rows))
    y = _percent("accuracy", rows)
    front = [
        {"cost": axis.costs[p.id], "accuracy": 100 * p.val_acc, "label": short_name(p.id), "model": p.id}
        for p in known
        if (axis.costs[p.id], p.val_acc) in line
    ]
    return {
        **_frame(f"Validation accuracy against {axis.title} of {len(rows)} networks", 400),
        "params": [{"name": "budget", "value": max(axis.costs.values(), default=1)}, {"name": "winner", "value": ""}],
        "layer": [
            {
                "data": {"values": [{"cost": cost, "accuracy": 100 * accuracy} for cost, accuracy in line]},
                "mark": {"type": "line", "interpolate": "step-after", "strokeDash": [5, 3], "strokeWidth": 1.2},
                "encoding": {"x": x, "y": y, "color": {"value": style.GREY}},
            },
            {
                "data": {"values": [{}]},
                "mark": {"type": "rule", "strokeWidth": 1, "color": style.GREY},
                "transform": [{"calculate": "budget", "as": "cost"}],
                "encoding": {"x": x},
            },
            *_bars(rows, {"x": x, "opacity": FITS}),
            {
                "data": {"values": rows},
                "mark": {"type": "point", "filled": True, "strokeWidth": 0.8},
                "encoding": {"x": x, "y": y, "opacity": FITS, **_marks(rows, axis)},
            },
            {
                "data": {"values": front},
                "mark": {"type": "text", "dy": 16, "fontSize": 10.5, "tooltip": False, "align": ALIGN},
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
    bars = {"low": 100 * (point.val_acc - half), "high": 100 * (point.val_acc + half)} if half else {}
    return {
        "model": point.id,
        "anchor": f"#{ModelId(point.id).base}",
        "family": point.family,
        "is_model": ModelId(point.id).round is None,
        "cost": axis.costs[point.id],
        "accuracy": round(100 * point.val_acc, 3),
        "seeds": study.measured(point.id).n_seeds,
    } | bars


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


def steps_up(points: Sequence[Point], costs: Mapping[str, float]) -> list[tuple[float, float]]:
    """Return cost and accuracy of the points that none of the same or lower cost surpasses, by rising cost."""
    found: list[tuple[float, float]] = []
    for cost, accuracy in sorted(((costs[p.id], p.val_acc) for p in points), key=lambda one: (one[0], -one[1])):
        if not found or accuracy > found[-1][1]:
            found.append((cost, accuracy))
    return found


def pruning_spec(curves: Sequence[Curve]) -> Spec:
    """Return accuracy against parameters, round by round, with the same shapes trained from scratch."""
    rows: list[Spec] = [
        {
            "curve": f"{curve.name}: {curve.parent}, rate {curve.rate:g}",
            "what": what,
            "round": row.round,
            "params": row.params,
            "accuracy": 100 * accuracy,
            **({"low": 100 * (accuracy - std), "high": 100 * (accuracy + std)} if std and row.n_seeds > 1 else {}),
        }
        for curve in curves
        for row in curve.rounds
        for what, accuracy, std in (
            ("pruned", row.val_acc, row.val_acc_std),
            ("from scratch", row.control_val_acc, row.control_val_acc_std),
        )
        if accuracy is not None
    ]
    names = list(dict.fromkeys(row["curve"] for row in rows))
    x = _log("params", "Parameters (log scale)", "", (row["params"] for row in rows))
    y = _percent("accuracy", rows)
    legend = {"title": None, "orient": "top", "columns": 1, "labelLimit": 600, "symbolType": "stroke"}
    colours = [style.PALETTE[number % len(style.PALETTE)] for number in range(len(names))]
    colour = {"field": "curve", "type": "nominal", "scale": {"domain": names, "range": colours}, "legend": legend}
    dash = {"field": "curve", "type": "nominal", "scale": {"domain": names, "range": _dashes(len(names))}}
    return {
        **_frame(f"Validation accuracy against parameters, {len(names)} pruning curves", 340),
        "data": {"values": rows},
        "layer": [
            {
                "transform": [{"filter": "datum.what == 'pruned'"}],
                "mark": {"type": "line", "strokeWidth": 1.8},
                "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash | {"legend": legend}},
            },
            *_bars(rows, {"x": x, "color": colour}),
            {
                "mark": {"type": "point", "size": 80, "filled": True, "opacity": 1, "strokeWidth": 1},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "shape": {
                        "field": "what",
                        "type": "nominal",
                        "scale": {"domain": ["pruned", "from scratch"], "range": ["circle", "triangle-right"]},
                        "legend": {"title": None, "orient": "top", "columns": 2},
                    },
                    "tooltip": [
                        {"field": "curve", "type": "nominal"},
                        {"field": "round", "type": "quantitative"},
                        {"field": "what", "type": "nominal", "title": "weights"},
                        {"field": "params", "type": "quantitative", "format": ",", "title": "parameters"},
                        {"field": "accuracy", "type": "quantitative", "format": ".2f", "title": "accuracy (%)"},
                    ],
                },
            },
        ],
    }


def training_spec(history: Sequence[Mapping[str, float]]) -> Spec:
    """Return accuracy on training and validation images, epoch by epoch."""
    titles = {"train_acc": "training", "val_acc": "validation"}
    rows = [
        {"epoch": row["epoch"], "images": title, "accuracy": 100 * row[key]}
        for row in history
        for key, title in titles.items()
    ]
    names, legend = list(titles.values()), {"title": None, "orient": "top", "symbolType": "stroke"}
    series: Spec = {"field": "images", "type": "nominal", "legend": legend}
    return {
        **_frame("Accuracy on training images as augmented, and on validation images, for each epoch", 200),
        "data": {"values": rows},
        "mark": {"type": "line", "strokeWidth": 1.8, "tooltip": True},
        "encoding": {
            "x": {
                "field": "epoch",
                "type": "quantitative",
                "axis": {"tickMinStep": 1, "format": "d", "title": "Epoch"},
            },
            "y": {
                "field": "accuracy",
                "type": "quantitative",
                "scale": {"zero": False},
                "axis": {"title": "Accuracy (%)"},
            },
            "color": series | {"scale": {"domain": names, "range": list(style.PALETTE[:2])}},
            "strokeDash": series | {"scale": {"domain": names, "range": [[4, 3], [1, 0]]}},
        },
    }


def _frame(description: str, height: int) -> Spec:
    return {"$schema": SCHEMA, "description": description, "width": "container", "height": height}


def _bars(rows: Sequence[Mapping[str, Any]], encoding: Spec) -> list[Spec]:
    """Return the layer of bars of the rows that have them; none where no row has."""
    known = [row for row in rows if "low" in row]
    layer = {
        "data": {"values": known},
        "mark": {"type": "rule", "color": style.GREY, "strokeWidth": 1},
        "encoding": {"y": _percent("low", rows), "y2": {"field": "high"}, **encoding},
    }
    return [layer] if known else []


def _log(field: str, title: str, unit: str, values: Iterable[float]) -> Spec:
    """Return a logarithmic x of `field` that has room for `values`, with ticks at round ones."""
    known = [*values]
    room = max(1.25, (max(known) / min(known)) ** 0.06)
    low, high = min(known) / room, max(known) * room
    label = "format(datum.value, '~r') + ' ms'"
    if unit != "ms":  # 200000 -> '200 kB'
        label = f"replace(format(datum.value, '~s'), regexp('([kMG]?)$'), ' $1{unit}')"
    axis = {"title": title, "labelExpr": label, "values": style.log_ticks(low, high), "labelOverlap": True}
    scale = {"type": "log", "nice": False, "domain": [low, high]}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": axis}


def _percent(field: str, rows: Sequence[Mapping[str, Any]]) -> Spec:
    """Return a y of `field` that has room for the accuracies of `rows` and their bars."""
    low = min(row.get("low", row["accuracy"]) for row in rows)
    high = max(row.get("high", row["accuracy"]) for row in rows)
    room = max(0.12 * (high - low), 0.5)
    scale = {"domain": [low - room, high + room], "nice": False, "zero": False}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": {"title": "Validation accuracy (%)"}}


def _dashes(count: int) -> list[list[int]]:
    """Return a line style for each curve, so that they can be told apart without colour."""
    return [([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])[number % 4] for number in range(count)]
