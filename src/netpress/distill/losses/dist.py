"""Distillation of relations: the student's answers are to correlate with a stronger teacher's, not to equal them.

Huang et al., Knowledge distillation from a stronger teacher, https://arxiv.org/abs/2205.10536: Pearson's correlation
over the classes of each image, and over the images of each class.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from netpress.core.taps import Seen
from netpress.params.schema import Strict

EXAMPLE = {"temperature": 4.0, "beta": 1.0, "gamma": 1.0}


class Options(Strict):
    """Options of DIST."""

    temperature: float = Field(gt=0, le=100, description="softens both distributions; 1 leaves them as they are")
    beta: float = Field(ge=0, le=1000, description="weight of the relation between the classes of an image")
    gamma: float = Field(ge=0, le=1000, description="weight of the relation between the images of a batch")


def loss(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module | None) -> Tensor:
    """CE(labels) + T^2 (beta (1 - correlation over classes) + gamma (1 - correlation over images)), as means."""
    ours, theirs = (F.softmax(seen.logits / options.temperature, dim=1) for seen in (student, teacher))
    between = 1 - correlation(ours, theirs).mean()
    within = 1 - correlation(ours.T, theirs.T).mean()
    relations = options.beta * between + options.gamma * within
    return F.cross_entropy(student.logits, targets) + options.temperature**2 * relations


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Return Pearson's correlation of each row of (rows, columns) with the same row of the other, (rows)."""
    return F.cosine_similarity(one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True), dim=1)
