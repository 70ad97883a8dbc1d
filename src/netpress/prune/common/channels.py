"""Structured pruning: whole channels leave through the dependency graph, round by round.

Fang et al., DepGraph, https://arxiv.org/abs/2301.12900. Which channels leave and how many are two files:

scores/NAME.py: Options, EXAMPLE and `scores(options)`, which returns a callable: a group of coupled channels -> a score
for each, (C). Where it has a method `observe(network, batches)`, that is called before each round with an iterator over
training batches. `COMPARABLE = True` says that its scores compare between groups as they are; without it they are
divided by their group's mean where an item's scope ranks groups together.

schedules/NAME.py: Options, EXAMPLE and `next_rate(round, left, rate, until, options)`: the share of each group's
channels that the round (from 1) removes, or None where the curve ends. `left` is the share of the parameters, or
multiply-adds, that is left, `rate` and `until` are the item's.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from netpress.base.errors import ParamsError
from netpress.core.networks import classifier_name, failing_part
from netpress.params import plugins
from netpress.prune.common.ranking import Coupled, Goal, fewest, same_share
from netpress.prune.common.whole import cannot_prune, has_heads, untraceable_part

#: A group of coupled channels -> one score per channel, (C).
Score = Callable[[Any], Tensor]


class Member(NamedTuple):
    """A layer with weights in a group, which of its outputs or inputs belong to it, and to which place of the group."""

    layer: nn.Module
    name: str
    of_inputs: bool
    indices: list[int]
    places: list[int]


def remove_channels(
    network: nn.Module, example: Tensor, rate: float | Goal, round_to: int, score: Score, method: str = "the score"
) -> dict[str, list[int]]:
    """Remove the channels of the lowest score from the groups of coupled layers, in place.

    The classes stay. So do the layers inside attention, whose outputs are divided among heads, and those of a part
    whose code states its own sizes: where it cannot run with fewer channels, all parts of its class stay whole.

    Args:
        network: any network of convolutions, normalizations and linear layers.
        example: (N, C, H, W) float32, to trace the network with.
        rate: share of each group's remaining channels to remove, above 0 and below 1; or the size to be left, wherever
            the channels come from.
        round_to: channel counts become multiples of this where they can.
        score: of the channels of a group.
        method: what messages call the score.

    Raises:
        ParamsError: `round_to` above 1 for a network with grouped convolutions, where it has no meaning, a network
            whose channels cannot be followed, or a score that is not one finite number for each; names the layer.

    Returns:
        For each layer that lost outputs, their indices in the layer as it was.
    """
    return _removal(network, example, rate, round_to, score, method)[0]


def removable(network: nn.Module, example: Tensor, rate: float, round_to: int) -> list[tuple[list[Member], int]]:
    """Return the groups of coupled channels that can lose some: their members, and `Coupled.repeats`.

    The parts that have to stay whole are those that do where every group loses the share `rate`.
    """
    _, whole = _removal(copy.deepcopy(network), example, rate, round_to, by_place, "the score")
    found: list[list[Member]] = []

    def note(group: Any) -> Tensor:
        found.append(members(group))
        return by_place(group)

    pruner = _pruner(network.eval().requires_grad_(True), example, whole)
    return [(found[-1], group.repeats) for group in _groups(network, pruner, 1, note, {})]


def by_place(group: Any) -> Tensor:
    """Score channels by their places: for counting, any order will do."""
    return torch.arange(1.0, 1.0 + len(group[0].idxs))


def _removal(
    network: nn.Module, example: Tensor, rate: float | Goal, round_to: int, score: Score, method: str
) -> tuple[dict[str, list[int]], set[str]]:
    """Do what `remove_channels` does; also returns the names of the parts that stay whole."""
    grouped = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and 1 < m.groups < m.in_channels]
    if round_to > 1 and grouped:
        text = f"round_to = {round_to}: must be 1 for a network with grouped convolutions, such as {grouped[0]}"
        raise ParamsError([("round_to", text)])
    network.eval().requires_grad_(True)  # the tracer follows gradients
    with torch.inference_mode():
        classes = network(example).shape[1]
    whole = {classifier_name(network, classes)} | {n for n, m in network.named_modules() if has_heads(m)}
    unpruned, scores = copy.deepcopy(network), dict[str, Tensor]()
    found: tuple[str, str] | None = None  # a part that cannot lose channels, and why
    while True:
        removed = _remove(network, example, rate, round_to, _checked(network, score, method), whole, scores)
        failing = failing_part(network, example)
        if failing is None and (removed or found is None):
            return removed, whole
        part, reason = found = failing or found or ("", "")
        alike = {n for n, m in network.named_modules() if type(m) is type(network.get_submodule(part))}
        if failing is None or alike <= whole:
            raise cannot_prune(network, part, reason)
        whole |= alike
        vars(network).update(vars(copy.deepcopy(unpruned)))  # begin again with the network as it was


def _remove(
    network: nn.Module,
    example: Tensor,
    rate: float | Goal,
    round_to: int,
    score: Score,
    whole: set[str],
    known: dict[str, Tensor],
) -> dict[str, list[int]]:
    """Remove channels of all layers but those in the parts of `network` called `whole`; see `remove_channels`.

    `known` are the scores of groups by the root's name, which are taken once: a score may know the layers it saw.
    """

    def size(counts: list[int]) -> int:
        draft = copy.deepcopy(network)
        _take(draft, _pruner(draft, example, whole), groups, counts)
        return 0 if failing_part(draft, example) else rate.size(draft)  # type: ignore[union-attr]

    try:
        pruner = _pruner(network, example, whole)
        groups = list(_groups(network, pruner, round_to, score, known))
        counts = fewest(groups, rate, size) if isinstance(rate, Goal) else same_share(groups, rate)
        return _take(network, pruner, groups, counts)
    except ArithmeticError as error:  # torch-pruning's, where it cannot follow channels through a reshape
        if plugins.origin(error):  # or the score's own
            raise
        part = untraceable_part(network, example)
        raise cannot_prune(network, part, f"torch-pruning: {error}") from None


def _pruner(network: nn.Module, example: Tensor, whole: set[str]) -> Any:
    """Return torch-pruning's view of `network`: the graph of dependencies, and the layers whose channels have parts."""
    import torch_pruning as tp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters outside layers, which it handles
        ignored = [network.get_submodule(name) for name in sorted(whole)]
        parts = [dict[nn.Module, int](), dict[nn.Module, int]()]  # its defaults would be shared with all networks
        return tp.pruner.BasePruner(
            *(network, example), None, ignored_layers=ignored, in_channel_groups=parts[0], out_channel_groups=parts[1]
        )


