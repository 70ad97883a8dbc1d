"""Group-lasso training before pruning: the channels that the loss can do without are small before they are cut.

The loss gains a penalty on coupled channels, those that leave together, of all groups that can lose some:

    sparsity * sum over channels c of sqrt(sum over the layers l that c couples of ||w_l[c]||^2)

The unsquared norm is that of Wen et al., Learning structured sparsity in deep neural networks,
https://arxiv.org/abs/1608.03665: it pulls at a channel of any size with the same force, so that what the loss does not
hold goes to zero. There each layer's filters, and its inputs, have norms of their own, so that a channel may vanish in
one layer and stay in another. The groups are those of Fang et al., DepGraph, https://arxiv.org/abs/2301.12900, where
all that leaves with a channel counts together; but DepGraph squares, I_c = sum ||w_l[c]||^2, and adds sum g_c I_c with
g_c = 2^(4 (max I - I_c) / (max I - min I)) of the group, constants in the gradient: a weight decay that is 16 times
stronger for a group's weakest channel than for its strongest, and fades as the channel does.

Weights count, biases do not. A weight that joins two groups, or two channels of one, counts in each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netpress.core.batches import Batch
from netpress.core.engine import CrossEntropy, Objective
from netpress.prune.common.channels import Member, by_channel, removable

#: Squared norms below this pull no more, since a norm has no gradient at 0.
LEAST = 1e-24


@dataclass(frozen=True)
class Group:
    """Channels that layers couple; of each of its `repeats` equal parts the same places leave."""

    members: Sequence[Member]
    repeats: int


def groups_of(network: nn.Module, example: Tensor, rate: float, round_to: int) -> list[Group]:
    """Return the groups of coupled channels of which rounds remove some; for arguments and errors see `removable`."""
    return [Group(*found) for found in removable(network, example, rate, round_to)]


def norms(group: Group) -> Tensor:
    """Return the Euclidean norms of the weights that leave together, (places)."""
    parts = [
        (member.places, by_channel(member.layer, member.layer.weight.square(), member.of_inputs)[member.indices])  # type: ignore[operator]
        for member in group.members
    ]
    squares = parts[0][1].new_zeros(1 + max(max(places) for places, _ in parts))
    for places, values in parts:
        squares = squares.index_add(0, torch.tensor(places, device=squares.device), values)
    return squares.view(group.repeats, -1).sum(0).clamp(min=LEAST).sqrt()


class Sparse:
    """An objective and `sparsity` times the sum of the groups' norms; the cross-entropy if there is no objective."""

    def __init__(self, objective: Objective | None, groups: Sequence[Group], sparsity: float) -> None:
        self._objective, self._groups, self._sparsity = objective or CrossEntropy(), groups, sparsity
        self.modules = self._objective.modules

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Tell the objective."""
        self._objective.start_epoch(epoch, epochs)

    def __call__(self, batch: Batch, logits: Tensor) -> Tensor:
        penalty = torch.cat([norms(group) for group in self._groups]).sum()
        return self._objective(batch, logits) + self._sparsity * penalty
