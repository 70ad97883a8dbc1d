"""What a run shows about why a model does as well as it does: sentences made of measurements, not of beliefs."""

from collections.abc import Sequence

from netpress.report import units
from netpress.report.collect import Measured, Model, Study
from netpress.report.comparisons import students

#: Rounds of a curve with a control that are told of.
MOST_ROUNDS = 2


def observations(study: Study, models: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return sentences on `models`, model ids of one experiment; nothing is said of what was not measured.

    `classes` are the names in the order of the labels; [] where they are not known.
    """
    rows = [study.by_id[model_id] for model_id in dict.fromkeys(models) if model_id in study.by_id]
    teachers = dict.fromkeys(model.parent for model in rows if model.stage == "distill" and model.parent)
    found = [_teacher(teacher, study.measured(teacher)) for teacher in teachers]
    found += [_pupil(study, model, classes) for model in rows if model.stage == "distill"]
    found.append(_fit([model for model in rows if model.stage in ("train", "lowrank", "distill")]))
    found += [_controls(study, model) for model in rows if model.stage in ("prune", "prune_sweep")]
    found += [_calibration(study, model) for model in rows if model.stage == "quantize"]
    return [sentence for sentence in found if sentence]


def _teacher(name: str, measured: Measured) -> str:
    if measured.train_acc is None or measured.val_ece is None:
        return ""
    return (
        f"Teacher {name}: {units.percent(measured.val_acc)} % on validation, {units.percent(measured.train_acc)} % on "
        f"its training images, calibration error {units.percent(measured.val_ece)} %."
    )


def _pupil(study: Study, model: Model, classes: Sequence[str]) -> str:
    measured = model.measured
    if measured.teacher_agreement is None:
        return ""
    share = units.percent(measured.teacher_agreement)
    text = f"{model.id} names the same class as its teacher on {share} % of the validation images"
    alone = next((s.alone for s in students(study) if s.alone is not None and model in s.taught), None)
    gains = _gains(measured, alone.measured, classes) if alone is not None else []
    if alone is None or not gains:
        return f"{text}."
    (most, best), (least, worst) = gains[-1], gains[0]
    return (
        f"{text}; against {alone.id} it gains most on {best} ({units.points(most)} points) and least on {worst} "
        f"({units.points(least)})."
    )


def _gains(measured: Measured, alone: Measured, classes: Sequence[str]) -> list[tuple[float, str]]:
    """Return (gain, class), rising."""
    one, two = alone.val_acc_by_class or [], measured.val_acc_by_class or []
    named = zip(one, two, classes, strict=False)
    return sorted((b - a, name) for a, b, name in named if a is not None and b is not None)


def _fit(models: Sequence[Model]) -> str:
    """Compare training images and validation, from which over- and underfitting show."""
    known = [(m.id, m.measured.train_acc, m.measured.val_acc) for m in models if m.measured.train_acc is not None]
    if len(known) < 2:
        return ""
    shown = ", ".join(f"{name} {100 * (train or 0):.1f} against {100 * val:.1f}" for name, train, val in known)
    return f"On training images against validation, in percent: {shown}."


def _controls(study: Study, model: Model) -> str:
    rounds = [row for row in study.rounds(model.id) if row.control_val_acc is not None][-MOST_ROUNDS:]
    if not rounds:
        return ""
    told = [
        f"round {row.round} ({units.short_count(row.params)} parameters) has {units.percent(row.val_acc)} % pruned and "
        f"{units.percent(row.control_val_acc or 0)} % trained afresh"
        for row in rounds
    ]
    return f"{model.id}: {'; '.join(told)}."


def _calibration(study: Study, model: Model) -> str:
    parent = study.measured(model.parent or "")
    before, after = parent.val_ece, model.measured.val_ece
    if before is None or after is None:
        return ""
    change = units.points(model.measured.val_acc - parent.val_acc)
    return (
        f"{model.id}: {change} points against its parent, calibration error {units.percent(before)} % before and "
        f"{units.percent(after)} % after."
    )
