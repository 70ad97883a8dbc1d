"""Which stages are run again, and how long that will take."""

import itertools
import json
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from netpress.base.errors import ConfigError
from netpress.base.model_id import ModelId
from netpress.base.project import metrics_file
from netpress.base.words import did_you_mean
from netpress.verify.dvc_lock import Lock, with_ancestors

#: Seconds of every stage for imports, export and measuring, and multiply-adds of training a second; both on two cores
#: of 2020's. The second is calibrated by what has run.
STAGE_SECONDS = 7.0
MACS_A_SECOND = 5e9


class UsageError(ConfigError):
    """The command line names what does not exist."""


def named(lock: Lock, names: Sequence[str]) -> set[str]:
    """Return the stages that `names` mean: a stage of dvc.lock, all of a foreach (`train`), or a model id.

    Raises:
        UsageError: there is no such stage; names the nearest.
    """
    found: set[str] = set()
    for name in names:
        meant = {s for s in lock if name in (s, s.partition("@")[0]) or name == ModelId.of_stage(s)}
        if not meant:
            groups = sorted({stage.partition("@")[0] for stage in lock})
            near = did_you_mean(name, [*lock, *groups])
            raise UsageError(f"--stage {name}: dvc.lock has no such stage{near}; known: {', '.join([*groups, *lock])}")
        found |= meant
    return found


def drawn(lock: Lock, count: int, seed: str) -> set[str]:
    """Draw `count` stages among those that make a model; the same `seed` draws the same ones."""
    makers = sorted(stage for stage in lock if ModelId.of_stage(stage))
    return set(random.Random(seed).sample(makers, min(count, len(makers))))


def chosen(lock: Lock, targets: Collection[str], order: Sequence[str]) -> list[str]:
    """Return `targets` and what they follow from, in the order of the graph."""
    wanted = with_ancestors(lock, targets)
    return [stage for stage in order if stage in wanted]


def training_work(root: Path, stages: Sequence[str]) -> dict[str, float]:
    """Return the multiply-adds of training that each stage does, from the committed metrics; 0 where not known.

    Epochs x multiply-adds of one image x images, of every round and seed; backward passes are left to calibration.
    """
    images = _metrics(root / "metrics/data.json").get("train_images", 0)
    work = {}
    for stage in stages:
        name = ModelId.of_stage(stage)
        metrics = _metrics(metrics_file(root, name)) if name else {}
        work[stage] = float(images * _epochs_times_macs(metrics) * metrics.get("n_seeds", 1))
    return work


def _epochs_times_macs(metrics: Mapping[str, Any]) -> int:
    rounds = metrics.get("rounds")
    if not rounds:
        return int(metrics.get("epochs", 0) * metrics.get("macs", 0))
    pairs = itertools.pairwise(rounds)
    return sum(int((new["epochs_total"] - old["epochs_total"]) * new["macs"]) for old, new in pairs)


def _metrics(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):  # an ETA is not worth an error; the comparison names the file
        return {}
    return found if isinstance(found, dict) else {}


class Eta:
    """Seconds left, by the work of each stage and the speed of those that have run."""

    def __init__(self, work: Mapping[str, float]) -> None:
        self._left = dict(work)
        self._work = self._seconds = 0.0

    def observe(self, stage: str, seconds: float) -> None:
        """A stage has ended after `seconds`."""
        work = self._left.pop(stage, 0.0)
        if work:
            self._work += work
            self._seconds += max(seconds - STAGE_SECONDS, 0.1)

    def drop(self, stage: str) -> None:
        """A stage will not run."""
        self._left.pop(stage, None)

    def seconds(self) -> float:
        """Return the seconds that the stages left will take."""
        speed = self._work / self._seconds if self._work else MACS_A_SECOND
        return STAGE_SECONDS * len(self._left) + sum(self._left.values()) / speed
