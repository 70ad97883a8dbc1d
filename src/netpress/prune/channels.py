"""Structured pruning: whole channels leave through the dependency graph, round by round.

Fang et al., DepGraph, https://arxiv.org/abs/2301.12900. A method is a file with `Options` and
`importance(options)`, which returns a callable: a group of coupled channels -> one score a channel, (C).
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from netpress.base.errors import ParamsError
from netpress.core.measure import count_params
from netpress.params import plugins
from netpress.params.schema import parse

#: More rounds than this mean a rate too small to be meant.
MAX_ROUNDS = 100


def importance_of(method_name: str, method_options: dict[str, Any]) -> Callable[..., Any]:
    """Return the method's score of a group of channels."""
    method = plugins.load("prune/scores", method_name)
    score: Callable[..., Any] = method.importance(parse(method.Options, method_options, "method_options"))
    return score


def remove_channels(
    network: nn.Module, example: torch.Tensor, rate: float, round_to: int, importance: Callable[..., Any]
) -> dict[str, list[int]]:
    """Remove the least important channels of every group of coupled layers, in place.

    Args:
        network: any network of convolutions, normalizations and linear layers; the classes stay.
        example: (N, C, H, W) float32, to trace the network with.
        rate: share of each group's remaining channels to remove, above 0 and below 1.
        round_to: channel counts become multiples of this where they can.
        importance: a group -> one score a channel.

    Raises:
        ParamsError: `round_to` above 1 for a network with grouped convolutions, where it has no meaning.

    Returns:
        For each layer that lost outputs, their indices in the layer as it was.
    """
    import torch_pruning as tp

    grouped = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and 1 < m.groups < m.in_channels]
    if round_to > 1 and grouped:
        text = f"round_to = {round_to}: must be 1 for a network with grouped convolutions, such as {grouped[0]}"
        raise ParamsError([("round_to", text)])
    names = {module: name for name, module in network.named_modules()}
    classifier = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # the tracer follows gradients
    pruner = tp.pruner.BasePruner(
        network.eval(),
        example,
        importance=importance,
        pruning_ratio=rate,
        round_to=round_to if round_to > 1 else None,
        ignored_layers=[classifier],
    )
    removed: dict[str, list[int]] = {}
    for group in pruner.step(interactive=True):
        for dependency, indices in group:
            if pruner.DG.is_out_channel_pruning_fn(dependency.handler) and dependency.target.module in names:
                removed[names[dependency.target.module]] = sorted(int(i) for i in indices)
        group.prune()
    return removed


def plan_rounds(
    network: nn.Module, example: torch.Tensor, rate: float, until: float, round_to: int, importance: Callable[..., Any]
) -> list[int]:
    """Return the parameters left after each round, found on a copy: how many channels go does not depend on training.

    Raises:
        ParamsError: `until` cannot be reached.
    """
    draft = copy.deepcopy(network)
    start = count_params(draft)
    left = [start]
    while left[-1] >= until * start:
        stuck = (
            f"until = {until}: rate {rate} with round_to {round_to} removes no further channel at "
            f"{left[-1] / start:.3f} of the parameters; raise until or rate, or lower round_to"
        )
        try:
            remove_channels(draft, example, rate, round_to, importance)
        except IndexError:  # torch-pruning's, where a group of channels has one channel left
            raise ParamsError([("until", stuck)]) from None
        if count_params(draft) == left[-1]:
            raise ParamsError([("until", stuck)])
        left.append(count_params(draft))
        if len(left) > MAX_ROUNDS:
            text = f"rate = {rate}: takes over {MAX_ROUNDS} rounds to reach until = {until}; raise rate or until"
            raise ParamsError([("rate", text)])
    return left[1:]


def share_epochs(total: int, rounds: int) -> list[int]:
    """Share the fine-tuning epochs of a curve among its rounds as evenly as whole numbers allow, the first most.

    Raises:
        ParamsError: there are fewer epochs than rounds.
    """
    if total < rounds:
        raise too_few_epochs(total, f"{rounds} rounds")
    return [total // rounds + (k < total % rounds) for k in range(rounds)]


def too_few_epochs(total: int, rounds: str) -> ParamsError:
    """Return the error of a curve with fewer epochs than `rounds`, such as `3 rounds`."""
    text = f"the curve takes {rounds}, each of an epoch or more; raise epochs, or raise rate or until for fewer rounds"
    return ParamsError([("epochs", f"epochs = {total}: {text}")])
