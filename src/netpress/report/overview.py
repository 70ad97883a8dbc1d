"""The one table of all models, in three forms: for DVC, for pandas, for people."""

from collections.abc import Mapping
from typing import Any

from netpress.report import units
from netpress.report.collect import Measured, Metrics, Model, Study
from netpress.report.markdown import table
from netpress.report.pareto import Point

NUMBERS = ("params", "macs", "weight_bytes", "onnx_bytes", "checkpoint_bytes", "val_loss", "val_acc_best", "val_acc")
CSV_COLUMNS = (
    *("model", "stage", "variant", "family", "arch", "method", "parent"),
    *("val_acc", "val_acc_std", "val_acc_best", "val_loss", "n_seeds", "test_acc", "test_acc_std"),
    *("params", "macs", "weight_bytes", "onnx_bytes", "checkpoint_bytes", "epochs"),
    *("times_smaller_than_parent", "times_smaller_than_largest", "on_front", "dominated_by", "dominated_in_accuracy"),
)


def summary(study: Study) -> dict[str, dict[str, dict[str, float]]]:
    """Return stage -> variant -> flat numbers, so that `dvc metrics diff` names `distill.kd_strong.val_acc`."""
    nested: dict[str, dict[str, dict[str, float]]] = {}
    for model in study.models:
        nested.setdefault(model.stage, {})[model.variant] = _numbers(model)
    return nested


def _numbers(model: Model) -> dict[str, float]:
    measured = model.measured
    found: dict[str, float | None] = {key: getattr(measured, key) for key in NUMBERS}
    if measured.n_seeds > 1:
        found |= {"n_seeds": measured.n_seeds, "val_acc_std": measured.val_acc_std}
    if isinstance(measured, Metrics):
        found |= {"epochs": measured.epochs, "rate": measured.rate}
        found["n_rounds"] = max(r.round for r in measured.rounds) if measured.rounds else None
    if model.test is not None:
        found |= {"test_acc": model.test.test_acc, "test_acc_std": model.test.test_acc_std}
    return {key: value for key, value in found.items() if value is not None}


def by_size(study: Study) -> list[Model]:
    """Return the models from large to small; among equals the more accurate first, then by name."""
    return sorted(study.models, key=lambda m: (-m.measured.onnx_bytes, -m.measured.val_acc, m.id))


def csv_rows(study: Study, beaten: Mapping[str, tuple[Point, bool]]) -> list[dict[str, Any]]:
    """Return one row of `CSV_COLUMNS` a model, from large to small; what is not known stays empty.

    `beaten` is what `pareto.behind` says of the models.
    """
    largest = max((m.measured.onnx_bytes for m in study.models), default=0)
    rows = []
    for model in by_size(study):
        better, is_real = beaten.get(model.id, (None, None))
        row = {
            "model": model.id,
            "stage": model.stage,
            "variant": model.variant,
            "family": model.family,
            "arch": model.arch,
            "method": model.method,
            "parent": model.parent,
            "n_seeds": model.measured.n_seeds,
            "times_smaller_than_parent": _smaller_than_parent(study, model),
            "times_smaller_than_largest": largest / model.measured.onnx_bytes,
            "on_front": better is None,
            "dominated_by": better.id if better else None,
            "dominated_in_accuracy": is_real,
        } | {key: value for key, value in _numbers(model).items() if key in CSV_COLUMNS}
        rows.append({key: value for key, value in row.items() if value is not None})
    return rows


def overview(study: Study, beaten: Mapping[str, tuple[Point, bool]]) -> str:
    """Return the Markdown table of all models, from large to small; `beaten` as in `csv_rows`."""
    largest = max((m.measured.onnx_bytes for m in study.models), default=0)
    has_test = any(m.test is not None and m.test.test_acc is not None for m in study.models)
    header = ["Model", "Method", "From or taught by", "Val acc (%)", "Test acc (%)", "Params", "MACs", "ONNX"]
    header += ["vs parent", "vs largest", "Pareto front"]
    rows = []
    for model in by_size(study):
        measured, ratio = model.measured, _smaller_than_parent(study, model)
        better, is_real = beaten.get(model.id, (None, None))
        rows.append(
            [
                model.id,
                method_words(model),
                model.parent or "-",
                accuracy(measured),
                _test_accuracy(model),
                units.short_count(measured.params),
                units.short_count(measured.macs),
                units.size(measured.onnx_bytes),
                units.times(ratio, 1) if ratio else "-",
                units.times(largest, measured.onnx_bytes),
                "on it" if better is None else f"{'behind' if is_real else 'level with'} {better.id}",
            ]
        )
    if not has_test:
        header, rows = _without(header, 4), [_without(row, 4) for row in rows]
    return table(header, rows, left=3, last_left=True)


def brief(study: Study) -> str:
    """Return the table for a terminal: accuracy and size of every model, from large to small."""
    rows = [
        (
            m.id,
            units.percent(m.measured.val_acc),
            units.short_count(m.measured.params),
            units.size(m.measured.onnx_bytes),
        )
        for m in by_size(study)
    ]
    header = ("model", "val acc %", "params", "ONNX")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in (header, *rows)
    ]
    return "\n".join("  ".join(line) for line in lines)


def accuracy(measured: Measured) -> str:
    """Return the validation accuracy in percent, with its deviation where there are several seeds."""
    return units.percent(measured.val_acc, measured.val_acc_std if measured.n_seeds > 1 else None)


def method_words(model: Model) -> str:
    """Return how a model was made: its method, its pruning rate, or its architecture if it was trained from scratch."""
    if model.method is None:
        return model.arch
    rate = getattr(model.item, "rate", None)
    return f"{model.method}, rate {rate:g}" if rate is not None else model.method


def _test_accuracy(model: Model) -> str:
    if model.test is None or model.test.test_acc is None:
        return "-"
    return units.percent(model.test.test_acc, model.test.test_acc_std)


def _smaller_than_parent(study: Study, model: Model) -> float | None:
    if model.parent is None:
        return None
    return study.measured(model.parent).onnx_bytes / model.measured.onnx_bytes


def _without(row: list[str], index: int) -> list[str]:
    return row[:index] + row[index + 1 :]
