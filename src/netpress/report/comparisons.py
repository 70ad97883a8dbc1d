"""Short tables, one for each question: distillation, designs, post-training changes, pruning."""

from collections.abc import Sequence
from dataclasses import dataclass

from netpress.core.metrics import CONTROL_VAL_ACC
from netpress.report import units
from netpress.report.collect import Model, Round, Study
from netpress.report.curves import Curve
from netpress.report.differences import Accuracy, Differences, Pair
from netpress.report.markdown import table
from netpress.report.overview import accuracy, method_words
from netpress.report.pareto import Point


@dataclass(frozen=True)
class Student:
    """One student network: trained on the labels alone, if it was, and taught by each of its teachers.

    Attributes:
        label: the architecture and its options; recipe and epochs too where it was trained in several ways.
        alone: the same network trained without a teacher; None if there is none.
        taught: its distilled forms, by rising accuracy of the teacher.
    """

    label: str
    alone: Model | None
    taught: tuple[Model, ...]


def design_label(model: Model) -> str:
    """Return the architecture and its options: 'compact_cnn (groups=2)'."""
    options = getattr(model.item, "options", {})
    words = ", ".join(f"{key}={value}" for key, value in sorted(options.items()))
    return f"{model.arch} ({words})" if words else model.arch


def students(study: Study) -> list[Student]:
    """Group the distilled models by student and training, in the order of params.yaml."""
    groups: dict[tuple[str, str, int], list[Model]] = {}
    for model in study.models:
        if model.stage == "distill":
            groups.setdefault((design_label(model), model.item.recipe, model.item.epochs), []).append(model)
    designs = [design for design, _, _ in groups]
    found = []
    for (design, recipe, epochs), group in groups.items():
        label = design if designs.count(design) == 1 else f"{design}, {recipe}, {epochs} epochs"
        taught = sorted(group, key=lambda m: (study.measured(m.parent or "").val_acc, m.id))
        found.append(Student(label, control_of(study, group[0]), tuple(taught)))
    return found


def control_of(study: Study, taught: Model) -> Model | None:
    """Return the network of a distilled student trained without a teacher, if there is one."""
    label = design_label(taught)
    same = [m for m in study.models if m.stage in ("train", "lowrank") and design_label(m) == label]
    # The fairest control first: the one that was also trained as the distilled student was.
    return min(same, key=lambda m: not same_training(m, taught), default=None)


def same_training(a: Model, b: Model) -> bool:
    """Return whether two models were trained by one recipe for as many epochs."""
    return (a.item.recipe, a.item.epochs) == (b.item.recipe, b.item.epochs)


def gains(study: Study, groups: Sequence[Student]) -> Differences:
    """Return the differences between each student alone and taught."""
    pairs = [(Accuracy(s.alone.id), Accuracy(model.id)) for s in groups if s.alone is not None for model in s.taught]
    return Differences(study, pairs)


def distillation_table(study: Study) -> str:
    """Return each student alone and under each teacher, with the gain in points; '' without a distilled model."""
    rows, unfair, groups = [], False, students(study)
    differences = gains(study, groups)
    for student in groups:
        if student.alone is not None:
            rows.append([student.label, "nobody", student.alone.id, "-", accuracy(student.alone.measured), "-", "-"])
        for model in student.taught:
            gain, verdict = "-", "-"
            if student.alone is not None:
                fair = same_training(student.alone, model)
                unfair = unfair or not fair
                pair = Accuracy(student.alone.id), Accuracy(model.id)
                gain, verdict = differences.words(*pair) + ("" if fair else " *"), differences.verdict(*pair)
            teacher = model.parent or ""
            teacher_acc = accuracy(study.measured(teacher))
            rows.append([student.label, teacher, model.id, teacher_acc, accuracy(model.measured), gain, verdict])
    if not rows:
        return ""
    header = ["Student", "Taught by", "Model", "Teacher's acc (%)", "Val acc (%)", "Gain (points)", "Verdict"]
    text = table(header, rows, left=3, last_left=True)
    return text + ("\n\\* The student alone had another recipe or number of epochs.\n" if unfair else "")


def design_table(study: Study) -> str:
    """Return the designs trained from scratch, the best of each architecture first; '' if there are none."""
    designs = [m for m in study.models if m.stage == "lowrank"]
    order = list(dict.fromkeys(m.arch for m in designs))
    designs.sort(key=lambda m: (order.index(m.arch), -m.measured.val_acc, m.id))
    best = {m.arch: m for m in reversed(designs)}
    pairs = {m.id: (Accuracy(best[m.arch].id), Accuracy(m.id)) for m in designs if m is not best[m.arch]}
    differences = Differences(study, pairs.values())
    rows = [
        [
            m.id,
            design_label(m),
            accuracy(m.measured),
            differences.words(*pairs[m.id]) if m.id in pairs else "-",
            units.short_count(m.measured.params),
            units.short_count(m.measured.macs),
            units.size(m.measured.onnx_bytes),
            differences.verdict(*pairs[m.id]) if m.id in pairs else "-",
        ]
        for m in designs
    ]
    header = ["Model", "Design", "Val acc (%)", "Against the best of its kind (points)", "Params", "MACs", "ONNX"]
    return table([*header, "Verdict"], rows, left=2, last_left=True) if rows else ""


