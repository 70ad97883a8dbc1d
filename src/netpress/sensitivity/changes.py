"""Four ways to make one layer of a trained network smaller, without training.

Each is a function

    change(network, name, seen) -> nn.Module | None

of a network in eval mode, the name of a convolution or linear layer in it, and what was seen on images. It gives a
changed copy, or None where that way does not apply to the layer; the network itself stays as it is.
"""

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netpress.base.errors import ConfigError
from netpress.core.networks import classifier_name, failing_part
from netpress.prune.common.whole import has_heads
from netpress.quantize.common.stored import round_to_grid

#: Inputs that share a scale in 4 bits.
BLOCK = 32
#: The largest integer of 8 bits without sign, of which inputs are made.
LARGEST = 255


@dataclass(frozen=True)
class Observed:
    """What was seen of a network on images.

    Attributes:
        example: two of the images, (2, C, H, W) float32, normalized.
        ranges: the least and the greatest of the inputs of each layer that runs.
    """

    example: Tensor
    ranges: Mapping[str, tuple[float, float]]


Change = Callable[[nn.Module, str, Observed], nn.Module | None]


def int8(network: nn.Module, name: str, seen: Observed) -> nn.Module:
    """Round the weight to 8 bits, a scale for each output channel, and the inputs to 8 bits by their range.

    Weights `s q` with `|q| <= 127`, inputs `s (q - z)` with `0 <= q <= 255`. Jacob et al.,
    https://arxiv.org/abs/1712.05877.
    """
    weight = _layer(network, name).weight
    changed = _with_weight(network, name, _rounded(weight, 8, weight[0].numel()))
    low, high = seen.ranges[name]
    _layer(changed, name).register_forward_pre_hook(lambda _, given: (round_inputs(given[0], low, high), *given[1:]))
    return changed


def round_inputs(inputs: Tensor, low: float, high: float) -> Tensor:
    """Round inputs to 256 values at equal distances from `low` to `high`, a range that is widened to hold 0.

    The values are moved by less than a step, so that 0, with which maps are padded, is one of them.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / LARGEST
    if scale == 0:
        return inputs
    zero = round(-low / scale)
    return ((inputs / scale).round() + zero).clamp(0, LARGEST).sub(zero).mul(scale)


def four_bits(network: nn.Module, name: str, seen: Observed) -> nn.Module:
    """Round the weight to 4 bits, a scale for each block of 32 inputs, however few there are."""
    return _with_weight(network, name, _rounded(_layer(network, name).weight, 4, BLOCK))


def half_rank(network: nn.Module, name: str, seen: Observed) -> nn.Module | None:
    """Keep the larger half of the singular values of the weight as a matrix (O, I kh kw), an odd one rounded down.

    None of a matrix of one row or column, and of grouped convolutions, which are a matrix for each group.
    """
    layer = _layer(network, name)
    matrix = layer.weight.detach().double().flatten(1)
    rank = min(matrix.shape) // 2
    if rank == 0 or getattr(layer, "groups", 1) > 1:
        return None
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return _with_weight(network, name, (left[:, :rank] * values[:rank]) @ right[:rank])


def half_pruned(network: nn.Module, name: str, seen: Observed) -> nn.Module | None:
    """Remove the half of the output channels of smallest L2 norm, an odd one stays, and all that depends on them.

    Where channels are in groups of equal size, as before a grouped convolution, the same places of each group leave, by
    the norm over all groups. None where the outputs cannot leave: they are the classes, belong to heads of attention,
    are too few, cannot be followed, or the network does not run with fewer.
    """
    changed = copy.deepcopy(network)
    with torch.inference_mode():
        classes = network(seen.example).shape[1]
    kept = [part for part, module in changed.named_modules() if has_heads(module)]
    with suppress(ConfigError):  # no layer has an output for each class
        kept.append(classifier_name(changed, classes))
    try:
        left = _remove_half(changed, name, kept, seen.example)
    except Exception:  # torch-pruning's and the network's own, of many types, where channels cannot be followed
        return None
    if not left or failing_part(changed, seen.example):
        return None
    with torch.inference_mode():
        return changed if changed(seen.example).shape[1] == classes else None


def _remove_half(network: nn.Module, name: str, kept: list[str], example: Tensor) -> bool:
    """Remove half of a layer's outputs in place; False where they must stay, or those of a part `kept` would go."""
    import torch_pruning as tp

    layer = _layer(network, name)
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # the tracer follows gradients
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters outside layers, which it handles
        graph = tp.DependencyGraph().build_dependency(network, example, verbose=False)
    remove, channels = graph.get_pruner_of_module(layer).prune_out_channels, len(layer.weight)
    coupled = graph.get_pruning_group(layer, remove, list(range(channels)))
    losing = {d.target.module for d, _ in coupled if graph.is_out_channel_pruning_fn(d.handler)}
    groups = _channel_groups(graph, coupled)
    if groups == 0 or channels % groups or losing & {m for part in kept for m in network.get_submodule(part).modules()}:
        return False
    norms = layer.weight.detach().flatten(1).square().sum(1).reshape(groups, -1).sum(0)  # (channels / groups)
    places = norms.argsort(stable=True)[: len(norms) // 2]
    gone = [group * len(norms) + place for group in range(groups) for place in places.tolist()]
    if not gone:
        return False
    leaving = graph.get_pruning_group(layer, remove, gone)
    if not graph.check_pruning_group(leaving):
        return False
    leaving.prune()
    return True


def _channel_groups(graph: Any, coupled: Any) -> int:
    """Return into how many groups of equal size coupled channels are divided, 0 where they cannot leave.

    That is where a layer works along another dimension, which has fewer places than there are channels.
    """
    found = 1
    for dependency, indices in coupled:
        layer, of_outputs = dependency.target.module, graph.is_out_channel_pruning_fn(dependency.handler)
        known = (graph.get_out_channels if of_outputs else graph.get_in_channels)(layer)
        if known is not None and max(indices) >= known:
            return 0
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels:
            continue  # depthwise: each channel leaves with its group
        pruner = graph.get_pruner_of_module(layer)
        count = pruner.get_out_channel_groups if of_outputs else pruner.get_in_channel_groups
        found = math.lcm(found, count(layer))
    return found


def _rounded(weight: Tensor, bits: int, block: int) -> Tensor:
    """Round a weight (O, ...) to so many bits, with a scale for each block of an output's inputs: (O, I kh kw)."""
    rows = weight.detach().flatten(1).cpu().numpy()
    return torch.from_numpy(round_to_grid(rows, bits, block).rows(rows.shape[1]))


def _with_weight(network: nn.Module, name: str, matrix: Tensor) -> nn.Module:
    """Return a copy of `network` in which a layer has the weight `matrix` (O, I kh kw)."""
    changed = copy.deepcopy(network)
    layer = _layer(changed, name)
    weight = layer.weight.detach().clone()
    layer.weight = nn.Parameter(weight.copy_(matrix.reshape(weight.shape)))
    return changed


def _layer(network: nn.Module, name: str) -> Any:
    return network.get_submodule(name)
