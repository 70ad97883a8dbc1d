"""Whether an output of a re-run is the committed one, close enough to it, or neither."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from netpress.verify.dvc_lock import Entry
from netpress.verify.equivalence import again, same

#: What never depends on rounding: another value means another model.
FIXED = ("arch", "method", "parent", "params", "macs", "epochs", "n_seeds", "seeds", "n_images", "round", "rate")
#: Of how many images accuracies are, and which: may be known on one side alone, and may not differ.
IMAGES = ("val_images", "val_images_sha256")
TABLES = ("metrics/summary.", "plots/")

Read = Callable[[str], bytes | None]


class Verdict(IntEnum):
    """From good to bad, so that the whole is the worst of its parts."""

    BIT_EXACT = 0
    EQUIVALENT = 1
    UNDECIDED = 2
    DRIFTED = 3

    @property
    def words(self) -> str:
        """As people and JSON read it."""
        return ("bit-exact", "equivalent", "cannot tell", "drifted")[self]

    @property
    def exit_code(self) -> int:
        """0, 3, 4 and 1: a drift is a failure; equivalence, and what the images cannot tell, are told apart from it."""
        return (0, 3, 4, 1)[self]


@dataclass(frozen=True)
class Output:
    """One output of a stage: the committed and the found md5 (None where it was not made), and what differs."""

    path: str
    verdict: Verdict
    expected: str | None
    found: str | None
    detail: str = ""


@dataclass(frozen=True)
class StageOutcome:
    """One stage after the re-run.

    Attributes:
        stage: its name in dvc.lock.
        outputs: of the committed dvc.lock, in its order.
        changed: what it reads that is not what it read when the results were made.
        seconds: how long it ran; None when it did not run.
        error: the last line of a stage that failed, or why it was not run.
    """

    stage: str
    outputs: tuple[Output, ...]
    changed: tuple[str, ...] = ()
    seconds: float | None = None
    error: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst of its outputs; a stage that failed has drifted."""
        return worst([Verdict.DRIFTED] if self.error else [output.verdict for output in self.outputs])


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst verdict; nothing differs where there is nothing."""
    return max(verdicts, default=Verdict.BIT_EXACT)


def first_diverged(outcomes: Sequence[StageOutcome]) -> StageOutcome | None:
    """Return the first stage that is not bit-exact; `outcomes` are in the order of the graph, so its inputs were."""
    return next((outcome for outcome in outcomes if outcome.verdict != Verdict.BIT_EXACT), None)


def judge(
    expected: Entry, found: Entry, committed: Read, made: Read, margin: float, models: Verdict
) -> tuple[Output, ...]:
    """Compare the outputs of one stage.

    Args:
        expected: its entry in the committed dvc.lock.
        found: its entry in the re-run's.
        committed: path -> content in the commit, of files that Git tracks.
        made: path -> content after the re-run.
        margin: largest difference of two accuracies that counts as none, a fraction.
        models: the worst verdict on the models from which tables are made.
    """
    metrics = {
        path: compare_metrics(_json(committed(path)), _json(made(path)), margin)
        for path in expected.outs
        if path.startswith("metrics/") and not path.startswith(TABLES) and path != "metrics/data.json"
    }
    outputs = []
    for path, md5 in expected.outs.items():
        new = found.outs.get(path)
        content = committed(path)
        if content is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            verdict, detail = Verdict.DRIFTED, "the committed file is not the one in the committed dvc.lock"
        elif new == md5:
            verdict, detail = Verdict.BIT_EXACT, ""
        elif new is None:
            verdict, detail = Verdict.DRIFTED, "is not made any more"
        elif path in metrics:
            verdict, detail = metrics[path]
        elif path.startswith("models/") and metrics:
            verdict, detail = _judge_model(list(metrics.values()))
        elif path.startswith(TABLES):
            verdict, detail = _judge_table(models)
        else:
            verdict, detail = Verdict.DRIFTED, "other bytes"
        outputs.append(Output(path, verdict, md5, new, detail))
    added = [path for path in found.outs if path not in expected.outs]
    outputs += [Output(p, Verdict.DRIFTED, None, found.outs[p], "is not in the committed dvc.lock") for p in added]
    return tuple(outputs)


def compare_metrics(committed: Any, made: Any, margin: float) -> tuple[Verdict, str]:
    """Compare two metrics files: sizes must be equal, and accuracies equivalent within `margin`, image by image.

    The rounds of a pruning curve are compared one by one; the worst of them stands for all.
    """
    if committed == made and committed is not None:
        return Verdict.BIT_EXACT, ""
    if not isinstance(committed, Mapping) or not isinstance(made, Mapping):
        return Verdict.DRIFTED, "one of the two is not a metrics file"
    pairs = [("", committed, made)]
    rounds = [_rounds(metrics) for metrics in (committed, made)]
    if len(rounds[0]) != len(rounds[1]):
        return Verdict.DRIFTED, f"{len(rounds[0])} rounds became {len(rounds[1])}"
    pairs += [(f"round {k}: ", *pair) for k, pair in enumerate(zip(*rounds, strict=True))]
    for prefix, old, new in pairs:
        for key in FIXED:
            if old.get(key) != new.get(key):
                return Verdict.DRIFTED, f"{prefix}{key} {old.get(key)} became {new.get(key)}"
    for key in IMAGES:
        if None not in (committed.get(key), made.get(key)) and committed[key] != made[key]:
            return Verdict.DRIFTED, f"measured on other images: {key} {committed[key]} became {made[key]}"
    images, name = _images(committed, made), "test_acc" if "n_images" in committed else "val_acc"
    judged = [_judge_accuracy(old, new, name, images, margin, prefix) for prefix, old, new in pairs]
    verdict, _, words = max(judged)
    return verdict, words or f"other bytes, same {name}"


def _judge_accuracy(
    old: Any, new: Any, name: str, images: int | None, margin: float, prefix: str
) -> tuple[Verdict, float, str]:
    """Return the verdict on one accuracy, how large the difference is, and what to say; nothing of equal ones."""
    if same(old, new, name):
        return Verdict.EQUIVALENT, -1.0, ""
    found = again(old, new, name, images)
    if found is None:
        return Verdict.DRIFTED, 1.0, f"{prefix}{name} {old.get(name)} became {new.get(name)}"
    equivalent = found.equivalent(margin)
    verdict = Verdict.UNDECIDED if equivalent is None else Verdict.EQUIVALENT if equivalent else Verdict.DRIFTED
    return verdict, abs(found.now - found.was), f"{prefix}{name}: {found.words}"


def _images(committed: Mapping[str, Any], made: Mapping[str, Any]) -> int | None:
    """Return of how many images the accuracies are, as either side says."""
    known = (metrics.get(key) for metrics in (committed, made) for key in ("n_images", "val_images"))
    return next((n for n in known if isinstance(n, int) and n > 1), None)


def _rounds(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rounds = metrics.get("rounds", [])
    return [row for row in rounds if isinstance(row, Mapping)] if isinstance(rounds, list) else []


def _judge_model(metrics: Sequence[tuple[Verdict, str]]) -> tuple[Verdict, str]:
    verdict, detail = max(metrics)
    if verdict == Verdict.BIT_EXACT:
        return Verdict.EQUIVALENT, "same figures, other files"
    return verdict, detail


def _judge_table(models: Verdict) -> tuple[Verdict, str]:
    if models == Verdict.DRIFTED:
        return models, "shows models that drifted"
    if models != Verdict.BIT_EXACT:
        return models, "shows models that are not the same bytes"
    return Verdict.DRIFTED, "other bytes, although every model is the same"


def _json(data: bytes | None) -> Any:
    try:
        return json.loads(data) if data is not None else None
    except ValueError:
        return None
