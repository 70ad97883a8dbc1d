"""How many channels leave each group of a round: the same share of every group, or the lowest of several groups.

The scope says which groups are ranked together: `global` all of them, as in Liu et al., Network slimming,
https://arxiv.org/abs/1708.06519; `isomorphic` those that couple the same kinds of layers in the same way, Fang et al.,
Isomorphic pruning, https://arxiv.org/abs/2407.04616.
"""

import bisect
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

#: What a group keeps in a round where groups are ranked together, as long as others can give more.
KEPT = 0.1

Scope = Literal["global", "isomorphic"]


@dataclass(frozen=True)
class Coupled:
    """A group of coupled channels.

    Attributes:
        root: the name of the layer whose outputs the channels are.
        scores: (P,) of the places in each of `repeats` equal parts, in which the same places leave; on the CPU.
        repeats: the groups of a grouped convolution that the channels pass; 1 as a rule.
        step: so many places, or a multiple, are kept.
        kind: the same for groups that couple the same kinds of layers in the same way.
    """

    root: str
    scores: Tensor
    repeats: int
    step: int
    kind: Hashable

    def lowest(self, count: int) -> list[int]:
        """Return the channels of the `count` places of the lowest scores, in order."""
        places = self.scores.argsort(stable=True)[:count].tolist()
        return sorted(place + part * len(self.scores) for place in places for part in range(self.repeats))

    def without(self, leaving: int) -> int:
        """Return how many places leave where `leaving` may and steps are kept whole; 0 where none would be left."""
        kept = len(self.scores) - leaving
        kept -= kept % self.step
        return len(self.scores) - kept if kept and leaving else 0


@dataclass(frozen=True)
class Goal:
    """What a round is to leave where the groups of a scope are ranked together.

    Attributes:
        scope: the groups that are ranked together.
        comparable: whether scores compare between groups as they are; otherwise each is divided by its group's mean.
        size: of a network.
        left: the size that the network has afterwards at most.
    """

    scope: Scope
    comparable: bool
    size: Callable[[nn.Module], int]
    left: int


def same_share(groups: Sequence[Coupled], rate: float) -> list[int]:
    """Return how many places leave each group where each loses the share `rate`; of one that would lose all, none."""
    return [group.without(len(group.scores) - int(len(group.scores) * (1 - rate))) for group in groups]


def fewest(groups: Sequence[Coupled], goal: Goal, size: Callable[[list[int]], int]) -> list[int]:
    """Return how many places leave each group: the fewest of the lowest scores with which the goal is reached.

    Args:
        groups: all that can lose channels.
        goal: what is ranked together, and what is to be left.
        size: of the network without so many places of each group.
    """
    order = leaving_order(groups, goal)

    def counts(leaving: int) -> list[int]:
        gone = torch.bincount(torch.tensor(order[:leaving], dtype=torch.int64), minlength=len(groups)).tolist()
        return [group.without(count) for group, count in zip(groups, gone, strict=True)]

    enough = bisect.bisect_left(range(len(order)), True, key=lambda leaving: size(counts(leaving)) <= goal.left)
    return counts(enough)


def leaving_order(groups: Sequence[Coupled], goal: Goal) -> list[int]:
    """Return the group that loses its lowest place first, second, and so on.

    Places go by the share of those of their scope that score lower. The best tenth of each group goes after all others,
    and a step of it never, so that no layer loses all its channels.
    """
    scopes = defaultdict[Hashable, list[tuple[float, int, int]]](list)
    for number, group in enumerate(groups):
        scores = group.scores if goal.comparable else normalized(group.scores)
        places = list(enumerate(scores.sort(stable=True).values.tolist()))
        scopes[group.kind if goal.scope == "isomorphic" else None] += [(score, number, j) for j, score in places]
    ranked: list[tuple[bool, float, int]] = []
    for members in scopes.values():
        for rank, (_, number, j) in enumerate(sorted(members)):
            group = groups[number]
            if j < len(group.scores) - group.step:
                among_best = j >= len(group.scores) - math.ceil(KEPT * len(group.scores))
                ranked.append((among_best, rank / len(members), number))
    return [number for _, _, number in sorted(ranked)]


def normalized(scores: Tensor) -> Tensor:
    """Return `scores` (P,) divided by their mean, as torch-pruning's scores are by default; zeros stay as they are."""
    return scores / scores.abs().mean().clamp(min=torch.finfo(scores.dtype).tiny)
