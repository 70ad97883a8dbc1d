"""Optimal brain damage: by how much the loss would rise to second order without a channel's weights.

LeCun et al., Optimal brain damage, https://papers.nips.cc/paper/1989/hash/6c9882bbac1c7093bd25041881277658-Abstract.html:
sum 1/2 h_ii w_i^2 over the channel's weights, from the diagonal of the Hessian alone. In its place stands the empirical
Fisher information, the mean of the squared gradients (dL/dw_i)^2 of single images, as in Theis et al., Faster gaze
prediction with dense networks and Fisher pruning, https://arxiv.org/abs/1801.05787.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from netpress.core.batches import Batch
from netpress.params.schema import Strict
from netpress.prune.common.channels import by_channel, sum_over_group

EXAMPLE = {"images": 16}
#: A rise of the loss is one wherever it comes from.
COMPARABLE = True


class Options(Strict):
    """Options of optimal brain damage."""

    images: int = Field(
        ge=1, le=1_000_000, description="training images of which gradients are taken in each round, one by one"
    )


def scores(options: Options) -> "OBD":
    """Return the score: a group of coupled channels -> (C)."""
    return OBD(options)


class OBD:
    """The score, which looks at training images before it is asked."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._fisher: dict[Tensor, Tensor] = {}

    def observe(self, network: nn.Module, batches: Iterator[Batch]) -> None:
        """Take the mean squared gradients of single images' cross-entropy; normalizations keep their statistics."""
        network.eval().requires_grad_(True)
        pairs = (pair for batch in batches for pair in zip(batch.images, batch.targets, strict=True))
        squares = {weight: torch.zeros_like(weight) for weight in network.parameters()}
        seen = 0
        for image, target in islice(pairs, self._options.images):
            network.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(network(image[None]), target[None]).backward()
            seen += 1
            for weight, total in squares.items():
                if weight.grad is not None:
                    total += weight.grad.square()
        network.zero_grad(set_to_none=True)
        self._fisher = {weight: total / seen for weight, total in squares.items()}

    @torch.no_grad()
    def __call__(self, group: Any) -> Tensor:
        return sum_over_group(group, self._rise)

    def _rise(self, layer: nn.Module, of_inputs: bool) -> Tensor:
        found = by_channel(layer, self._of(layer.weight), of_inputs)  # type: ignore[arg-type]
        bias = getattr(layer, "bias", None)
        return found + self._of(bias) if isinstance(bias, Tensor) and not of_inputs else found

    def _of(self, weight: Tensor) -> Tensor:
        return 0.5 * self._fisher[weight] * weight.square()
