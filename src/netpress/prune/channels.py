"""Structured pruning: whole channels leave through the dependency graph, round by round.

Fang et al., DepGraph, https://arxiv.org/abs/2301.12900. Which channels leave and how many are two files:

scores/NAME.py: Options, EXAMPLE and `scores(options)`, which returns a callable: a group of coupled channels -> a score
for each, (C). Where it has a method `observe(network, batches)`, that is called before each round with an iterator over
training batches.

schedules/NAME.py: Options, EXAMPLE and `next_rate(round, left, rate, until, options)`: the share of each group's
channels that the round (from 1) removes, or None where the curve ends. `left` is the share of the parameters that is
left, `rate` and `until` are the item's.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from netpress.base.errors import ParamsError
from netpress.core.measure import count_params
from netpress.core.networks import classifier_name, failing_part
from netpress.params import plugins
from netpress.params.items import Prune
from netpress.params.schema import parse

#: More rounds than this mean a rate too small to be meant.
MAX_ROUNDS = 100
#: How attention calls its number of heads.
HEADS = ("num_heads", "heads", "n_heads", "n_head", "num_attention_heads")
#: A group of coupled channels -> one score per channel, (C).
Score = Callable[[Any], Tensor]
#: Round (from 1) and share of the parameters left -> the rate of that round, or None.
NextRate = Callable[[int, float], float | None]


def remove_channels(
    network: nn.Module, example: Tensor, rate: float, round_to: int, score: Score, method: str = "the score"
) -> dict[str, list[int]]:
    """Remove the channels of the lowest score from every group of coupled layers, in place.

    The classes stay. So do the layers inside attention, whose outputs are divided among heads, and those of a part
    whose code states its own sizes: where it cannot run with fewer channels, all parts of its class stay whole.

    Args:
        network: any network of convolutions, normalizations and linear layers.
        example: (N, C, H, W) float32, to trace the network with.
        rate: share of each group's remaining channels to remove, above 0 and below 1.
        round_to: channel counts become multiples of this where they can.
        score: of the channels of a group.
        method: what messages call the score.

    Raises:
        ParamsError: `round_to` above 1 for a network with grouped convolutions, where it has no meaning, a network
            whose channels cannot be followed, or a score that is not one finite number for each; names the layer.

    Returns:
        For each layer that lost outputs, their indices in the layer as it was.
    """
    grouped = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and 1 < m.groups < m.in_channels]
    if round_to > 1 and grouped:
        text = f"round_to = {round_to}: must be 1 for a network with grouped convolutions, such as {grouped[0]}"
        raise ParamsError([("round_to", text)])
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # the tracer follows gradients
    network.eval()
    with torch.inference_mode():
        classes = network(example).shape[1]
    whole = {classifier_name(network, classes)} | {n for n, m in network.named_modules() if has_heads(m)}
    unpruned = _copy(network)
    found: tuple[str, str] | None = None  # a part that cannot lose channels, and why
    while True:
        removed = _remove(network, example, rate, round_to, score, method, whole)
        failing = failing_part(network, example)
        if failing is None and (removed or found is None):
            return removed
        part, reason = found = failing or found or ("", "")
        alike = {n for n, m in network.named_modules() if type(m) is type(network.get_submodule(part))}
        if failing is None or alike <= whole:
            raise cannot_prune(network, part, reason)
        whole |= alike
        vars(network).update(vars(_copy(unpruned)))  # begin again with the network as it was


def has_heads(module: nn.Module) -> bool:
    """Return whether `module` is attention, whose channels belong to heads and do not leave one by one."""
    return any(isinstance(vars(module).get(key), int) for key in HEADS)


def cannot_prune(network: nn.Module, part: str, reason: str) -> ParamsError:
    """Return the refusal of a network whose `part` cannot lose channels."""
    kind = type(network.get_submodule(part)).__name__
    place = f"layer '{part}'" if part else "the network as a whole"
    text = f"the channels of {place} ({kind}) cannot be removed ({reason}); choose another network"
    return ParamsError([("from", f"from: {text}")])


def _copy(network: nn.Module) -> nn.Module:
    """Return a deep copy of `network`, gradients too, which scores may read."""
    copied = copy.deepcopy(network)
    for mine, theirs in zip(copied.parameters(), network.parameters(), strict=True):
        mine.grad = theirs.grad
    return copied


def _remove(
    network: nn.Module, example: Tensor, rate: float, round_to: int, score: Score, method: str, whole: set[str]
) -> dict[str, list[int]]:
    """Remove channels of all layers but those in the parts of `network` called `whole`; see `remove_channels`."""
    import torch_pruning as tp

    names = {module: name for name, module in network.named_modules()}
    removed: dict[str, list[int]] = {}
    left: dict[str, list[int]] = {}  # what a layer's outputs were; those that several groups feed lose them bit by bit

    def checked_score(group: Any) -> Tensor:
        for dependency, indices in group:
            layer, of_outputs = dependency.target.module, pruner.DG.is_out_channel_pruning_fn(dependency.handler)
            known = (pruner.DG.get_out_channels if of_outputs else pruner.DG.get_in_channels)(layer)
            if layer in names and known is not None and max(indices) >= known:
                raise cannot_prune(network, names[layer], "it works along another dimension than that of the channels")
        found = score(group)
        if fault := _score_fault(found, len(group[0].idxs)):
            text = (
                f"method = {method}: of layer '{names.get(group[0].dep.target.module, '')}' the score returned {fault}"
            )
            raise ParamsError([("method", text)])
        return found

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters outside layers, which it handles
            pruner = tp.pruner.BasePruner(
                network,
                example,
                importance=checked_score,
                pruning_ratio=rate,
                round_to=round_to if round_to > 1 else None,
                ignored_layers=[network.get_submodule(name) for name in sorted(whole)],
            )
        for group in pruner.step(interactive=True):
            for dependency, indices in group:
                layer = dependency.target.module
                if pruner.DG.is_out_channel_pruning_fn(dependency.handler) and layer in names:
                    name, gone = names[layer], {int(i) for i in indices}
                    places = left.setdefault(name, list(range(pruner.DG.get_out_channels(layer))))
                    removed[name] = sorted([*removed.get(name, []), *(places[i] for i in gone)])
                    left[name] = [place for i, place in enumerate(places) if i not in gone]
            group.prune()
    except ArithmeticError as error:  # torch-pruning's, where it cannot follow channels through a reshape
        if plugins.origin(error):  # or the score's own
            raise
        part = _untraceable_part(network, example)
        raise cannot_prune(network, part, f"torch-pruning: {error}") from None
    return removed


def _score_fault(found: Any, channels: int) -> str | None:
    """Say what a score returned where that is not one finite number for each of the channels."""
    if not isinstance(found, Tensor) or found.shape != (channels,):
        return f"{plugins.in_words(found)}; return a tensor of shape ({channels},), a number for each channel"
    if not found.isfinite().all():
        count = int((~found.isfinite()).sum())
        return f"{count} of {channels} numbers that are NaN or infinite; return finite ones"
    return None


def _untraceable_part(network: nn.Module, example: Tensor) -> str:
    """Return the name of the smallest part of `network` in which channels cannot be followed; "" is all of it."""
    import torch_pruning as tp

    inputs: dict[str, tuple[Any, ...]] = {}
    names = {module: name for name, module in network.named_modules() if any(True for _ in module.children())}
    hooks = [m.register_forward_pre_hook(lambda module, args: inputs.update({names[module]: args})) for m in names]
    with torch.no_grad():
        network(example)
    for hook in hooks:
        hook.remove()
    for name, args in sorted(inputs.items(), key=lambda entry: len(list(network.get_submodule(entry[0]).modules()))):
        try:
            part = tp.DependencyGraph().build_dependency(network.get_submodule(name), args, verbose=False)
            list(part.get_all_groups())
        except Exception:  # it is the one that is looked for
            return name
    return ""


def plan_rounds(network: nn.Module, example: Tensor, next_rate: NextRate, round_to: int) -> list[tuple[float, int]]:
    """Return the rate of each round and the parameters left after it.

    Found on a copy: how many channels leave depends neither on training nor on their scores.

    Raises:
        ParamsError: a round removes nothing, so that the curve would never end.
    """
    draft = copy.deepcopy(network)
    start = left = count_params(draft)
    plan: list[tuple[float, int]] = []
    while (rate := next_rate(len(plan) + 1, left / start)) is not None:
        remove_channels(draft, example, rate, round_to, _in_order)
        before, left = left, count_params(draft)
        if left == before:
            text = f"rate {rate} with round_to {round_to} removes no further channel at {left / start:.3f}"
            raise ParamsError([("until", f"until: {text} of the parameters; raise until or rate, or lower round_to")])
        plan.append((rate, left))
        if len(plan) > MAX_ROUNDS:
            raise ParamsError([("rate", f"rate: the curve takes over {MAX_ROUNDS} rounds; raise rate or until")])
    if not plan:
        raise ParamsError([("schedule", "schedule: the curve has no round; choose other options")])
    return plan


def _in_order(group: Any) -> Tensor:
    """Score channels by their places: for counting, any order will do."""
    return torch.arange(1.0, 1.0 + len(group[0].idxs))


def next_rate_of(item: Prune) -> NextRate:
    """Return the schedule of the item: round (from 1) and share of the parameters left -> rate, or None at the end."""
    schedule = plugins.load("prune/schedules", item.schedule, "schedule")
    options = parse(schedule.Options, item.schedule_options, "schedule_options")

    def next_rate(number: int, left: float) -> float | None:
        rate: float | None = schedule.next_rate(number, left, item.rate, item.until, options)
        if rate is not None and not (isinstance(rate, float) and 0 < rate < 1):
            text = f"in round {number} next_rate returned {rate!r}; return a share above 0 and below 1, or None to end"
            raise ParamsError([("schedule", f"schedule = {item.schedule}: {text}")])
        return rate

    return next_rate


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


def over_group(group: Any, values: Callable[[nn.Module, bool], Tensor]) -> Tensor:
    """Return the mean over the coupled layers of `values(layer, of_inputs)`, one for each channel of the group: (C).

    Args:
        group: torch-pruning's: coupled layers, and which of their outputs or inputs belong to the group.
        values: of a layer, one for each of its outputs, or inputs.

    Raises:
        ValueError: `values` gives another number of them; names the layer.
    """
    from torch_pruning import function

    inputs = (function.prune_conv_in_channels, function.prune_linear_in_channels)
    found: list[tuple[list[int], Tensor]] = []
    for place, (dependency, indices) in enumerate(group):
        if isinstance(getattr(dependency.layer, "weight", None), Tensor):
            layer, of_inputs = dependency.layer, dependency.pruning_fn in inputs
            channels = layer.weight.shape[1] * getattr(layer, "groups", 1) if of_inputs else len(layer.weight)
            of_layer = values(layer, of_inputs)
            if of_layer.shape != (channels,):
                what = f"{channels} {'inputs' if of_inputs else 'outputs'} of layer '{dependency.target.name}'"
                raise ValueError(f"values of shape {tuple(of_layer.shape)} for the {what}")
            found.append((group[place].root_idxs, of_layer[indices]))
    total = found[0][1].new_zeros(1 + max(max(places) for places, _ in found))
    for places, of_layer in found:  # several inputs of a linear layer may belong to one channel
        total.index_add_(0, torch.tensor(places, device=total.device), of_layer)
    return total / len(found)


def by_channel(layer: nn.Module, values: Tensor, of_inputs: bool) -> Tensor:
    """Sum `values`, shaped like the layer's weight, for each of its outputs, or inputs: (channels).

    A convolution's weight is (out, in / groups, kh, kw), a linear layer's (out, in), a normalization's (channels).
    """
    if not of_inputs:
        return values.flatten(1).sum(1) if values.ndim > 1 else values
    groups = getattr(layer, "groups", 1)
    by_group = values.reshape(groups, len(values) // groups, values.shape[1], -1)  # (groups, out/groups, in/groups, k)
    return by_group.sum((1, 3)).flatten()
