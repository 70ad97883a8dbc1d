"""Channels at random: what every other score has to beat. Mittal et al., https://arxiv.org/abs/1801.10447."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from netpress.params.schema import Strict
from netpress.prune.common.channels import Score

EXAMPLE = {"seed": 0}
COMPARABLE = True


class Options(Strict):
    """Options of the random score."""

    seed: int = Field(ge=0, le=2**31, description="of the draws, which are the same in every round and for every seed")


def scores(options: Options) -> Score:
    """Return the score: a group of coupled channels -> (C) uniform draws."""
    generator = torch.Generator().manual_seed(options.seed)

    def score(group: Any) -> Tensor:
        return torch.rand(len(group[0].idxs), generator=generator)

    return score
