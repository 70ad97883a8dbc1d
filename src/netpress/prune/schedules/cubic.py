"""Much in the first rounds and little in the last: gradual pruning, Zhu and Gupta, https://arxiv.org/abs/1710.01878.

Of the channels that are to leave in all, (1 - (1 - k/n)^3) have left after round k of n. With `rounds: 1` all leave at
once. The item's `rate` is not used.
"""

from pydantic import Field

from netpress.params.schema import Strict

EXAMPLE = {"rounds": 4}


class Options(Strict):
    """Options of the cubic schedule."""

    rounds: int = Field(ge=1, le=1000, description="rounds in which channels leave; 1: all at once")


def next_rate(round: int, left: float, rate: float, until: float, options: Options) -> float | None:
    """Return the share that leaves, so that about the share `until` of the parameters is left after the last round.

    Parameters go with the square of the channels.
    """
    if round > options.rounds:
        return None
    return 1 - _kept(round, until, options.rounds) / _kept(round - 1, until, options.rounds)


def _kept(round: int, until: float, rounds: int) -> float:
    """Return the share of the channels that is left after a round."""
    left_out: float = 1 - (1 - round / rounds) ** 3
    return 1 - (1 - until**0.5) * left_out
