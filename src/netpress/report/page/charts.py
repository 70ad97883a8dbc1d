"""The page's charts, as Vega-Lite specifications without colours of text and background: the page has two themes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from netpress.report import style
from netpress.report.curves import Curve

Spec = dict[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"


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
    x = log_x("params", "Parameters (log scale)", "", (row["params"] for row in rows))
    y = percent_y("accuracy", rows)
    legend = {"title": None, "orient": "top", "columns": 1, "labelLimit": 600, "symbolType": "stroke"}
    colours = [style.PALETTE[number % len(style.PALETTE)] for number in range(len(names))]
    colour = {"field": "curve", "type": "nominal", "scale": {"domain": names, "range": colours}, "legend": legend}
    dash = {"field": "curve", "type": "nominal", "scale": {"domain": names, "range": _dashes(len(names))}}
    return {
        **frame(f"Validation accuracy against parameters, {len(names)} pruning curves", 340),
        "data": {"values": rows},
        "layer": [
            {
                "transform": [{"filter": "datum.what == 'pruned'"}],
                "mark": {"type": "line", "strokeWidth": 1.8},
                "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash | {"legend": legend}},
            },
            *bars(rows, {"x": x, "color": colour}),
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
        **frame("Accuracy on training images as augmented, and on validation images, for each epoch", 200),
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


def frame(description: str, height: int) -> Spec:
    """Return what every chart says: what it is in words, for those who do not see it, and its size."""
    return {"$schema": SCHEMA, "description": description, "width": "container", "height": height}


def bars(rows: Sequence[Mapping[str, Any]], encoding: Spec) -> list[Spec]:
    """Return the layer of bars of the rows that have them; none where no row has."""
    known = [row for row in rows if "low" in row]
    layer = {
        "data": {"values": known},
        "mark": {"type": "rule", "color": style.GREY, "strokeWidth": 1},
        "encoding": {"y": percent_y("low", rows), "y2": {"field": "high"}, **encoding},
    }
    return [layer] if known else []


def log_x(field: str, title: str, unit: str, values: Iterable[float]) -> Spec:
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


def percent_y(field: str, rows: Sequence[Mapping[str, Any]]) -> Spec:
    """Return a y of `field` that has room for the accuracies of `rows` and their bars."""
    low = min(row.get("low", row["accuracy"]) for row in rows)
    high = max(row.get("high", row["accuracy"]) for row in rows)
    room = max(0.12 * (high - low), 0.5)
    scale = {"domain": [low - room, high + room], "nice": False, "zero": False}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": {"title": "Validation accuracy (%)"}}


def _dashes(count: int) -> list[list[int]]:
    """Return a line style for each curve, so that they can be told apart without colour."""
    return [([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])[number % 4] for number in range(count)]
