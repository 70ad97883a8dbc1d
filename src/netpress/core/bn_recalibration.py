"""Normalizations that fit a pruned network: mean and variance measured again on training batches, weights as they are.

Li et al., EagleEye, https://arxiv.org/abs/2007.02491: before fine-tuning it tells good candidates from bad ones.
"""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from netpress.core.batches import Batch


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterator[Batch], count: int) -> None:
    """Set the statistics of every batch normalization to the mean over `count` batches; leaves eval mode.

    Nothing but those layers is in training mode meanwhile, so dropout and its like do nothing. A network without such
    layers stays as it is.
    """
    layers = [layer for layer in network.eval().modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over the batches
        layer.train()
    for batch in islice(batches, count if layers else 0):
        network(batch.images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()
