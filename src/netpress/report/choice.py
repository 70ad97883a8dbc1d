"""Which model to take under a budget, what it costs, and whether the next best is any worse."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netpress.base.errors import NetpressError
from netpress.base.model_id import ModelId
from netpress.core.metrics import CONTROL_VAL_ACC, VAL_ACC, Metrics
from netpress.report import units
from netpress.report.collect import Measured, Study
from netpress.report.differences import OPEN, Accuracy, Differences
from netpress.report.pareto import Point, points_of

#: What a budget may limit: the field of the metrics, how its amounts are written, and what it is called.
LIMITS: dict[str, tuple[Callable[[float], str], str]] = {
    "onnx_bytes": (units.size, "bytes of the ONNX file"),
    "params": (units.short_count, "parameters"),
    "macs": (units.short_count, "multiply-adds of an image"),
}


@dataclass(frozen=True)
class Budget:
    """What a model may cost.

    Attributes:
        limits: largest amounts, by the keys of `LIMITS`.
        lowest: least validation accuracy, a fraction; 0 for any.
        most_ms: milliseconds of an image, at most; None for any.
        milliseconds: of each model that was measured. One that was not fits no budget of time.
    """

    limits: Mapping[str, float]
    lowest: float = 0.0
    most_ms: float | None = None
    milliseconds: Mapping[str, float] = field(default_factory=dict)

    def excess(self, model_id: str, measured: Measured) -> float:
        """Return how many times the worst of what is limited is what it may be; up to 1 where the model fits."""
        over = [getattr(measured, key) / limit for key, limit in self.limits.items()]
        if self.most_ms is not None:
            over.append(self.milliseconds.get(model_id, math.inf) / self.most_ms)
        return max([*over, self.lowest / measured.val_acc if self.lowest else 0.0])


#: What is said of a model that is `at_chance`.
CHANCE = "no better than naming one class for every image, so of no use as it is"


def at_chance(study: Study, model_id: str) -> bool:
    """Say whether a model, or a round of one, is no better than naming one class for every image."""
    whole = study.measured(ModelId(model_id).base)
    return isinstance(whole, Metrics) and study.measured(model_id).val_acc <= (whole.chance_acc or 0)


@dataclass(frozen=True)
class Beside:
    """Another model beside the chosen one.

    Attributes:
        id: the other one.
        difference: of the accuracies in points with its 95 % interval, the chosen one's less the other's.
        is_level: whether the difference may be chance.
    """

    id: str
    difference: str
    is_level: bool


@dataclass(frozen=True)
class Choice:
    """What to take.

    Attributes:
        id: the chosen model.
        origin: what it was made from, or by whom it was taught; None for a network trained on labels alone.
        runner_up: the most accurate other model that fits, if any.
        smallest_level: the smallest model that fits and is as accurate as far as can be told, if it is smaller.
        control: of a pruned model its shape trained from scratch, if that was measured.
    """

    id: str
    origin: Beside | None
    runner_up: Beside | None
    smallest_level: Beside | None
    control: Beside | None


def choose(study: Study, curves: Sequence[str], budget: Budget, smallest: bool) -> Choice:
    """Choose the most accurate model within the budget, of models and of the rounds of `curves`; ties take the smaller.

    Args:
        study: the models.
        curves: model ids of the pruning curves whose rounds count too.
        budget: what fits.
        smallest: choose the smallest ONNX file instead.

    Raises:
        NetpressError: nothing fits; says what comes closest.
    """
    points = points_of(study, curves)
    if not points:
        raise NetpressError("there are no models; run 'dvc repro'")
    most = 1 + 1e-9  # sums of fractions are rounded
    fitting = [p for p in points if budget.excess(p.id, study.measured(p.id)) <= most]
    if not fitting:
        raise NetpressError(_nothing(study, points, budget))
    by_accuracy = sorted(fitting, key=lambda p: (-p.val_acc, p.onnx_bytes, p.id))
    best = min(fitting, key=lambda p: (p.onnx_bytes, -p.val_acc, p.id)) if smallest else by_accuracy[0]
    others = [p for p in by_accuracy if p is not best]
    among = Differences(study, [(Accuracy(p.id), Accuracy(best.id)) for p in others])
    smaller = [p for p in others if p.onnx_bytes < best.onnx_bytes and _beside(among, p.id, best.id).is_level]
    origin = origin_of(study, best.id)
    return Choice(
        best.id,
        _beside(Differences(study, [(Accuracy(origin), Accuracy(best.id))]), origin, best.id) if origin else None,
        _beside(among, others[0].id, best.id) if others else None,
        _beside(among, min(smaller, key=lambda p: p.onnx_bytes).id, best.id) if smaller else None,
        _control(study, best.id),
    )


def _beside(differences: Differences, other: str, chosen: str, key: str = VAL_ACC) -> Beside:
    pair = Accuracy(other, key), Accuracy(chosen)
    return Beside(other, differences.words(*pair), differences.verdict(*pair) == OPEN)


def _control(study: Study, model_id: str) -> Beside | None:
    """Hold a pruned model against its shape trained from scratch."""
    base, number = ModelId(model_id).base, ModelId(model_id).round
    rows = {row.round: row for row in study.rounds(base)}
    row = rows.get(max(rows, default=0) if number is None else number)
    if row is None or row.control_val_acc is None:
        return None
    shape = base.of_round(row.round)
    differences = Differences(study, [(Accuracy(shape, CONTROL_VAL_ACC), Accuracy(shape))])
    return _beside(differences, shape, shape, CONTROL_VAL_ACC)


@dataclass(frozen=True)
class Step:
    """What to take from a budget of `limit` on, up to the next step's."""

    limit: float
    choice: Choice


