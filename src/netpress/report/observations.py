"""What a run shows about why a model does as well as it does: sentences made of measurements, not of beliefs."""

from collections.abc import Sequence

from netpress.report import units
from netpress.report.collect import Measured, Model, Study
from netpress.report.comparisons import control_of, same_training
from netpress.report.differences import Accuracy, Differences

#: Rounds of a curve with a control that are told of.
MOST_ROUNDS = 2


def observations(study: Study, models: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return sentences on `models`, model ids of one experiment; nothing is said of what was not measured.

    There is one sentence a question, whatever the number of models: on the teachers, on what students have of them, on
    training images against validation, on pruned networks against their controls, on quantization.

    `classes` are the names in the order of the labels; [] where they are not known.
    """
    rows = [study.by_id[model_id] for model_id in dict.fromkeys(models) if model_id in study.by_id]
    pupils = [model for model in rows if model.stage == "distill"]
    teachers = dict.fromkeys(model.parent for model in pupils if model.parent)
    found = [
        ("Teachers: ", [_teacher(teacher, study.measured(teacher)) for teacher in teachers]),
        ("", [_pupil(study, model, classes) for model in pupils]),
        ("On training images against validation, in percent: ", _fits(rows)),
        ("", [_controls(study, model) for model in rows if model.stage in ("prune", "prune_sweep")]),
        ("", [_calibration(study, model) for model in rows if model.stage == "quantize"]),
    ]
    sentences = [(start, [part for part in parts if part]) for start, parts in found]
    return [f"{start}{'; '.join(parts)}." for start, parts in sentences if parts]


def _teacher(name: str, measured: Measured) -> str:
    if measured.train_acc is None or measured.val_ece is None:
        return ""
    return (
        f"{name} has {units.percent(measured.val_acc)} % on validation, {units.percent(measured.train_acc)} % on its "
        f"training images, calibration error {units.percent(measured.val_ece)} %"
    )


def _pupil(study: Study, model: Model, classes: Sequence[str]) -> str:
    measured = model.measured
    if measured.teacher_agreement is None:
        return ""
    share = units.percent(measured.teacher_agreement)
    text = f"{model.id} names the same class as {model.parent} on {share} % of the validation images"
    alone = control_of(study, model)
    gains = _gains(measured, alone.measured, classes) if alone is not None else []
    if alone is None or not gains:
        return text
    (most, best), (least, worst) = gains[-1], gains[0]
    other = "" if same_training(alone, model) else " (another recipe or number of epochs)"
    return (
        f"{text} and, against {alone.id}{other}, gains most on {best} ({units.points(most)} points) and least on "
        f"{worst} ({units.points(least)})"
    )


def _gains(measured: Measured, alone: Measured, classes: Sequence[str]) -> list[tuple[float, str]]:
    """Return (gain, class), rising; nothing unless there are as many classes as accuracies."""
    one, two = alone.val_acc_by_class or [], measured.val_acc_by_class or []
    if not len(one) == len(two) == len(classes):
        return []
    named = zip(one, two, classes, strict=True)
    return sorted((b - a, name) for a, b, name in named if a is not None and b is not None)


def _fits(models: Sequence[Model]) -> list[str]:
    """Compare training images and validation, from which over- and underfitting show; designs with their cost."""
    told = []
    for model in (m for m in models if m.stage in ("train", "lowrank", "distill")):
        if model.measured.train_acc is not None:
            train, val = 100 * model.measured.train_acc, 100 * model.measured.val_acc
            cost = f" at {units.short_count(model.measured.macs)} MACs" if model.stage == "lowrank" else ""
            told.append(f"{model.id} {train:.1f} against {val:.1f}{cost}")
    return told if len(told) > 1 else []


def _controls(study: Study, model: Model) -> str:
    told = [
        f"round {row.round} ({units.short_count(row.params)} parameters) has {units.percent(row.val_acc)} % pruned and "
        f"{units.percent(row.control_val_acc)} % trained from scratch"
        for row in study.rounds(model.id)
        if row.control_val_acc is not None
    ][-MOST_ROUNDS:]
    return f"{model.id}: {', '.join(told)}" if told else ""


def _calibration(study: Study, model: Model) -> str:
    parent = study.measured(model.parent or "")
    before, after = parent.val_ece, model.measured.val_ece
    if before is None or after is None:
        return ""
    pair = Accuracy(model.parent or ""), Accuracy(model.id)
    change = Differences(study, [pair]).words(*pair)
    return (
        f"{model.id}: {change} points against its parent, calibration error {units.percent(before)} % before and "
        f"{units.percent(after)} % after"
    )
