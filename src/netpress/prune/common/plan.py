"""The rounds of a pruning curve beforehand: the rate of each, the size that it leaves, its share of the epochs."""

import copy
from collections.abc import Callable

from torch import Tensor, nn

from netpress.base.errors import ParamsError
from netpress.core.measure import SIZES, size_of
from netpress.params import plugins
from netpress.params.items import Prune
from netpress.params.schema import parse
from netpress.prune.common.channels import by_place, remove_channels

#: More rounds than this mean a rate too small to be meant.
MAX_ROUNDS = 100
#: Round (from 1) and share of the size left -> the rate of that round, or None.
NextRate = Callable[[int, float], float | None]


def plan_rounds(
    network: nn.Module, example: Tensor, next_rate: NextRate, round_to: int, until_of: str
) -> list[tuple[float, int]]:
    """Return the rate of each round and the size left after it, where every group loses that share of its channels.

    Found on a copy: how many channels leave then depends neither on training nor on their scores. Where groups are
    ranked together a round is to leave the same size.

    Raises:
        ParamsError: a round removes nothing, so that the curve would never end.
    """
    draft = copy.deepcopy(network)
    start = left = size_of(draft, until_of, example.shape[1:])
    plan: list[tuple[float, int]] = []
    while (rate := next_rate(len(plan) + 1, left / start)) is not None:
        remove_channels(draft, example, rate, round_to, by_place)
        before, left = left, size_of(draft, until_of, example.shape[1:])
        if left == before:
            text = f"rate {rate} with round_to {round_to} removes no further channel at {left / start:.3f}"
            how = f"of the {SIZES[until_of]}; raise until or rate, or lower round_to"
            raise ParamsError([("until", f"until: {text} {how}")])
        plan.append((rate, left))
        if len(plan) > MAX_ROUNDS:
            raise ParamsError([("rate", f"rate: the curve takes over {MAX_ROUNDS} rounds; raise rate or until")])
    if not plan:
        raise ParamsError([("schedule", "schedule: the curve has no round; choose other options")])
    return plan


def next_rate_of(item: Prune) -> NextRate:
    """Return the schedule of the item: round (from 1) and share of the size left -> rate, or None at the end."""
    schedule = plugins.load("prune/schedules", item.schedule, "schedule")
    options = parse(schedule.Options, item.schedule_options, "schedule_options")

    def next_rate(number: int, left: float) -> float | None:
        rate: float | None = schedule.next_rate(number, left, item.rate, item.until, options)
        if rate is not None and not (isinstance(rate, float) and 0 < rate < 1):
            text = f"in round {number} next_rate returned {rate!r}; return a share above 0 and below 1, or None to end"
            raise ParamsError([("schedule", f"schedule = {item.schedule}: {text}")])
        return rate

    return next_rate


def share_epochs(total: int, rounds: int, sparse: int = 0) -> list[int]:
    """Share the epochs of a curve, less those of sparse training, among its rounds as evenly as whole numbers allow.

    The first rounds get most.

    Raises:
        ParamsError: there are fewer epochs than rounds.
    """
    tuning = total - sparse
    if tuning < rounds:
        raise too_few_epochs(total, f"{rounds} rounds", sparse)
    return [tuning // rounds + (k < tuning % rounds) for k in range(rounds)]


def too_few_epochs(total: int, rounds: str, sparse: int = 0) -> ParamsError:
    """Return the error of a curve with fewer epochs, less the sparse ones, than `rounds`, such as `3 rounds`."""
    taken = f"sparse_epochs takes {sparse} of them, and " if sparse else ""
    how = f"raise epochs, {'lower sparse_epochs, ' if sparse else ''}or raise rate or until for fewer rounds"
    text = f"{taken}the curve takes {rounds}, each of an epoch or more; {how}"
    return ParamsError([("epochs", f"epochs = {total}: {text}")])
