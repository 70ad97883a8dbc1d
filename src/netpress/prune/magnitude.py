"""Group magnitude: the norm of all weights that a channel couples. Fang et al., https://arxiv.org/abs/2301.12900."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from netpress.base.schema import Strict


class Options(Strict):
    """Options of group magnitude."""

    norm: Literal[1, 2] = Field(description="degree of the norm: sum of absolute values or of squares")


def importance(options: Options) -> Callable[..., Any]:
    """Return the score: a group of coupled channels -> (C), the mean norm over the coupled layers."""
    import torch_pruning as tp

    score: Callable[..., Any] = tp.importance.GroupMagnitudeImportance(p=options.norm, group_reduction="mean")
    return score
