"""First-order Taylor: by how much the loss would change without a channel, from gradients on training batches.

Molchanov et al., Importance estimation for neural network pruning, https://arxiv.org/abs/1906.10771: of each layer that
a channel couples the square of the sum of weight times gradient, as the mean over the batches.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from netpress.core.batches import Batch
from netpress.params.schema import Strict
from netpress.prune.common.channels import by_channel, over_group

EXAMPLE = {"batches": 2}
#: The paper compares them between layers without normalizing.
COMPARABLE = True


class Options(Strict):
    """Options of the Taylor score."""

    batches: int = Field(ge=1, le=10_000, description="training batches on which gradients are taken in each round")


def scores(options: Options) -> "Taylor":
    """Return the score: a group of coupled channels -> (C)."""
    return Taylor(options)


class Taylor:
    """The score, which looks at training batches before it is asked."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._found: dict[tuple[nn.Module, bool], Tensor] = {}

    def observe(self, network: nn.Module, batches: Iterator[Batch]) -> None:
        """Take the gradients of the cross-entropy on training batches; normalizations keep their statistics."""
        network.eval().requires_grad_(True)
        self._found.clear()
        for batch in islice(batches, self._options.batches):
            network.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(network(batch.images), batch.targets).backward()
            for layer in network.modules():
                self._add(layer)
        network.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _add(self, layer: nn.Module) -> None:
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or weight.grad is None:
            return
        for of_inputs in (False, True)[: weight.ndim]:
            change = by_channel(layer, weight * weight.grad, of_inputs)
            bias = getattr(layer, "bias", None)
            if not of_inputs and isinstance(bias, Tensor) and bias.grad is not None:
                change = change + bias * bias.grad
            self._found[layer, of_inputs] = self._found.get((layer, of_inputs), 0) + change.square()

    def __call__(self, group: Any) -> Tensor:
        return over_group(group, lambda layer, of_inputs: self._found[layer, of_inputs])
