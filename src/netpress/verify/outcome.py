"""Whether an output of a re-run is the committed one, close enough to it, or neither."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from netpress.verify.dvc_lock import Entry

#: How far an accuracy of one seed may be off; a fraction, so one point.
TOLERANCE = 0.01
#: Deviations of the seeds' accuracies on both sides of their mean; about 95 % of a normal distribution.
DEVIATIONS = 2.0
#: What never depends on rounding: another value means another model.
FIXED = ("arch", "method", "parent", "params", "macs", "epochs", "n_seeds", "n_images", "round", "rate")
TABLES = ("metrics/summary.", "plots/")

Read = Callable[[str], bytes | None]


class Verdict(IntEnum):
    """From good to bad, so that the whole is the worst of its parts."""

    BIT_EXACT = 0
    WITHIN_TOLERANCE = 1
    DRIFTED = 2

    @property
    def words(self) -> str:
        """As people and JSON read it."""
        return ("bit-exact", "within tolerance", "drifted")[self]

    @property
    def exit_code(self) -> int:
        """0, 3 and 1: a drift is a failure, a difference within tolerance is told apart from both."""
        return (0, 3, 1)[self]


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
    expected: Entry, found: Entry, committed: Read, made: Read, tolerance: float, models: Verdict
) -> tuple[Output, ...]:
    """Compare the outputs of one stage.

    Args:
        expected: its entry in the committed dvc.lock.
        found: its entry in the re-run's.
        committed: path -> content in the commit, of files that Git tracks.
        made: path -> content after the re-run.
        tolerance: for an accuracy of one seed, a fraction.
        models: the worst verdict on the models from which tables are made.
    """
    metrics = {
        path: compare_metrics(_json(committed(path)), _json(made(path)), tolerance)
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


def compare_metrics(committed: Any, made: Any, tolerance: float) -> tuple[Verdict, str]:
    """Compare two metrics files: sizes must be equal, and accuracies within the seeds' interval.

    The interval is the committed mean +- 2 standard deviations, or +- `tolerance` with one seed. The rounds of a
    pruning curve are compared one by one.
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
    worst_so_far: tuple[Verdict, float, str] = (Verdict.WITHIN_TOLERANCE, -1.0, "other bytes, same accuracy")
    for prefix, old, new in pairs:
        for key in FIXED:
            if old.get(key) != new.get(key):
                return Verdict.DRIFTED, f"{prefix}{key} {old.get(key)} became {new.get(key)}"
        name = "test_acc" if "n_images" in committed else "val_acc"
        verdict, difference, words = _compare_accuracy(old, new, name, tolerance)
        if difference:
            worst_so_far = max(worst_so_far, (verdict, difference, prefix + words))
    return worst_so_far[0], worst_so_far[2]


def _rounds(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rounds = metrics.get("rounds", [])
    return [row for row in rounds if isinstance(row, Mapping)] if isinstance(rounds, list) else []


def _compare_accuracy(old: Any, new: Any, name: str, tolerance: float) -> tuple[Verdict, float, str]:
    was, now = old.get(name), new.get(name)
    if was == now:
        return Verdict.BIT_EXACT, 0.0, ""
    if not isinstance(was, int | float) or not isinstance(now, int | float):
        return Verdict.DRIFTED, 1.0, f"{name} {was} became {now}"
    deviation = old.get(f"{name}_std")
    if old.get("n_seeds", len(old.get(f"{name}_by_seed", []))) > 1 and isinstance(deviation, int | float):
        allowed, source = DEVIATIONS * deviation, f"{DEVIATIONS:g} deviations of the seeds"
    else:
        allowed, source = tolerance, "tolerance for one seed"
    difference = abs(now - was)
    # Not 0.87 - 0.86 > 0.01: the sum of two rounded numbers is not the point to fail on.
    verdict = Verdict.WITHIN_TOLERANCE if difference <= allowed + 1e-9 else Verdict.DRIFTED
    sign = "within" if verdict == Verdict.WITHIN_TOLERANCE else "beyond"
    return verdict, difference, f"{name} {was:.4f} became {now:.4f}, {sign} +-{allowed:.4f} ({source})"


def _judge_model(metrics: Sequence[tuple[Verdict, str]]) -> tuple[Verdict, str]:
    verdict, detail = max(metrics)
    if verdict == Verdict.BIT_EXACT:
        return Verdict.WITHIN_TOLERANCE, "same figures, other files"
    return verdict, detail


def _judge_table(models: Verdict) -> tuple[Verdict, str]:
    if models == Verdict.DRIFTED:
        return models, "shows models that drifted"
    if models == Verdict.WITHIN_TOLERANCE:
        return models, "shows models within tolerance"
    return Verdict.DRIFTED, "other bytes, although every model is the same"


def _json(data: bytes | None) -> Any:
    try:
        return json.loads(data) if data is not None else None
    except ValueError:
        return None
