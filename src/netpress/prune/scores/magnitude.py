"""Group magnitude: the norm of all weights that a channel couples. Fang et al., https://arxiv.org/abs/2301.12900.

Depthwise and grouped weights count: torch-pruning's own score passes over the former, and of the latter it adds the
filters of all groups to a channel that one group alone reads.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from netpress.params.schema import Strict


class Options(Strict):
    """Options of group magnitude."""

    norm: Literal[1, 2] = Field(description="degree of the norm: sum of absolute values or of squares")


def importance(options: Options) -> Callable[..., Tensor]:
    """Return the score: a group of coupled channels -> (C), the mean norm over the coupled layers."""
    from torch_pruning import function

    inputs = (function.prune_conv_in_channels, function.prune_linear_in_channels)

    @torch.no_grad()
    def score(group: Any) -> Tensor:
        found: list[tuple[list[int], Tensor]] = []
        for place, (dependency, indices) in enumerate(group):
            if isinstance(getattr(dependency.layer, "weight", None), Tensor):
                norms = channel_norms(dependency.layer, dependency.pruning_fn in inputs, options.norm)
                found.append((group[place].root_idxs, norms[indices]))
        total = found[0][1].new_zeros(1 + max(max(channels) for channels, _ in found))
        for channels, norms in found:  # several inputs of a linear layer may belong to one channel
            total.index_add_(0, torch.tensor(channels, device=total.device), norms)
        return total / len(found)

    return score


def channel_norms(layer: nn.Module, of_inputs: bool, norm: int) -> Tensor:
    """Return the norm of the weights that each output, or each input, of `layer` has: (channels).

    Args:
        layer: a convolution, whose weight is (out, in / groups, kh, kw), a linear layer (out, in), or a normalization
            (channels).
        of_inputs: whether the weights that read an input are wanted, not those that make an output.
        norm: 1 or 2, for absolute values or squares.
    """
    powers = layer.weight.detach().abs().pow(norm)  # type: ignore[operator]
    if not of_inputs:
        return powers.flatten(1).sum(1) if powers.ndim > 1 else powers
    groups = getattr(layer, "groups", 1)
    by_group = powers.reshape(groups, len(powers) // groups, powers.shape[1], -1)  # (groups, out/groups, in/groups, k)
    return by_group.sum((1, 3)).flatten()
