"""Short tables, one for each question: distillation, designs, post-training changes, pruning."""

from collections.abc import Sequence
from dataclasses import dataclass

from netpress.report import units
from netpress.report.collect import Model, Round, Study
from netpress.report.curves import Curve
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


def distillation_table(study: Study) -> str:
    """Return each student alone and under each teacher, with the gain in points; '' without a distilled model."""
    rows, unfair = [], False
    for student in students(study):
        if student.alone is not None:
            rows.append([student.label, "nobody", student.alone.id, "-", accuracy(student.alone.measured), "-"])
        for model in student.taught:
            gain = "-"
            if student.alone is not None:
                fair = same_training(student.alone, model)
                unfair = unfair or not fair
                gain = units.points(model.measured.val_acc - student.alone.measured.val_acc) + ("" if fair else " *")
            teacher = model.parent or ""
            teacher_acc = accuracy(study.measured(teacher))
            rows.append([student.label, teacher, model.id, teacher_acc, accuracy(model.measured), gain])
    if not rows:
        return ""
    text = table(["Student", "Taught by", "Model", "Teacher's acc (%)", "Val acc (%)", "Gain (points)"], rows, left=3)
    return text + ("\n\\* The student alone had another recipe or number of epochs.\n" if unfair else "")


def design_table(study: Study) -> str:
    """Return the designs trained from scratch, the best of each architecture first; '' if there are none."""
    designs = [m for m in study.models if m.stage == "lowrank"]
    best: dict[str, float] = {}
    for model in designs:
        best[model.arch] = max(best.get(model.arch, 0.0), model.measured.val_acc)
    order = list(best)
    designs.sort(key=lambda m: (order.index(m.arch), -m.measured.val_acc, m.id))
    rows = [
        [
            m.id,
            design_label(m),
            accuracy(m.measured),
            units.points(m.measured.val_acc - best[m.arch]),
            units.short_count(m.measured.params),
            units.short_count(m.measured.macs),
            units.size(m.measured.onnx_bytes),
        ]
        for m in designs
    ]
    header = ["Model", "Design", "Val acc (%)", "Against the best of its kind (points)", "Params", "MACs", "ONNX"]
    return table(header, rows, left=2) if rows else ""


def change_table(study: Study, stage: str) -> str:
    """Return each model of `stage` against the model it was made from; '' if there are none."""
    rows = []
    for model in (m for m in study.models if m.stage == stage and m.parent is not None):
        parent = study.measured(model.parent or "")
        change = model.measured.val_acc - parent.val_acc
        rows.append(
            [
                model.id,
                method_words(model),
                model.parent or "",
                accuracy(parent),
                accuracy(model.measured),
                units.points(change),
                units.size(parent.onnx_bytes),
                units.size(model.measured.onnx_bytes),
                units.times(parent.onnx_bytes, model.measured.onnx_bytes),
            ]
        )
    header = ["Model", "Method", "From", "Before (%)", "After (%)", "Change (points)"]
    header += ["ONNX before", "ONNX after", "Smaller"]
    return table(header, rows, left=3) if rows else ""


def pruning_table(curves: Sequence[Curve], on_front: Sequence[Point]) -> str:
    """Return every round of every curve: the channels asked for against what is left of channels, params and so on.

    The accuracy before fine-tuning, as removed and with normalizations measured again, has columns where known.
    The control is the round's shape trained from scratch; its columns are there if some round has one.
    """
    chosen = {p.id for p in on_front}
    has_control = any(row.control_val_acc is not None for curve in curves for row in curve.rounds)
    has_cut = any(row.val_acc_before_tuning is not None for curve in curves for row in curve.rounds)
    rows = []
    for curve in curves:
        start = curve.rounds[0] if curve.rounds else None
        for row in curve.rounds:
            if start is None:
                continue
            ids = {f"{curve.model_id}/round_{row.round}"} | ({curve.model_id} if row is curve.rounds[-1] else set())
            if row.round == 0:
                ids = {curve.parent}
            rows.append(
                [
                    f"{curve.name} (rate {curve.rate:g})",
                    f"{row.round}",
                    f"{100 * (1 - row.rate) ** row.round:.1f} %",
                    f"{100 * row.channels_share:.1f} %",
                    units.share(row.params, start.params),
                    units.share(row.macs, start.macs),
                    units.share(row.onnx_bytes, start.onnx_bytes),
                    units.size(row.onnx_bytes),
                    *(_before_tuning(row) if has_cut else ()),
                    accuracy(row),
                    units.points(row.val_acc - start.val_acc) if row.round else "-",
                    *(_control(row) if has_control else ()),
                    "on it" if ids & chosen else "-",
                ]
            )
    header = ["Curve", "Round", "Channels asked", "Channels left", "Params left", "MACs left", "Bytes left", "ONNX"]
    header += ["Before tuning (%)", "Recalibrated (%)"] if has_cut else []
    header += ["Val acc (%)", "Change (points)", *(["Control (%)", "Above it (points)"] if has_control else ())]
    return table([*header, "Pareto front"], rows) if rows else ""


def _before_tuning(row: Round) -> tuple[str, str]:
    """Return the accuracy right after the removal, and after the normalizations were measured again."""
    found = (row.val_acc_before_tuning, row.val_acc_recalibrated)
    return ("-" if found[0] is None else units.percent(found[0])), (
        "-" if found[1] is None else units.percent(found[1])
    )


def _control(row: Round) -> tuple[str, str]:
    """Return the control's accuracy, and by how much the pruned network is above it."""
    if row.control_val_acc is None:
        return "-", "-"
    deviation = row.control_val_acc_std if row.n_seeds > 1 else None
    return units.percent(row.control_val_acc, deviation), units.points(row.val_acc - row.control_val_acc)
