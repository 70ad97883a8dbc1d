"""The same rate in every round, so that the channels left are a geometric series. Iterative pruning as in Li et al.,
Pruning filters for efficient ConvNets, https://arxiv.org/abs/1608.08710."""

from netpress.params.schema import Strict

EXAMPLE: dict[str, float] = {}


class Options(Strict):
    """The schedule has no options but the item's `rate` and `until`."""


def next_rate(round: int, left: float, rate: float, until: float, options: Options) -> float | None:
    """Return `rate` until the share of the parameters that is left is below `until`."""
    return None if left < until else rate
