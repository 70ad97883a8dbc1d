"""Pruning curves: which are drawn, and their rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from netpress.core.metrics import CONTROL_VAL_ACC
from netpress.report.collect import Round, Study

COLUMNS = ("round", "rate", "params", "macs", "onnx_bytes", "channels_share", "epochs_total", "val_acc")


@dataclass(frozen=True)
class Curve:
    """One pruning curve: `main` for the section prune, else the name of the sweep's variant."""

    name: str
    model_id: str
    parent: str
    rate: float
    rounds: tuple[Round, ...]


def drawn_curves(study: Study) -> list[Curve]:
    """Return the curves to show, `main` first; a sweep with the settings of `prune` is the same line."""
    main = study.by_id.get("prune/main")
    curves = []
    for model in study.models:
        if model.stage not in ("prune", "prune_sweep") or "/" in model.variant:
            continue
        if model.stage == "prune_sweep" and main is not None and _repeats(model.item, main.item):
            continue
        rounds = tuple(sorted(study.rounds(model.id), key=lambda r: r.round))
        curves.append(Curve(model.variant, model.id, model.parent or "", model.item.rate, rounds))
    return curves


def _repeats(item: Any, main: Any) -> bool:
    """Return whether a sweep's rounds are those of `main`, if maybe of fewer seeds, and its controls, if it has any."""
    keys = {"seeds", "control_rounds", "control_recipe", "control_epochs"}
    same_rounds = item.model_dump(exclude=keys) == main.model_dump(exclude=keys)
    return same_rounds and (not item.control_rounds or item == main)


def columns_of(curves: Sequence[Curve]) -> list[str]:
    """Return the columns of a curve's CSV: the control's only if some round has one."""
    has_control = any(r.control_val_acc is not None for curve in curves for r in curve.rounds)
    return [*COLUMNS, CONTROL_VAL_ACC] if has_control else list(COLUMNS)


def curve_rows(curve: Curve, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row a round; a control that was not measured stays empty."""
    return [{c: getattr(r, c) for c in columns if getattr(r, c) is not None} for r in curve.rounds]
