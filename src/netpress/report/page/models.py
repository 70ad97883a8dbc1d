"""What the page says of each model: how it was made, sizes, training, confusion matrix and mistakes."""

import base64
import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.base.model_files import HISTORY, MISTAKES, ONNX, PREDICTIONS, SPEC, WEIGHTS
from netpress.base.model_id import ModelId
from netpress.process.environment import Records
from netpress.report import units
from netpress.report.collect import Metrics, Model, Study
from netpress.report.overview import accuracy, method_words
from netpress.report.page import charts

#: Up to so many classes the confusion matrix is shown, and above it the pairs that are confused most.
MOST_CLASSES, PAIRS = 24, 12


@dataclass(frozen=True)
class ClassRow:
    """One class: the share of its images that is named right, and how many of them were given each class's name."""

    name: str
    right: str
    predicted: tuple[int, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """One image of the sheet, by its place in it, and the confidence of the wrong name in percent."""

    place: int
    actual: str
    predicted: str
    confidence: str


@dataclass(frozen=True)
class Sheet:
    """The most confident mistakes as one picture, base64 of a PNG, of as many squares side by side."""

    png: str
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class Parent:
    """A model above another, and how it was made; its entry on the page is that of its variant, `id.base`."""

    id: ModelId
    how: str


@dataclass(frozen=True)
class Entry:
    """What is told of one model.

    Attributes:
        id: the model's.
        summary: family, accuracy and size in one line.
        facts: what and how much, in the order in which they are shown.
        parents: the models above it, the nearest first.
        again: the command that makes it again.
        training: a chart of its epochs; None where there are fewer than two.
        of_last_round: whether that is of the last round of pruning alone.
        classes: the rows of the confusion matrix, or of accuracies alone.
        confused: actual class, predicted class and images of the pairs that are confused most, in place of a matrix.
        sheet: the mistakes; None where they are not there.
        missing: why the rest is not shown; '' where nothing is missing.
    """

    id: str
    summary: str
    facts: tuple[tuple[str, str], ...]
    parents: tuple[Parent, ...]
    again: str
    training: charts.Spec | None
    of_last_round: bool
    classes: tuple[ClassRow, ...]
    confused: tuple[tuple[str, str, int], ...]
    sheet: Sheet | None
    missing: str


@dataclass(frozen=True)
class _Folder:
    """What the folder of the model's first seed holds; nothing where `missing` says why."""

    classes: tuple[str, ...] = ()
    history: tuple[Mapping[str, float], ...] = ()
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    sheet: Sheet | None = None
    missing: str = ""


def entry_of(root: Path, study: Study, model: Model, classes: Sequence[str], records: Records) -> Entry:
    """Collect what is to be told of a model: from its metrics and, where they are here, from small files of its folder.

    Args:
        root: the project's folder.
        study: all models.
        model: the one to tell of.
        classes: the data's, in the order of the labels.
        records: where models were made.
    """
    measured, folder = model.measured, _folder_of(root, model)
    if folder.counts:
        few = len(folder.classes) <= MOST_CLASSES
        rows = _matrix(folder.classes, folder.counts) if few else ()
    else:
        few, rows = True, _accuracies(classes, measured.val_acc_by_class or [])
    return Entry(
        id=model.id,
        summary=f"{model.family}, {units.percent(measured.val_acc)} %, {units.size(measured.onnx_bytes)}",
        facts=tuple(_facts(study, model, records)),
        parents=tuple(Parent(name, _how(study, name)) for name in _above(study, model)),
        again=f"dvc repro --single-item --force {model.id.stage}",
        training=charts.training_spec(folder.history) if len(folder.history) > 1 else None,
        of_last_round=bool(study.rounds(model.id)),
        classes=rows,
        confused=() if few else _most_confused(folder.counts),
        sheet=folder.sheet,
        missing=folder.missing,
    )


def _folder_of(root: Path, model: Model) -> _Folder:
    """Read the folder of the model's first seed; damaged files and those of other weights are not shown, and why."""
    measured = model.measured
    seeds = measured.seeds if isinstance(measured, Metrics) else []
    folder = model.id.folder(root) / f"seed_{seeds[0] if seeds else 0}"
    if not (folder / SPEC).is_file():
        return _Folder(missing="Training, confusion matrix and mistakes are shown where the model is: dvc pull.")
    remedy = f"run 'dvc repro' to make {model.id} again"
    try:
        spec = files.read_sealed(folder / SPEC, remedy)
        if spec["sha256"].get(ONNX if spec["quantized"] else WEIGHTS) != measured.weights_sha256:
            return _Folder(missing="The model's folder holds other weights than the metrics tell of: dvc checkout.")
        texts = {
            name: files.read_checked(folder / name, spec["sha256"][name], remedy)
            for name in (HISTORY, PREDICTIONS, MISTAKES)
            if name in spec["sha256"]
        }
    except ArtifactError as error:
        return _Folder(missing=str(error).replace(str(root / "models"), "models"))
    history = [{key: float(value) for key, value in row.items()} for row in _rows(texts.get(HISTORY, b""))]
    counts: Counter[tuple[str, str]] = Counter()
    mistakes = []
    for row in _rows(texts.get(PREDICTIONS, b"")):
        counts[row["actual"], row["predicted"]] += 1
        if row["on_sheet"]:
            percent = f"{100 * float(row['confidence']):.0f}"
            mistakes.append(Mistake(int(row["on_sheet"]) - 1, row["actual"], row["predicted"], percent))
    mistakes.sort(key=lambda mistake: mistake.place)
    sheet = Sheet(base64.b64encode(texts[MISTAKES]).decode("ascii"), tuple(mistakes)) if mistakes else None
    return _Folder(tuple(spec["classes"]), tuple(history), counts, sheet)


def _rows(data: bytes) -> Iterable[dict[str, str]]:
    return csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""))