def steps(
    study: Study, curves: Sequence[str], costs: Mapping[str, float], budget: Callable[[float], Budget]
) -> list[Step]:
    """Return the choice for every budget of one kind, by rising limit; a step where the choice changes.

    Args:
        study, curves: as for `choose`.
        costs: model id -> what it costs.
        budget: the budget of a limit on that.
    """
    found: list[Step] = []
    for limit in sorted({*costs.values()}):
        choice = choose(study, curves, budget(limit), smallest=False)
        if not found or found[-1].choice != choice:
            found.append(Step(limit, choice))
    return found


def origin_of(study: Study, model_id: str) -> str | None:
    """Return the first of a model's line, or its teacher: of a pruned and quantized one the network that was pruned."""
    model = study.by_id[ModelId(model_id).base]
    above = model.parents.get("from")
    if above is None or "from" not in study.by_id[above.base].parents:
        return model.parent
    return origin_of(study, above)


def _nothing(study: Study, points: Sequence[Point], budget: Budget) -> str:
    """Say that nothing fits, and what comes closest."""
    closest = min(points, key=lambda p: (budget.excess(p.id, study.measured(p.id)), -p.val_acc))
    measured = study.measured(closest.id)
    asked, has = [], [f"{units.percent(measured.val_acc)} %"]
    if budget.lowest:
        asked.append(f"at least {units.percent(budget.lowest)} %")
    for key, limit in budget.limits.items():
        write, name = LIMITS[key]
        asked.append(f"at most {write(limit)} ({name})")
        has.append(write(getattr(measured, key)))
    if budget.most_ms is not None:
        asked.append(f"at most {budget.most_ms:g} ms for an image")
        time = budget.milliseconds.get(closest.id)
        has.append("no time measured" if time is None else f"{time:.3f} ms")
    return f"no model has {' and '.join(asked)}; closest is {closest.id} with {' and '.join(has)}"


def text(study: Study, choice: Choice) -> str:
    """Return the choice in words, a line for each thing to know."""
    shown = {"its origin": choice.origin, "the runner-up": choice.runner_up}
    if choice.smallest_level != choice.runner_up:
        shown["the smallest that is level"] = choice.smallest_level
    lines = [f"{choice.id}  {figures(study.measured(choice.id))}{_tested(study, choice.id)}"]
    lines += [f"  {CHANCE}"] if at_chance(study, choice.id) else []
    for title, other in shown.items():
        if other:
            told = f"{other.difference} points{', which may be chance' if other.is_level else ''}"
            lines.append(f"  beside {title}, {other.id}: {told}; {_sizes(study, choice, other)}")
    if choice.control:
        told = f"{choice.control.difference} points{', which may be chance' if choice.control.is_level else ''}"
        lines.append(f"  beside its shape trained from scratch, whose weights are not kept: {told}")
    return "\n".join([*lines, f"  {_folder(choice)}", ""])


def _tested(study: Study, model_id: str) -> str:
    test = study.by_id[model_id].test if model_id in study.by_id else None
    return "" if test is None or test.test_acc is None else f"; test {units.percent(test.test_acc)} %"


def figures(measured: Measured) -> str:
    """Return accuracy and sizes of a model in words."""
    sizes = f"{units.size(measured.onnx_bytes)}, {units.short_count(measured.params)} parameters"
    return f"{units.percent(measured.val_acc)} %, {sizes}, {units.short_count(measured.macs)} multiply-adds"


def _sizes(study: Study, choice: Choice, other: Beside) -> str:
    """Say how the chosen model's size is beside the other's."""
    own, its = study.measured(choice.id).onnx_bytes, study.measured(other.id).onnx_bytes
    if own == its:
        return "as large"
    return f"{units.times(its, own)} fewer bytes" if own < its else f"{units.times(own, its)} the bytes"


def as_json(study: Study, choice: Choice) -> dict[str, Any]:
    """Return the choice for scripts."""

    def row(other: Beside | None) -> dict[str, Any] | None:
        if other is None:
            return None
        return _row(study, other.id) | {"difference": other.difference, "is_level": other.is_level}

    others = {"origin": choice.origin, "runner_up": choice.runner_up, "smallest_level": choice.smallest_level}
    found = _row(study, choice.id) | {"folder": _folder(choice)} | {name: row(other) for name, other in others.items()}
    control = choice.control
    told = {"difference": control.difference, "is_level": control.is_level} if control else None
    return found | {"control": told, "at_chance": at_chance(study, choice.id)}


def _folder(choice: Choice) -> str:
    return ModelId(choice.id).folder(Path()).as_posix()


def _row(study: Study, model_id: str) -> dict[str, Any]:
    measured = study.measured(model_id)
    return {"model": model_id, "val_acc": measured.val_acc} | {key: getattr(measured, key) for key in LIMITS}