def _groups(
    network: nn.Module, pruner: Any, round_to: int, score: Score, known: dict[str, Tensor]
) -> Iterator[Coupled]:
    """Yield the groups of coupled channels that can lose some, with their scores."""
    names = {module: name for name, module in network.named_modules()}
    graph = pruner.DG
    for group in graph.get_all_groups(pruner.ignored_layers, pruner.root_module_types):
        layers, repeats, kind = [], 1, []
        for dependency, indices in group:
            layer, of_outputs = dependency.target.module, graph.is_out_channel_pruning_fn(dependency.handler)
            kind.append((type(dependency.source.module), type(layer), of_outputs))
            repeats = max(
                repeats, (pruner.out_channel_groups if of_outputs else pruner.in_channel_groups).get(layer, 1)
            )
            if layer in names:
                channels = (graph.get_out_channels if of_outputs else graph.get_in_channels)(layer)
                layers.append((names[layer], channels, max(indices)))
        if any(channels == 1 for _, channels, _ in layers):
            continue
        for name, channels, last in layers:
            if channels is not None and last >= channels:
                raise cannot_prune(network, name, "it works along another dimension than that of the channels")
        root = names[group[0].dep.target.module]
        if root not in known:
            known[root] = score(group).cpu().double()
        places = known[root].view(repeats, -1).mean(0)  # of all parts the same places leave
        yield Coupled(root, places, repeats, round_to // math.gcd(round_to, repeats), tuple(kind))


def _take(network: nn.Module, pruner: Any, groups: list[Coupled], counts: list[int]) -> dict[str, list[int]]:
    """Remove so many of the lowest places of each group; see `remove_channels` for what is returned."""
    names, graph = {module: name for name, module in network.named_modules()}, pruner.DG
    removed: dict[str, list[int]] = {}
    left: dict[str, list[int]] = {}  # what a layer's outputs were; those that several groups feed lose them bit by bit
    for group, count in zip(groups, counts, strict=True):
        root = network.get_submodule(group.root)
        coupled = graph.get_pruning_group(
            root, graph.get_pruner_of_module(root).prune_out_channels, group.lowest(count)
        )
        if not count or not graph.check_pruning_group(coupled):
            continue
        for dependency, indices in coupled:
            layer = dependency.target.module
            if graph.is_out_channel_pruning_fn(dependency.handler) and layer in names:
                name, gone = names[layer], {int(i) for i in indices}
                places = left.setdefault(name, list(range(graph.get_out_channels(layer))))
                removed[name] = sorted([*removed.get(name, []), *(places[i] for i in gone)])
                left[name] = [place for i, place in enumerate(places) if i not in gone]
        coupled.prune()
    return removed


def _checked(network: nn.Module, score: Score, method: str) -> Score:
    """Return `score` as one that raises where it does not give one finite number for each channel; names the layer."""
    names = {module: name for name, module in network.named_modules()}

    def checked(group: Any) -> Tensor:
        found = score(group)
        if fault := _score_fault(found, len(group[0].idxs)):
            layer = names.get(group[0].dep.target.module, "")
            raise ParamsError([("method", f"method = {method}: of layer '{layer}' the score returned {fault}")])
        return found

    return checked


def _score_fault(found: Any, channels: int) -> str | None:
    """Say what a score returned where that is not one finite number for each of the channels."""
    if not isinstance(found, Tensor) or found.shape != (channels,):
        return f"{plugins.in_words(found)}; return a tensor of shape ({channels},), a number for each channel"
    if not found.isfinite().all():
        count = int((~found.isfinite()).sum())
        return f"{count} of {channels} numbers that are NaN or infinite; return finite ones"
    return None


def over_group(group: Any, values: Callable[[nn.Module, bool], Tensor | None]) -> Tensor:
    """Return the mean over the coupled layers of `values(layer, of_inputs)`, one for each channel of the group: (C).

    Args:
        group: torch-pruning's: coupled layers, and which of their outputs or inputs belong to the group.
        values: of a layer, one for each of its outputs, or inputs; None where the layer does not count.

    Raises:
        ValueError: `values` gives another number of them, or nothing of any layer; names the layer.
    """
    total, layers = _added_up(group, values)
    return total / layers


def sum_over_group(group: Any, values: Callable[[nn.Module, bool], Tensor | None]) -> Tensor:
    """Return what `over_group` returns, but the sum over the coupled layers instead of the mean."""
    return _added_up(group, values)[0]


def members(group: Any) -> list[Member]:
    """Return the layers with weights that a group of torch-pruning couples."""
    from torch_pruning import function

    inputs = (function.prune_conv_in_channels, function.prune_linear_in_channels)
    return [
        Member(dependency.layer, dependency.target.name, dependency.pruning_fn in inputs, indices, group[k].root_idxs)
        for k, (dependency, indices) in enumerate(group)
        if isinstance(getattr(dependency.layer, "weight", None), Tensor)
    ]


def _added_up(group: Any, values: Callable[[nn.Module, bool], Tensor | None]) -> tuple[Tensor, int]:
    """Return the sum over the coupled layers, (C), and how many layers counted."""
    found: list[tuple[list[int], Tensor]] = []
    for layer, name, of_inputs, indices, places in members(group):
        channels = layer.weight.shape[1] * getattr(layer, "groups", 1) if of_inputs else len(layer.weight)  # type: ignore[arg-type,index]
        of_layer = values(layer, of_inputs)
        if of_layer is None:
            continue
        if of_layer.shape != (channels,):
            what = f"{channels} {'inputs' if of_inputs else 'outputs'} of layer '{name}'"
            raise ValueError(f"values of shape {tuple(of_layer.shape)} for the {what}")
        found.append((places, of_layer[indices]))
    if not found:
        raise ValueError(f"no value of any layer that the channels of layer '{group[0].dep.target.name}' couple")
    total = found[0][1].new_zeros(len(group[0].idxs))
    for places, of_layer in found:  # several inputs of a linear layer may belong to one channel
        total.index_add_(0, torch.tensor(places, device=total.device), of_layer)
    return total, len(found)


def by_channel(layer: nn.Module, values: Tensor, of_inputs: bool) -> Tensor:
    """Sum `values`, shaped like the layer's weight, for each of its outputs, or inputs: (channels).

    A convolution's weight is (out, in / groups, kh, kw), a linear layer's (out, in), a normalization's (channels).
    """
    if not of_inputs:
        return values.flatten(1).sum(1) if values.ndim > 1 else values
    groups = getattr(layer, "groups", 1)
    by_group = values.reshape(groups, len(values) // groups, values.shape[1], -1)  # (groups, out/groups, in/groups, k)
    return by_group.sum((1, 3)).flatten()
