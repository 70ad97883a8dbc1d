"""Ranks of all layers chosen together, so that the network keeps within a budget of parameters or MACs.

Of every layer one candidate is taken, or it stays as it is: a knapsack with a choice for each layer. Lagrangian
relaxation solves it but for a rest, as in Shoham and Gersho, Efficient bit allocation for an arbitrary set of
quantizers, IEEE Trans. ASSP 36 (1988): with a price p for each parameter or MAC every layer takes what minimizes
error + p * cost, and bisection finds the lowest price at which the sum fits. What is left goes to the layers where it
lowers the error most.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from netpress.base.errors import ParamsError
from netpress.core.measure import SIZES, count_params, size_of

#: Layer -> the shapes of its inputs and the values in its outputs, for each time that it runs for one image.
Calls = dict[str, list[tuple[torch.Size, int]]]
STEPS = 100


class Candidate(NamedTuple):
    """A chain that a layer could become.

    Attributes:
        rank: what the method's `factorize` makes it from.
        error: the relative squared error of the layer's weight, or of its outputs on training images.
        chain: its layers without values, on the device `meta`.
    """

    rank: Any
    error: float
    chain: nn.Sequential


@dataclass(frozen=True)
class Budget:
    """The `share` of the parent's `of` (params or macs) that is left at most, for images (C, H, W)."""

    share: float
    of: str
    image: tuple[int, int, int]


def ranks_within(
    network: nn.Module,
    layers: dict[str, nn.Conv2d | nn.Linear],
    candidates: dict[str, list[Candidate]],
    budget: Budget,
    name: str,
) -> dict[str, Any]:
    """Return the ranks of the layers that are to be replaced; of the method `name`, for its errors.

    Raises:
        ParamsError: the cheapest candidates are above the budget.
    """
    total = size_of(network, budget.of, budget.image)
    calls = _calls(network, layers, budget.image) if budget.of == "macs" else {}
    names = [layer for layer, found in candidates.items() if found]
    costs, errors = [], []
    for layer in names:
        chains = [_cost(found.chain, calls.get(layer)) for found in candidates[layer]]
        costs.append(np.array([_cost_as_it_is(layers[layer], calls.get(layer)), *chains], dtype=np.int64))
        errors.append(np.array([0.0, *(found.error for found in candidates[layer])]))
    fixed = total - sum(int(cost[0]) for cost in costs)
    picks = knapsack(costs, errors, math.floor(budget.share * total) - fixed)
    if picks is None:
        least = math.ceil((fixed + sum(int(cost.min()) for cost in costs)) / total * 1e4) / 1e4
        text = f"the smallest that {name} reaches is {least} of the parent's {SIZES[budget.of]}"
        how = f"raise it to {least} at least, or let method_options leave fewer layers as they are"
        raise ParamsError([("budget", f"budget = {budget.share}: {text}; {how}")])
    return {layer: candidates[layer][pick - 1].rank for layer, pick in zip(names, picks, strict=True) if pick}


def knapsack(costs: Sequence[np.ndarray], errors: Sequence[np.ndarray], limit: int) -> list[int] | None:
    """Return which entry of each layer to take, so that costs sum to `limit` at most and errors to little, or None.

    Entry 0 is the layer as it is, the others are its candidates by rising rank. The result is never worse than the
    best of those that take the same share of every layer's candidates.
    """
    if sum(int(cost.min()) for cost in costs) > limit:
        return None
    starts = [_relaxed(costs, errors, limit), *_uniform(costs, errors, limit)]
    filled = [_fill(costs, errors, limit, start) for start in starts]
    return min(filled, key=lambda picks: _sum(errors, picks))


