"""Attention transfer: the student looks where its teacher looks, at several depths.

Zagoruyko and Komodakis, Paying more attention to attention, https://arxiv.org/abs/1612.03928. The attention of a layer
is the sum of its channels' squares at each place, so channels need not agree; of one place there is nothing to see.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from netpress.core.taps import Seen, Taps
from netpress.distill.teaching.pairs import Pair, no_maps, taps_of_pairs
from netpress.params.schema import Strict

EXAMPLE = {"layers": [["0.1", "0.1"], ["0.3", "0.3"], ["0.5", "0.5"]], "beta": 100.0}


class Options(Strict):
    """Options of attention transfer."""

    layers: list[Pair] = Field(min_length=1, max_length=100, description="pairs that look alike, of named_modules")
    beta: float = Field(ge=0, le=1_000_000, description="weight of the attention; the authors have 1000")


def taps(options: Options) -> Taps:
    """Look at one layer of each network for every pair."""
    return taps_of_pairs(options.layers)


def loss(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module | None) -> Tensor:
    """CE(labels) + beta * sum over the pairs of the mean squared difference of their attentions, of unit length.

    Raises:
        ParamsError: a layer gives no maps.
    """
    parts = [difference(*maps) for maps in _pairs(student, teacher, options)]
    return F.cross_entropy(student.logits, targets) + options.beta * torch.stack(parts).sum()


def losses(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module | None) -> Tensor:
    """Return the loss of each image, (B); for errors see `loss`."""
    pairs = [attentions(*maps) for maps in _pairs(student, teacher, options)]
    parts = [(ours - theirs).square().mean(1) for ours, theirs in pairs]
    return F.cross_entropy(student.logits, targets, reduction="none") + options.beta * torch.stack(parts).sum(0)


def _pairs(student: Seen, teacher: Seen, options: Options) -> list[tuple[Tensor, Tensor]]:
    """Return the maps of each pair of layers."""
    return [(_maps(student, ours, "student"), _maps(teacher, theirs, "teacher")) for ours, theirs in options.layers]


def difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the mean squared difference of the `attentions` of two layers' maps (B, C, H, W)."""
    return F.mse_loss(*attentions(ours, theirs))


def attentions(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the attentions (B, places) of two layers' maps (B, C, H, W), each of unit length.

    Of maps of unequal sizes the attention of the larger is averaged down to the smaller.
    """
    ours, theirs = (maps.square().sum(1) for maps in (ours, theirs))  # (B, H, W)
    if ours.shape != theirs.shape:
        size = min(ours.shape[1], theirs.shape[1]), min(ours.shape[2], theirs.shape[2])
        ours, theirs = F.adaptive_avg_pool2d(ours, size), F.adaptive_avg_pool2d(theirs, size)
    return F.normalize(ours.flatten(1), dim=1), F.normalize(theirs.flatten(1), dim=1)


def _maps(seen: Seen, layer: str, whose: str) -> Tensor:
    features = seen.features[layer]
    if features.ndim != 4:
        raise no_maps(layer, whose, tuple(features.shape[1:]))
    return features
