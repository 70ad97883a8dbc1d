"""Magnitude by what is left beside it: the squared norm of a channel over those of all that are no smaller.

Lee et al., Layer-adaptive sparsity for the magnitude-based pruning, https://arxiv.org/abs/2010.07611, eq. (3), with
channels in place of weights: of squared norms u(1) <= u(2) <= ... of a group, u(i) / (u(i) + u(i+1) + ...). The largest
of every group scores 1, so that none is emptied where groups are ranked together.
"""

from typing import Any

import torch
from torch import Tensor, nn

from netpress.params.schema import Strict
from netpress.prune.common.channels import Score, by_channel, over_group

EXAMPLE: dict[str, float] = {}
#: Made to be compared between layers.
COMPARABLE = True


class Options(Strict):
    """LAMP has no options."""


def scores(options: Options) -> Score:
    """Return the score: a group of coupled channels -> (C) in 0..1."""

    @torch.no_grad()
    def score(group: Any) -> Tensor:
        return lamp(over_group(group, _squared_norms))

    return score


def lamp(norms: Tensor) -> Tensor:
    """Return each of the squared norms (C) over the sum of itself and all that come after it in rising order: (C)."""
    rising, places = norms.double().sort(stable=True)
    no_smaller = rising.flip(0).cumsum(0).flip(0)
    found = rising / no_smaller.clamp(min=torch.finfo(torch.float64).tiny)
    return torch.empty_like(found).scatter_(0, places, found)


def _squared_norms(layer: nn.Module, of_inputs: bool) -> Tensor:
    return by_channel(layer, layer.weight.square(), of_inputs)  # type: ignore[operator]