def _relaxed(costs: Sequence[np.ndarray], errors: Sequence[np.ndarray], limit: int) -> list[int]:
    """Return what is taken at the lowest price at which it fits."""

    def taken(price: float) -> list[int]:
        picks = []
        for cost, error in zip(costs, errors, strict=True):
            value = error + price * cost
            best = np.flatnonzero(value == value.min())
            picks.append(int(best[np.argmin(cost[best])]))  # of equals the cheapest
        return picks

    low, high = 0.0, 1.0 + max((float(error.max()) for error in errors), default=0.0)  # at which all are cheapest
    for _ in range(STEPS):
        price = (low + high) / 2
        low, high = (low, price) if _sum(costs, taken(price)) <= limit else (price, high)
    return taken(high)


def _uniform(costs: Sequence[np.ndarray], errors: Sequence[np.ndarray], limit: int) -> list[list[int]]:
    """Return the best that takes one share of every layer's candidates, where any fits; what saves nothing stays."""
    edges = np.unique(np.concatenate([(np.arange(len(cost)) + 0.5) / max(len(cost) - 1, 1) for cost in costs]))
    shares = np.concatenate(
        [[0.0], (edges[1:] + edges[:-1]) / 2, [1.0]]
    )  # one between each two at which a rank changes
    columns = []
    for cost in costs:
        pick = np.clip(np.round(shares * (len(cost) - 1)), 1, len(cost) - 1).astype(int)
        columns.append(np.where(cost[pick] < cost[0], pick, 0))
    spent, lost = (
        sum((values[column] for values, column in zip(table, columns, strict=True)), np.zeros(len(shares)))
        for table in (costs, errors)
    )
    fits = np.flatnonzero(spent <= limit)
    return [[int(column[fits[np.argmin(lost[fits])]]) for column in columns]] if len(fits) else []


def _fill(costs: Sequence[np.ndarray], errors: Sequence[np.ndarray], limit: int, picks: list[int]) -> list[int]:
    """Return `picks` with the changes that lower the error most for what they cost, while one fits."""
    picks = list(picks)
    left = limit - _sum(costs, picks)
    while True:
        best = (0.0, 0, 0)
        for k, (cost, error, pick) in enumerate(zip(costs, errors, picks, strict=True)):
            more, gain = cost - cost[pick], error[pick] - error
            rate = np.where((more <= left) & (gain > 0), gain / np.maximum(more, 1), 0.0)
            choice = int(rate.argmax())
            if rate[choice] > best[0]:
                best = (float(rate[choice]), k, choice)
        if not best[0]:
            return picks
        _, k, choice = best
        left -= int(costs[k][choice] - costs[k][picks[k]])
        picks[k] = choice


def _sum(tables: Sequence[np.ndarray], picks: list[int]) -> float:
    return sum(table[pick].item() for table, pick in zip(tables, picks, strict=True))


@torch.no_grad()
def _calls(network: nn.Module, layers: dict[str, nn.Conv2d | nn.Linear], image: tuple[int, int, int]) -> Calls:
    """Run `network` on one image and note what its layers are given."""
    calls: Calls = {name: [] for name in layers}

    def note(name: str, given: tuple[Tensor, ...], output: Tensor) -> None:
        calls[name].append((given[0].shape, output.numel()))

    hooks = [
        layer.register_forward_hook(lambda _, given, output, name=name: note(name, given, output))
        for name, layer in layers.items()
    ]
    try:
        network(torch.zeros(1, *image, device=next(network.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _cost_as_it_is(layer: nn.Conv2d | nn.Linear, calls: list[tuple[torch.Size, int]] | None) -> int:
    """Return the parameters of `layer`, or its MACs in `calls`."""
    return count_params(layer) if calls is None else sum(values * layer.weight[0].numel() for _, values in calls)


@torch.no_grad()
def _cost(chain: nn.Sequential, calls: list[tuple[torch.Size, int]] | None) -> int:
    """Return the parameters of `chain`, or its MACs in `calls`."""
    if calls is None:
        return count_params(chain)
    parts: list[Any] = list(chain)
    macs = 0
    for shape, _ in calls:
        output = torch.zeros(shape, device="meta")
        for part in parts:
            output = part(output)
            macs += output.numel() * part.weight[0].numel()
    return macs
