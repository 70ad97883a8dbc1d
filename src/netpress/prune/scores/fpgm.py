"""Distance to the others: a filter near the middle of its layer's filters is the one that the others can stand in for.

He et al., Filter pruning via geometric median, https://arxiv.org/abs/1811.00250. Normalizations say nothing of it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from netpress.params.schema import Strict
from netpress.prune.common.channels import Score, over_group

EXAMPLE: dict[str, float] = {}


class Options(Strict):
    """FPGM has no options."""


def scores(options: Options) -> Score:
    """Return the score: a group of coupled channels -> (C), the sum of distances to the others, a mean over layers."""

    @torch.no_grad()
    def score(group: Any) -> Tensor:
        return over_group(group, _distances)

    return score


def _distances(layer: nn.Module, of_inputs: bool) -> Tensor:
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    if of_inputs:
        groups = getattr(layer, "groups", 1)
        by_group = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)  # (groups, out, in, k), in each
        weight = by_group.transpose(1, 2).flatten(0, 1)
    rows = weight.flatten(1)
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
