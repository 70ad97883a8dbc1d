"""Knowledge review: each of the teacher's layers teaches the student's layer of its depth and all deeper ones.

Chen et al., Distilling knowledge via knowledge review, https://arxiv.org/abs/2104.09044: from the deepest layer up, the
student's features are fused with those that came from below, and compared with the teacher's at several scales. Without
the warm-up of the authors' code.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from netpress.core.taps import Seen, Shapes, Taps
from netpress.distill.teaching.pairs import Pair, no_maps, taps_of_pairs
from netpress.params.schema import Strict

EXAMPLE = {"layers": [["0.1", "0.1"], ["0.3", "0.3"], ["0.5", "0.5"]], "weight": 1.0}
#: Sides to which maps are averaged, beside their own.
SIDES = (4, 2, 1)
#: Channels in which features are fused, at most.
WIDEST = 512


class Options(Strict):
    """Options of knowledge review."""

    layers: list[Pair] = Field(min_length=1, max_length=100, description="pairs of named_modules, the deepest last")
    weight: float = Field(ge=0, le=10_000, description="factor of the review, which is added to the labels' part")


def taps(options: Options) -> Taps:
    """Look at one layer of each network for every pair."""
    return taps_of_pairs(options.layers)


def adapter(student: Shapes, teacher: Shapes, options: Options) -> nn.Module:
    """Return the fusions, from the student's channels to the teacher's.

    Raises:
        ParamsError: a layer gives no maps.
    """
    for k, (whose, shapes) in enumerate([("student", student), ("teacher", teacher)]):
        for layer in (pair[k] for pair in options.layers):
            if len(shapes[layer]) != 3:
                raise no_maps(layer, whose, shapes[layer])
    return Review([(student[ours][0], teacher[theirs][0]) for ours, theirs in options.layers])


def loss(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module) -> Tensor:
    """CE(labels) + weight * sum over the pairs of `hierarchical(fused features of the student, teacher's)`."""
    parts = [hierarchical(ours, theirs) for ours, theirs in _reviewed(student, teacher, options, adapter)]
    return F.cross_entropy(student.logits, targets) + options.weight * torch.stack(parts).sum()


def losses(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module) -> Tensor:
    """Return the loss of each image, (B)."""
    pairs = _reviewed(student, teacher, options, adapter)
    parts = [hierarchical(ours, theirs, _of_each) for ours, theirs in pairs]
    return F.cross_entropy(student.logits, targets, reduction="none") + options.weight * torch.stack(parts).sum(0)


def _reviewed(student: Seen, teacher: Seen, options: Options, adapter: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the fused features of the student and those of the teacher for each pair of layers."""
    theirs = [teacher.features[layer] for _, layer in options.layers]
    ours = adapter([student.features[layer] for layer, _ in options.layers], [maps.shape[2:] for maps in theirs])
    return list(zip(ours, theirs, strict=True))


def hierarchical(ours: Tensor, theirs: Tensor, difference: Callable[[Tensor, Tensor], Tensor] = F.mse_loss) -> Tensor:
    """Return the mean squared difference of two maps (B, C, H, W) of equal size, as a weighted mean over scales.

    The maps as they are count 1; averaged to each of `SIDES` that is smaller, half as much as the one before.
    `difference` is that of two maps: of the batch, or (B) of its images.
    """
    found, weights = [difference(ours, theirs)], [1.0]
    for side in SIDES:
        if side < min(ours.shape[2:]):
            found.append(difference(F.adaptive_avg_pool2d(ours, side), F.adaptive_avg_pool2d(theirs, side)))
            weights.append(weights[-1] / 2)
    return torch.stack(found, -1) @ ours.new_tensor(weights) / sum(weights)


def _of_each(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).square().flatten(1).mean(1)


class Review(nn.Module):
    """Fuses the student's features from the deepest layer up.

    Args:
        channels: of the student's and of the teacher's layer for each pair, the deepest last.
    """

    def __init__(self, channels: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        middle = min(WIDEST, channels[-1][0])
        self.fusions = nn.ModuleList(Fusion(ours, middle, theirs, True) for ours, theirs in channels[:-1])
        self.fusions.append(Fusion(channels[-1][0], middle, channels[-1][1], False))

    def forward(self, features: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return maps of the teacher's channels and `sizes`, one for each of the student's."""
        found: list[Tensor] = []
        carried = None
        for fusion, maps, size in reversed(list(zip(self.fusions, features, sizes, strict=True))):
            given, carried = fusion(maps, carried, size)
            found.append(given)
        return found[::-1]


class Fusion(nn.Module):
    """Attention-based fusion of a layer's features with what the deeper ones left."""

    def __init__(self, channels: int, middle: int, out: int, fuses: bool) -> None:
        super().__init__()
        self.narrow = nn.Sequential(nn.Conv2d(channels, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.attention = nn.Conv2d(2 * middle, 2, 1) if fuses else None
        self.give = nn.Sequential(nn.Conv2d(middle, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))

    def forward(self, maps: Tensor, carried: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return what is compared with the teacher, (B, out, *size), and what the next layer up is given."""
        own = self.narrow(maps)
        if self.attention is not None and carried is not None:
            carried = F.interpolate(carried, own.shape[2:])  # nearest
            shares = self.attention(torch.cat([own, carried], dim=1)).sigmoid()  # (B, 2, H, W)
            own = shares[:, :1] * own + shares[:, 1:] * carried
        own = F.interpolate(own, size)
        return self.give(own), own
