"""How long stages will take: by the work that they do, and by the speed of those that have run."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from netpress.base.errors import ArtifactError
from netpress.base.files import write_json
from netpress.base.model_id import ModelId
from netpress.base.project import metrics_file
from netpress.params.items import Data

#: Seconds of every stage for DVC and imports, and multiply-adds of training a second; both on two cores of 2020's. The
#: second is calibrated by what has run, and kept for the next run.
STAGE_SECONDS = 4.0
MACS_A_SECOND = 5e9
SPEED = Path(".netpress/speed.json")
#: Seconds of training after which a run's speed is kept.
LEAST = 60.0
#: What an image costs whatever the network, and a network that is measured, exported and saved; in multiply-adds.
IMAGE_MACS = 1e6
NETWORK_MACS = 1.5e10
#: Multiply-adds of a stage of which nothing is known, where nothing is known of any.
UNKNOWN = 20 * MACS_A_SECOND


def known_images(root: Path, data: Data | None = None) -> int:
    """Return how many training images the metrics are of; 0 where there are none, or of other data than `data`."""
    facts = _content(root / "metrics/data.json")
    same = data is None or all(facts.get(key) == getattr(data, key) for key in ("source", "resolution"))
    return facts.get("train_images", 0) if same else 0


def training_work(root: Path, stages: Iterable[str], images: int) -> dict[str, float]:
    """Return the multiply-adds of training that each stage did when its metrics were written.

    Epochs x multiply-adds of one image x training images, of every round, control and seed; backward passes are left
    to calibration. A model without metrics counts as the mean of the others; a stage that makes no model as 0. With 0
    `images` nothing is known of any.
    """
    makers = {stage: _content(metrics_file(root, name)) for stage in stages if (name := ModelId.of_stage(stage))}
    known = {
        stage: float(metrics.get("n_seeds", 1) * sum(_trainings(root, metrics, images)))
        for stage, metrics in makers.items()
        if metrics and images
    }
    mean = sum(known.values()) / len(known) if known else UNKNOWN
    return {stage: known.get(stage, mean) if stage in makers else 0.0 for stage in stages}


def _trainings(root: Path, metrics: Mapping[str, Any], images: int) -> Iterator[float]:
    """Yield the multiply-adds of each network that one seed trains."""

    def work(epochs: float, macs: float) -> float:
        return NETWORK_MACS + epochs * images * (macs + IMAGE_MACS)

    rounds = metrics.get("rounds")
    if not rounds:
        yield work(metrics.get("epochs", 0), metrics.get("macs", 0))
        return
    for old, new in itertools.pairwise(rounds):
        yield work(new["epochs_total"] - old["epochs_total"], new["macs"])
        if "control_val_acc" in new:  # as a rule as long as the parent and the fine-tuning
            parent = _content(metrics_file(root, metrics["parent"])).get("epochs", 0)
            yield work(parent + new["epochs_total"], new["macs"])


def _content(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):  # an ETA is not worth an error; those who read the file say what is wrong with it
        return {}
    return found if isinstance(found, dict) else {}


def known_speed(root: Path) -> float:
    """Return the multiply-adds a second of the last run here, or what processors do as a rule."""
    found = _content(root / SPEED).get("macs_a_second")
    return found if isinstance(found, float) and found > 0 else MACS_A_SECOND


def keep_speed(root: Path, eta: "Eta") -> None:
    """Keep the speed of a run for the next, if it has worked long enough to tell.

    A seed that was finished before takes no time; a run of such seeds alone would look faster than any machine.
    """
    if eta.worked >= LEAST:
        with suppress(ArtifactError):  # for want of disk, as it may be; the next ETA is not worth an error
            write_json(root / SPEED, {"macs_a_second": eta.speed})


class Eta:
    """Seconds that stages take, by the work of each and the speed of those that have run.

    Args:
        work: stage -> multiply-adds.
        seeds: stage -> how many processes can share it; 1 where it is not named.
        speed: multiply-adds a second, until a stage has ended.

    Attributes:
        worked: seconds that the processes of stages that trained have taken, but for DVC and imports.
    """

    def __init__(
        self, work: Mapping[str, float], seeds: Mapping[str, int] | None = None, speed: float = MACS_A_SECOND
    ) -> None:
        self._left, self._seeds, self._speed = dict(work), seeds or {}, speed
        self._work = self.worked = 0.0

    @property
    def speed(self) -> float:
        """Return the multiply-adds a second of the stages that have ended, or else those that were given."""
        return self._work / self.worked if self._work else self._speed

    def observe(self, stage: str, seconds: float) -> None:
        """A stage has ended, whose processes took `seconds` together."""
        work = self._left.pop(stage, 0.0)
        if work:
            self._work += work
            self.worked += max(seconds - STAGE_SECONDS, 0.1)

    def drop(self, stage: str) -> None:
        """A stage will not run."""
        self._left.pop(stage, None)

    def of(self, stage: str) -> float:
        """Return the seconds that one of the stages left takes a single process."""
        return STAGE_SECONDS + self._left[stage] / self.speed

    def seconds(self, running: Mapping[str, float] | None = None, slots: int = 1) -> float:
        """Return the seconds until the stages left have ended.

        Args:
            running: those of them that run -> seconds that their processes have worked.
            slots: how many processes may run at once.
        """
        worked = running or {}
        left = {stage: max(0.0, self.of(stage) - worked.get(stage, 0.0)) for stage in self._left}
        longest = [seconds / min(slots, self._seeds.get(stage, 1)) for stage, seconds in left.items()]
        return max([sum(left.values()) / slots, *longest])
