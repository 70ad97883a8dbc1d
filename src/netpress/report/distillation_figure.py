"""Figure: each student alone and under each teacher, with the teachers' own accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from netpress.report import style
from netpress.report.collect import Measured, Study
from netpress.report.comparisons import Student, gains, students
from netpress.report.differences import Accuracy, Differences

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALONE, TAUGHT, TEACHER = style.GREY, style.PALETTE[0], style.PALETTE[1]
#: Room left and right of the accuracies, as a share of their span: half of a label with its interval.
MARGIN = 0.24


@dataclass(frozen=True)
class Row:
    """One line of the figure. Accuracies and the deviation are in percent."""

    words: str
    accuracy: float
    std: float | None
    gain: str = ""
    teacher: float | None = None


def draw(study: Study) -> bytes:
    """Return the PNG of the distillation results, grouped by student."""
    groups = students(study)
    if not groups:
        return style.message("No distilled student in params.yaml")
    differences = gains(study, groups)
    rows = [_rows(study, differences, student) for student in groups]
    height = 1.7 + 0.46 * (sum(map(len, rows)) + len(rows))
    return style.render(partial(_draw, groups, rows), (9.0, height))


def _rows(study: Study, differences: Differences, student: Student) -> list[Row]:
    rows = []
    if student.alone is not None:
        measured = student.alone.measured
        rows.append(Row("alone", 100 * measured.val_acc, _std(measured)))
    for model in student.taught:
        teacher = study.measured(model.parent or "")
        gain = ""
        if student.alone is not None:
            gain = differences.words(Accuracy(student.alone.id), Accuracy(model.id))
        words = f"taught by {model.parent}" + ("" if model.method == "kd" else f", {model.method}")
        rows.append(Row(words, 100 * model.measured.val_acc, _std(model.measured), gain, 100 * teacher.val_acc))
    return rows


def _std(measured: Measured) -> float | None:
    return 100 * measured.val_acc_std if measured.val_acc_std is not None and measured.n_seeds > 1 else None


def _draw(groups: Sequence[Student], rows: Sequence[Sequence[Row]], figure: "Figure") -> None:
    axes = figure.add_subplot()
    values = [v for group in rows for row in group for v in (row.accuracy, row.teacher) if v is not None]
    span = max(max(values) - min(values), 2.0)
    left = max(min(values) - MARGIN * span, -1.0)
    axes.set_xlim(left, max(values) + MARGIN * span)
    ticks, y = [], 0.0
    for student, group in zip(groups, rows, strict=True):
        heading = y
        alone = next((row.accuracy for row in group if row.teacher is None), None)
        for row in group:
            y += 1.0
            ticks.append((y, row.words))
            _draw_row(axes, row, y, alone)
        if alone is not None:
            axes.plot([alone, alone], [heading + 1.0, y + 0.3], ":", color=ALONE, linewidth=1.1, zorder=2)
        ticks.append((heading, student.label))
        y += 1.0
    _label_rows(axes, ticks, {student.label for student in groups})
    axes.set_ylim(y - 0.4, -0.5)
    axes.set_xlabel("Validation accuracy (%)")
    axes.grid(True, axis="x", color=style.LIGHT, linewidth=0.7)
    axes.set_title("Distillation: what a teacher adds")
    _legend(figure)


def _label_rows(axes: "Axes", ticks: Sequence[tuple[float, str]], headings: set[str]) -> None:
    axes.set_yticks([y for y, _ in ticks], [words for _, words in ticks])
    for label in axes.get_yticklabels():
        if label.get_text() in headings:
            label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw_row(axes: "Axes", row: Row, y: float, alone: float | None) -> None:
    colour = ALONE if row.teacher is None else TAUGHT
    if row.teacher is not None:
        # First, so that the student covers its teacher where both are equal.
        axes.plot([row.teacher], [y], "D", color=TEACHER, markersize=7.5, zorder=3)
        if alone is not None:
            axes.plot([alone, row.accuracy], [y, y], color=TAUGHT, linewidth=3, alpha=0.45, zorder=2)
    axes.errorbar(row.accuracy, y, xerr=row.std, fmt="o", color=colour, markersize=8, capsize=3, linewidth=1, zorder=4)
    text = f"{row.accuracy:.2f}" + (f", {row.gain}" if row.gain else "")
    axes.annotate(
        text,
        (row.accuracy, y),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8.5,
        color=style.INK,
        zorder=6,
        bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )


def _legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker=marker, linestyle="", color=colour, markersize=8, label=label)
        for marker, colour, label in (
            ("o", ALONE, "student alone"),
            ("o", TAUGHT, "student taught (gain in points, its 95 % interval)"),
            ("D", TEACHER, "its teacher"),
        )
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