def _facts(study: Study, model: Model, records: Records) -> list[tuple[str, str]]:
    measured, item = model.measured, model.item
    facts = [("Made by", method_words(model)), ("Architecture", model.arch)]
    for key, title in (("options", "Options"), ("method_options", "Options of the method")):
        options = getattr(item, key, None)
        if options:
            facts.append((title, ", ".join(f"{name} {_text(value)}" for name, value in sorted(dict(options).items()))))
    facts += [
        ("Validation accuracy", f"{accuracy(measured)} %, {_seeds(measured.n_seeds)}"),
        ("Parameters", f"{measured.params:,}"),
        ("MACs of an image", f"{measured.macs:,}"),
        ("ONNX file", units.size(measured.onnx_bytes)),
    ]
    for tested in (one for one in study.models if one.id.base == model.id and one.test is not None):
        if tested.test is not None and tested.test.test_acc is not None:
            title = "Test accuracy" + (f" of round {tested.id.round}" if tested.id.round else "")
            facts.append((title, f"{units.percent(tested.test.test_acc, tested.test.test_acc_std)} %"))
    if measured.train_acc is not None:
        facts.append(("Accuracy on its training images", f"{units.percent(measured.train_acc)} %"))
    if measured.val_ece is not None:
        facts.append(("Calibration error", f"{units.percent(measured.val_ece)} points"))
    if model.epochs:
        facts.append(("Epochs of its own", f"{model.epochs}, recipe {item.recipe}"))
    facts.append(("sha256 of the weights", measured.weights_sha256[:16]))
    where = records.environments.get(records.of(model.id, measured.weights_sha256) or "", {})
    if where:
        cpu, device, torch = (where.get(key, "-") for key in ("cpu", "device", "torch"))
        facts.append(("Made on", f"{cpu}, {device}, torch {torch}"))
    return facts


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _seeds(count: int) -> str:
    return f"mean of {count} seeds" if count > 1 else "one seed"


def _above(study: Study, model: Model) -> list[ModelId]:
    """Return the ids of the models above, the nearest first, each once."""
    found: list[ModelId] = []
    waiting = list(model.parents.values())
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found.append(name)
            waiting += study.by_id[name.base].parents.values()
    return found


def _how(study: Study, name: ModelId) -> str:
    model = study.by_id[name.base]
    roles = ", ".join(f"{role} {parent}" for role, parent in model.parents.items())
    return f"{method_words(model)}, {accuracy(study.measured(name))} %{f' ({roles})' if roles else ''}"


def _accuracies(classes: Sequence[str], shares: Sequence[float | None]) -> tuple[ClassRow, ...]:
    if len(shares) != len(classes) or len(classes) > MOST_CLASSES:
        return ()
    rights = ["-" if share is None else units.percent(share) for share in shares]
    return tuple(ClassRow(name, right) for name, right in zip(classes, rights, strict=True))


def _matrix(classes: Sequence[str], counts: Counter[tuple[str, str]]) -> tuple[ClassRow, ...]:
    rows = []
    for actual in classes:
        row = tuple(counts[actual, predicted] for predicted in classes)
        right = units.percent(counts[actual, actual] / sum(row)) if any(row) else "-"
        rows.append(ClassRow(actual, right, row))
    return tuple(rows)


def _most_confused(counts: Counter[tuple[str, str]]) -> tuple[tuple[str, str, int], ...]:
    wrong = [(actual, predicted, count) for (actual, predicted), count in counts.items() if actual != predicted]
    return tuple(sorted(wrong, key=lambda row: (-row[2], row))[:PAIRS])
