"""Relational distillation: distances and angles between the images of a batch, as the teacher's features have them.

Park et al., Relational knowledge distillation, https://arxiv.org/abs/1904.05068. Features of any two sizes can be
compared, since only the relations are.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from netpress.core.taps import Seen, Taps
from netpress.params.schema import Strict

EXAMPLE = {"student_layer": "0.5", "teacher_layer": "0.5", "distance": 1.0, "angle": 2.0}
#: Squared distances below this have no direction.
LEAST = 1e-12


class Options(Strict):
    """Options of relational distillation."""

    student_layer: str = Field(description="the layer of the student whose outputs are compared, of named_modules")
    teacher_layer: str = Field(description="that of the teacher")
    distance: float = Field(ge=0, le=10_000, description="weight of the distances; the paper has 25")
    angle: float = Field(ge=0, le=10_000, description="weight of the angles; the paper has 50")


def taps(options: Options) -> Taps:
    """Look at one layer of each network."""
    return Taps((options.student_layer,), (options.teacher_layer,))


def loss(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module | None) -> Tensor:
    """CE(labels) + distance * Huber(distances over their mean) + angle * Huber(cosines of angles); maps are pooled."""
    ours, theirs = _pooled(student.features[options.student_layer]), _pooled(teacher.features[options.teacher_layer])
    apart = F.smooth_l1_loss(distances(ours), distances(theirs))
    turned = F.smooth_l1_loss(angles(ours), angles(theirs))
    return F.cross_entropy(student.logits, targets) + options.distance * apart + options.angle * turned


def distances(features: Tensor) -> Tensor:
    """Return the distances between all images of (B, C), over their mean: (B, B), 0 on the diagonal."""
    squares = (features[:, None] - features[None]).square().sum(2)
    found = squares.clamp(min=LEAST).sqrt() * (squares > LEAST)
    positive = found[found > 0]
    return found / positive.mean() if len(positive) else found


def angles(features: Tensor) -> Tensor:
    """Return the cosines of the angles that all pairs of images make at each image of (B, C): (B, B, B)."""
    directions = F.normalize(features[None] - features[:, None], dim=2)  # from each image to each other
    return torch.bmm(directions, directions.transpose(1, 2))


def _pooled(features: Tensor) -> Tensor:
    return features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)
