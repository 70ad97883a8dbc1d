"""How many rounds a pruning curve takes, counted beforehand: it depends on the architecture's shape alone."""

import json
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from netpress.core.measure import count_params
from netpress.core.networks import build_model, build_on_meta
from netpress.params import plugins
from netpress.params.items import Data, Prune
from netpress.prune.channels import MAX_ROUNDS, importance_of, plan_rounds, too_few_epochs


def check_epochs(item: Prune, parent: Any, data: Data) -> None:
    """Raise when the curve `item` has fewer epochs than rounds, where its parent is an architecture that is not edited.

    Counting takes milliseconds; what it finds too few is planned in earnest, which takes seconds. A source whose
    classes are not known beforehand counts as one of two, which take the fewest rounds; the stage itself knows.

    Raises:
        ParamsError: of keys below the item.
    """
    if not hasattr(parent, "arch"):
        return
    classes = len(getattr(plugins.load("ingest/sources", data.module), "CLASSES", "ab"))
    shape = classes, 1 if data.source == "fashion-mnist" else 3
    options = json.dumps(parent.options, sort_keys=True)
    if item.epochs < estimated_rounds(parent.arch, options, shape, item.rate, item.until, item.round_to):
        network = build_model(parent.arch, *shape, **parent.options)
        example = torch.zeros(2, shape[1], data.resolution, data.resolution)
        importance = importance_of(item.method, item.method_options)
        rounds = len(plan_rounds(network, example, item.rate, item.until, item.round_to, importance))
        if item.epochs < rounds:
            raise too_few_epochs(item.epochs, f"{rounds} rounds or more")


@lru_cache(maxsize=1024)
def estimated_rounds(arch: str, options: str, shape: tuple[int, int], rate: float, until: float, round_to: int) -> int:
    """Count the rounds as if each layer lost its share of inputs and outputs for itself.

    `options` are JSON; `shape` is the number of classes and that of input channels.
    """
    network = build_on_meta(arch, *shape, **json.loads(options))
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
    sizes = [_size(layer) for layer in layers]
    start = count_params(network)
    for number in range(1, MAX_ROUNDS + 1):
        sizes = [
            (
                outs if layer is layers[-1] else _kept(outs, rate, round_to),
                ins if layer is layers[0] else _kept(ins, rate, round_to),
            )
            for layer, (outs, ins) in zip(layers, sizes, strict=True)
        ]
        left = sum(_params(layer, *size) for layer, size in zip(layers, sizes, strict=True))
        if left < until * start:
            return number
    return MAX_ROUNDS + 1


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
