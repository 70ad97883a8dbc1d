"""What the page says of each model: how it was made, sizes, training, classes and mistakes."""

import base64
import csv
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.base.errors import ArtifactError
from netpress.process.environment import Records
from netpress.report import units
from netpress.report.collect import Metrics, Model, Study
from netpress.report.overview import accuracy, method_words
from netpress.report.page import charts

#: What a model's folder holds beside the model; see docs/artifacts.md.
HISTORY, PREDICTIONS, MISTAKES = "history.csv", "predictions.csv", "mistakes.png"
#: Up to so many classes the confusion matrix is shown, and above it the pairs that are confused most.
MOST_CLASSES, PAIRS = 24, 12


@dataclass(frozen=True)
class ClassRow:
    """One class: its images, the share of them named right, and how many of them were given each class's name."""

    name: str
    images: int
    right: str
    named: tuple[int, ...]


@dataclass(frozen=True)
class Mistake:
    """One picture of the sheet, by its place in it."""

    place: int
    label: str
    predicted: str
    probability: str


@dataclass(frozen=True)
class Sheet:
    """The mistakes as one picture of `count` squares side by side."""

    png: str
    count: int
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class Fold:
    """What is told of one model.

    Attributes:
        id: the model's.
        summary: family, accuracy and size in one line.
        facts: what and how much, in the order in which they are shown.
        lineage: the models above it, each with how it was made.
        again: the command that makes it again.
        training: a chart for each epoch; None where there is none.
        classes: the rows of the confusion matrix, or of accuracies alone (`named` empty).
        confused: the pairs that are confused most, where there are too many classes for a matrix.
        sheet: the mistakes; None where they are not there.
        missing: what to do so that the rest is shown; '' where nothing is missing.
    """

    id: str
    summary: str
    facts: tuple[tuple[str, str], ...]
    lineage: tuple[tuple[str, str], ...]
    again: str
    training: charts.Spec | None
    classes: tuple[ClassRow, ...]
    confused: tuple[tuple[str, str, int], ...]
    sheet: Sheet | None
    missing: str


def fold_of(root: Path, study: Study, model: Model, classes: Sequence[str], records: Records) -> Fold:
    """Collect what is to be told of a model: from its metrics and, where they are here, from small files of its folder.

    Raises:
        ArtifactError: a file of the folder is damaged.
    """
    measured = model.measured
    seeds = measured.seeds if isinstance(measured, Metrics) else []
    folder = model.id.folder(root) / f"seed_{seeds[0] if seeds else 0}"
    history, named = _rows(folder / HISTORY), _rows(folder / PREDICTIONS)
    shares = measured.val_acc_by_class or []
    rows = _class_rows(classes, named) if named else _shares(classes, shares)
    few = len(classes) <= MOST_CLASSES
    return Fold(
        id=model.id,
        summary=f"{model.family}, {units.percent(measured.val_acc)} %, {units.size(measured.onnx_bytes)}",
        facts=tuple(_facts(model, records)),
        lineage=tuple((name, _how(study.by_id.get(name.base))) for name in _above(study, model)),
        again=f"dvc repro --single-item --force {model.id.stage}",
        training=charts.training_spec([{k: float(v) for k, v in row.items()} for row in history]) if history else None,
        classes=rows if few else (),
        confused=() if few else _confused(named),
        sheet=_sheet(folder / MISTAKES, named),
        missing="" if named else "Training, confusions and mistakes are shown where the model is: dvc pull",
    )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _facts(model: Model, records: Records) -> list[tuple[str, str]]:
    measured = model.measured
    facts = [
        ("Made by", method_words(model)),
        ("Architecture", model.arch),
        ("Validation accuracy", f"{accuracy(measured)} %, {_seeds(measured.n_seeds)}"),
        ("Parameters", f"{measured.params:,}"),
        ("Multiply-adds of an image", f"{measured.macs:,}"),
        ("ONNX file", units.size(measured.onnx_bytes)),
    ]
    if model.test is not None and model.test.test_acc is not None:
        facts.append(("Test accuracy", f"{units.percent(model.test.test_acc, model.test.test_acc_std)} %"))
    if measured.train_acc is not None:
        facts.append(("Accuracy on its training images", f"{units.percent(measured.train_acc)} %"))
    if measured.val_ece is not None:
        facts.append(("Calibration error", f"{units.percent(measured.val_ece)} points"))
    if model.epochs is not None:
        facts.append(("Epochs of its own", f"{model.epochs}"))
    facts.append(("sha256 of the weights", measured.weights_sha256[:16]))
    where = records.environments.get(records.of(model.id, measured.weights_sha256) or "", {})
    if where:
        words = (f"{where.get('cpu', '-')}, {where.get('device', '-')}", f"torch {where.get('torch', '-')}")
        facts.append(("Made on", ", ".join(words)))
    return facts


def _seeds(count: int) -> str:
    return f"mean of {count} seeds" if count > 1 else "one seed"


def _above(study: Study, model: Model) -> list[Any]:
    """Return the ids of the models above, the nearest first, each once."""
    found: list[Any] = []
    waiting = list(model.parents.values())
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found.append(name)
            waiting += study.by_id[name.base].parents.values() if name.base in study.by_id else []
    return found


def _how(model: Model | None) -> str:
    if model is None:
        return "not among the models shown"
    roles = ", ".join(f"{role} {parent}" for role, parent in model.parents.items())
    return f"{method_words(model)}, {accuracy(model.measured)} %{f' ({roles})' if roles else ''}"


def _shares(classes: Sequence[str], shares: Sequence[float | None]) -> tuple[ClassRow, ...]:
    if len(shares) != len(classes):
        return ()
    rights = ["-" if share is None else units.percent(share) for share in shares]
    return tuple(ClassRow(name, 0, right, ()) for name, right in zip(classes, rights, strict=True))


def _class_rows(classes: Sequence[str], named: Sequence[Mapping[str, str]]) -> tuple[ClassRow, ...]:
    counts = {name: dict.fromkeys(classes, 0) for name in classes}
    for row in named:
        counts[row["actual"]][row["predicted"]] += 1
    return tuple(
        ClassRow(name, total, units.percent(row[name] / total) if total else "-", tuple(row.values()))
        for name, row in counts.items()
        for total in [sum(row.values())]
    )


def _confused(named: Sequence[Mapping[str, str]]) -> tuple[tuple[str, str, int], ...]:
    counts: dict[tuple[str, str], int] = {}
    for row in named:
        if row["actual"] != row["predicted"]:
            pair = row["actual"], row["predicted"]
            counts[pair] = counts.get(pair, 0) + 1
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:PAIRS]
    return tuple((actual, predicted, count) for (actual, predicted), count in most)


def _sheet(path: Path, named: Sequence[Mapping[str, str]]) -> Sheet | None:
    shown = sorted((int(row["on_sheet"]), row) for row in named if row["on_sheet"])
    if not shown or not path.is_file():
        return None
    data = path.read_bytes()
    width, height = struct.unpack(">II", data[16:24]) if data[12:16] == b"IHDR" else (0, 0)
    if not height or width != height * len(shown):
        raise ArtifactError(f"{path} is not the picture of {len(shown)} mistakes; run 'dvc repro' to make it again")
    mistakes = [
        Mistake(place - 1, row["actual"], row["predicted"], f"{100 * float(row['probability']):.0f}")
        for place, row in shown
    ]
    return Sheet(base64.b64encode(data).decode("ascii"), len(shown), tuple(mistakes))