def change_table(study: Study, stage: str) -> str:
    """Return each model of `stage` against the model it was made from; '' if there are none."""
    changed = [(m, m.parent) for m in study.models if m.stage == stage and m.parent is not None]
    differences = Differences(study, [(Accuracy(parent), Accuracy(m.id)) for m, parent in changed])
    rows = []
    for model, made_from in changed:
        parent, pair = study.measured(made_from), (Accuracy(made_from), Accuracy(model.id))
        rows.append(
            [
                model.id,
                method_words(model),
                made_from,
                accuracy(parent),
                accuracy(model.measured),
                differences.words(*pair),
                units.size(parent.onnx_bytes),
                units.size(model.measured.onnx_bytes),
                units.times(parent.onnx_bytes, model.measured.onnx_bytes),
                differences.verdict(*pair),
            ]
        )
    header = ["Model", "Method", "From", "Before (%)", "After (%)", "Change (points)"]
    header += ["ONNX before", "ONNX after", "Smaller", "Verdict"]
    return table(header, rows, left=3, last_left=True) if rows else ""


def pruning_table(study: Study, curves: Sequence[Curve], on_front: Sequence[Point]) -> str:
    """Return every round of every curve: the channels asked for against what is left of channels, params and so on.

    The accuracy before fine-tuning, as removed and with normalizations measured again, has columns where known.
    The control is the round's shape trained from scratch; its columns are there if some round has one.
    """
    chosen = {p.id for p in on_front}
    has_control = any(row.control_val_acc is not None for curve in curves for row in curve.rounds)
    has_cut = any(row.val_acc_before_tuning is not None for curve in curves for row in curve.rounds)
    pairs = [pair for curve in curves for row in curve.rounds for pair in _pairs(curve, row)]
    differences, rows = Differences(study, pairs), []
    for curve in curves:
        start, asked = curve.rounds[0] if curve.rounds else None, 1.0
        for row in curve.rounds:
            asked *= 1 - row.rate if row.round else 1.0
            if start is None:
                continue
            ids = {f"{curve.model_id}/round_{row.round}"} | ({curve.model_id} if row is curve.rounds[-1] else set())
            if row.round == 0:
                ids = {curve.parent}
            rows.append(
                [
                    f"{curve.name} (rate {curve.rate:g})",
                    f"{row.round}",
                    f"{100 * asked:.1f} %",
                    f"{100 * row.channels_share:.1f} %",
                    units.share(row.params, start.params),
                    units.share(row.macs, start.macs),
                    units.share(row.onnx_bytes, start.onnx_bytes),
                    units.size(row.onnx_bytes),
                    *(_before_tuning(row) if has_cut else ()),
                    accuracy(row),
                    *_change(differences, curve, row),
                    *(_control(differences, curve, row) if has_control else ()),
                    "on it" if ids & chosen else "-",
                ]
            )
    header = ["Curve", "Round", "Channels asked", "Channels left", "Params left", "MACs left", "Bytes left", "ONNX"]
    header += ["Before tuning (%)", "Recalibrated (%)"] if has_cut else []
    header += ["Val acc (%)", "Change (points)", "Verdict"]
    header += ["Control (%)", "Above it (points)", "Verdict"] if has_control else []
    return table([*header, "Pareto front"], rows) if rows else ""


def _pairs(curve: Curve, row: Round) -> list[Pair]:
    """Return what a round is held against: its parent, and its control if it has one."""
    name = f"{curve.model_id}/round_"
    parent, pruned = Accuracy(f"{name}0"), Accuracy(f"{name}{row.round}")
    control = [(Accuracy(pruned.model_id, CONTROL_VAL_ACC), pruned)] if row.control_val_acc is not None else []
    return [*([(parent, pruned)] if row.round else []), *control]


def _change(differences: Differences, curve: Curve, row: Round) -> tuple[str, str]:
    """Return by how much a round differs from the parent, and what it is beside it."""
    if not row.round:
        return "-", "-"
    pair = _pairs(curve, row)[0]
    return differences.words(*pair), differences.verdict(*pair)


def _before_tuning(row: Round) -> tuple[str, str]:
    """Return the accuracy right after the removal, and after the normalizations were measured again."""
    found = (row.val_acc_before_tuning, row.val_acc_recalibrated)
    return ("-" if found[0] is None else units.percent(found[0])), (
        "-" if found[1] is None else units.percent(found[1])
    )


def _control(differences: Differences, curve: Curve, row: Round) -> tuple[str, str, str]:
    """Return the control's accuracy, by how much the pruned network is above it, and what it is beside it."""
    if row.control_val_acc is None:
        return "-", "-", "-"
    deviation = row.control_val_acc_std if row.n_seeds > 1 else None
    pair = _pairs(curve, row)[-1]
    return units.percent(row.control_val_acc, deviation), differences.words(*pair), differences.verdict(*pair)
