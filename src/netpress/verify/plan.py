"""Which stages are run again."""

import random
from collections.abc import Collection, Sequence

from netpress.base.errors import ConfigError
from netpress.base.model_id import ModelId
from netpress.base.words import did_you_mean
from netpress.verify.dvc_lock import Lock, with_ancestors


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
