"""How many rounds a pruning curve takes, counted beforehand: it depends on the architecture's shape alone."""

import json
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from netpress.core.networks import build_model, build_on_meta
from netpress.params import plugins
from netpress.params.items import Data, Prune
from netpress.prune.common.plan import MAX_ROUNDS, NextRate, next_rate_of, plan_rounds, too_few_epochs


def check_epochs(item: Prune, parent: Any, data: Data) -> None:
    """Raise when the curve `item` has fewer epochs than rounds, where its parent is an architecture that is not edited.

    Counting takes milliseconds; what it finds too few is planned in earnest, which takes seconds, and so is what ends
    by multiply-adds, which depend on more than shapes of weights. The fewest classes take the fewest rounds; the stage
    itself knows.

    Raises:
        ParamsError: of keys below the item.
    """
    if not hasattr(parent, "arch"):
        return
    shape = known_shape(data)
    options = json.dumps(parent.options, sort_keys=True)
    next_rate = next_rate_of(item)
    tuning = item.epochs - item.sparse_epochs
    if item.until_of == "macs" or tuning < estimated_rounds(parent.arch, options, shape, next_rate, item.round_to):
        network = build_model(parent.arch, *shape, **parent.options)
        example = torch.zeros(2, shape[1], data.resolution, data.resolution)
        rounds = len(plan_rounds(network, example, next_rate, item.round_to, item.until_of))
        if tuning < rounds:
            raise too_few_epochs(item.epochs, f"{rounds} rounds or more", item.sparse_epochs)


def known_shape(data: Data) -> tuple[int, int]:
    """Return the classes and channels of the data; two classes where they are not known beforehand."""
    classes = len(getattr(plugins.load("ingest/sources", data.module), "CLASSES", "ab"))
    return classes, 1 if data.source == "fashion-mnist" else 3


def estimated_rounds(arch: str, options: str, shape: tuple[int, int], next_rate: NextRate, round_to: int) -> int:
    """Count the rounds as if each layer lost its share of inputs and outputs for itself.

    `options` are JSON; `shape` is the number of classes and that of input channels.
    """
    layers = _layers(arch, options, shape)
    sizes = [_size(layer) for layer in layers]
    start = left = sum(_params(layer, *size) for layer, size in zip(layers, sizes, strict=True))
    for number in range(1, MAX_ROUNDS + 1):
        rate = next_rate(number, left / start)
        if rate is None:
            return number - 1
        sizes = [
            (
                outs if layer is layers[-1] else _kept(outs, rate, round_to),
                ins if layer is layers[0] else _kept(ins, rate, round_to),
            )
            for layer, (outs, ins) in zip(layers, sizes, strict=True)
        ]
        left = sum(_params(layer, *size) for layer, size in zip(layers, sizes, strict=True))
    return MAX_ROUNDS + 1


@lru_cache(maxsize=1024)
def _layers(arch: str, options: str, shape: tuple[int, int]) -> list[nn.Module]:
    """Return the layers of an architecture that have channels, without storage."""
    network = build_on_meta(arch, *shape, **json.loads(options))
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]


def _kept(channels: int, rate: float, round_to: int) -> int:
    """Return the channels that are left of `channels` after one round; all, where none would be."""
    kept = int(channels * (1 - rate))
    return (kept - kept % round_to) or channels


def _size(layer: nn.Module) -> tuple[int, int]:
    """Return the numbers of output and input channels."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return (layer.num_features, 1) if isinstance(layer, nn.BatchNorm2d) else (0, 0)


def _params(layer: nn.Module, outs: int, ins: int) -> int:
    """Return the parameters of `layer` with other numbers of channels."""
    if isinstance(layer, nn.BatchNorm2d):
        return 2 * outs
    if isinstance(layer, nn.Conv2d):
        groups = outs if layer.groups == layer.in_channels else layer.groups
        ins = max(1, ins // groups) * layer.kernel_size[0] * layer.kernel_size[1]
    return outs * ins + (outs if layer.bias is not None else 0)
