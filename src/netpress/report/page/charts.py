"""The page's charts, as Vega-Lite specifications without colours of text and background: the page has two themes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netpress.params.families import FAMILIES
from netpress.report import style
from netpress.report.collect import Study
from netpress.report.curves import Curve
from netpress.report.pareto import Point

Spec = dict[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
#: Of a label: away from the edges.
ALIGN = {
    "expr": "scale('x', datum.cost) > 0.7 * width ? 'right' : scale('x', datum.cost) < 0.3 * width ? 'left' : 'center'"
}
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")


@dataclass(frozen=True)
class Axis:
    """What models may cost.

    Attributes:
        key: of the costs.
        title: as the axis is called.
        unit: what follows a number of it: B, ms or nothing.
        costs: model id -> cost, of the models where it is known.
    """

    key: str
    title: str
    unit: str
    costs: Mapping[str, float]


def front_spec(study: Study, points: Sequence[Point], halves: Mapping[str, float], axis: Axis) -> Spec:
    """Return accuracy against one cost: models by colour and shape of their family, intervals, and the Pareto front.

    The parameters `budget` and `winner` say which points fit and which one is named.
    """
    known = [point for point in points if point.id in axis.costs]
    rows: list[Spec] = [
        {
            "model": point.id,
            "family": point.family,
            "size": "a pruning round" if point.is_round else "a model",
            "cost": axis.costs[point.id],
            "accuracy": round(100 * point.val_acc, 3),
            "n": study.measured(point.id).n_seeds,
            **({"low": 100 * (point.val_acc - half), "high": 100 * (point.val_acc + half)} if half else {}),
        }
        for point in known
        for half in [halves.get(point.id)]
    ]
    line = [{"cost": cost, "accuracy": 100 * accuracy} for cost, accuracy in steps_up(known, axis.costs)]
    families = [f for f in dict.fromkeys(row.title for row in FAMILIES.values()) if any(r["family"] == f for r in rows)]
    every = list(dict.fromkeys(row.title for row in FAMILIES.values()))
    colours = [style.PALETTE[every.index(family)] for family in families]
    shapes = [SHAPES[every.index(family)] for family in families]
    fits = "datum.cost <= budget"
    label = f"format(datum.value, '~s') + '{axis.unit}'" if axis.unit != "ms" else "format(datum.value, '~r')"
    x, y = _log("cost", axis.title, label, (row["cost"] for row in rows)), _percent("accuracy", rows)
    tooltip = [
        {"field": "model", "type": "nominal", "title": "model"},
        {"field": "accuracy", "type": "quantitative", "format": ".2f", "title": "validation accuracy (%)"},
        {"field": "n", "type": "quantitative", "title": "seeds"},
        {"field": "cost", "type": "quantitative", "format": ",.4~g" if axis.unit == "ms" else ",", "title": axis.title},
    ]
    marks = {
        "color": {
            "field": "family",
            "type": "nominal",
            "scale": {"domain": families, "range": colours},
            "legend": {"title": None, "orient": "top", "columns": 4, "symbolSize": 90},
        },
        "shape": {"field": "family", "type": "nominal", "scale": {"domain": families, "range": shapes}},
        "size": {"condition": {"test": "datum.size == 'a model'", "value": 110}, "value": 45},
        "opacity": {"condition": {"test": fits, "value": 1}, "value": 0.25},
        "tooltip": tooltip,
        "href": {"condition": {"test": "datum.size == 'a model'", "field": "anchor", "type": "nominal"}, "value": None},
    }
    for row in rows:
        row["anchor"] = f"#{row['model']}"
    return {
        **_frame(f"Validation accuracy against {axis.title.lower()} of {len(rows)} networks", 400),
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
            *_intervals(rows, {"x": x}, style.GREY),
            {
                "data": {"values": rows},
                "mark": {"type": "point", "filled": True, "stroke": "white", "strokeWidth": 0.6},
                "encoding": {"x": x, "y": y, **marks},
            },
            {
                "data": {"values": rows},
                "transform": [{"filter": "datum.model == winner"}],
                "layer": [
                    {"mark": {"type": "point", "size": 330, "strokeWidth": 2, "filled": False}},
                    {
                        "mark": {"type": "text", "dy": -17, "fontWeight": "bold", "align": ALIGN},
                        "encoding": {"text": {"field": "model"}},
                    },
                ],
                "encoding": {"x": x, "y": y},
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
    x = _log("params", "Parameters (log scale)", "format(datum.value, '~s')", (row["params"] for row in rows))
    y = _percent("accuracy", rows)
    colours = [style.PALETTE[number % len(style.PALETTE)] for number in range(len(names))]
    colour = {
        "field": "curve",
        "type": "nominal",
        "scale": {"domain": names, "range": colours},
        "legend": {"title": None, "orient": "top", "columns": 1, "labelLimit": 600},
    }
    tooltip = [
        {"field": "curve", "type": "nominal"},
        {"field": "round", "type": "quantitative"},
        {"field": "what", "type": "nominal", "title": "weights"},
        {"field": "params", "type": "quantitative", "format": ",", "title": "parameters"},
        {"field": "accuracy", "type": "quantitative", "format": ".2f", "title": "validation accuracy (%)"},
    ]
    dash = {"field": "curve", "type": "nominal", "scale": {"domain": names, "range": _dashes(len(names))}}
    return {
        **_frame(f"Validation accuracy against parameters, {len(names)} pruning curves", 340),
        "data": {"values": rows},
        "layer": [
            {
                "transform": [{"filter": "datum.what == 'pruned'"}],
                "mark": {"type": "line", "strokeWidth": 1.8},
                "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash | {"legend": colour["legend"]}},
            },
            *_intervals(rows, {"x": x, "color": colour}, style.GREY),
            {
                "mark": {"type": "point", "size": 80, "filled": True, "opacity": 1, "strokeWidth": 1.6},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "shape": {
                        "field": "what",
                        "type": "nominal",
                        "scale": {"domain": ["pruned", "from scratch"], "range": ["circle", "diamond"]},
                        "legend": {"title": None, "orient": "top"},
                    },
                    "tooltip": tooltip,
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
    names = list(titles.values())
    series = {
        "color": {
            "field": "images",
            "type": "nominal",
            "scale": {"domain": names, "range": list(style.PALETTE[:2])},
            "legend": {"title": None, "orient": "top"},
        },
        "strokeDash": {"field": "images", "type": "nominal", "scale": {"domain": names, "range": [[4, 3], [1, 0]]}},
    }
    return {
        **_frame("Accuracy on training images as augmented, and on validation images, for each epoch", 200),
        "data": {"values": rows},
        "mark": {"type": "line", "point": True, "tooltip": True},
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
            **series,
        },
    }


def _frame(description: str, height: int) -> Spec:
    return {"$schema": SCHEMA, "description": description, "width": "container", "height": height}


def _intervals(rows: Sequence[Mapping[str, Any]], encoding: Spec, colour: str) -> list[Spec]:
    """Return the layer of bars of the rows that have them; none where no row has."""
    known = [row for row in rows if "low" in row]
    bars = {
        "data": {"values": known},
        "mark": {"type": "rule", "color": colour, "strokeWidth": 1},
        "encoding": {"y": _percent("low", rows), "y2": {"field": "high"}, **encoding},
    }
    return [bars] if known else []


def _log(field: str, title: str, label: str, values: Iterable[float]) -> Spec:
    """Return a logarithmic x of `field` that has room for `values`."""
    known = [*values]
    room = max(1.25, (max(known) / min(known)) ** 0.06)
    scale = {"type": "log", "nice": False, "domain": [min(known) / room, max(known) * room]}
    axis = {"title": title, "labelExpr": label, "tickCount": 5, "labelOverlap": True}
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
