"""Group magnitude: the norm of all weights that a channel couples. Fang et al., https://arxiv.org/abs/2301.12900.

Depthwise and grouped weights count: torch-pruning's own score passes over the former, and of the latter it adds the
filters of all groups to a channel that one group alone reads.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from netpress.params.schema import Strict
from netpress.prune.common.channels import Score, by_channel, over_group

EXAMPLE = {"norm": 2}


class Options(Strict):
    """Options of group magnitude."""

    norm: Literal[1, 2] = Field(description="degree of the norm: sum of absolute values or of squares")


def scores(options: Options) -> Score:
    """Return the score: a group of coupled channels -> (C), the mean norm over the coupled layers."""

    def norms(layer: nn.Module, of_inputs: bool) -> Tensor:
        return by_channel(layer, layer.weight.detach().abs().pow(options.norm), of_inputs)  # type: ignore[operator]

    @torch.no_grad()
    def score(group: Any) -> Tensor:
        return over_group(group, norms)

    return score
