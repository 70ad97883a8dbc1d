"""Multi-level distillation: answers alike image by image, between the images of a batch, and between the classes.

Jin et al., Multi-level logit distillation, https://doi.org/10.1109/CVPR52729.2023.02325, each level at several
temperatures. Without the paper's second, strongly augmented view of each image: a student is shown one view here.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from netpress.core.taps import Seen
from netpress.params.schema import Strict

EXAMPLE = {"temperatures": [2.0, 4.0, 6.0], "instance": 0.3, "batch": 0.3, "classes": 0.3}
Temperature = Annotated[float, Field(gt=0, le=100, description="softens both distributions")]


class Options(Strict):
    """Options of multi-level distillation."""

    temperatures: list[Temperature] = Field(min_length=1, max_length=20, description="the loss is the sum over them")
    instance: float = Field(ge=0, le=1000, description="weight of the answers to each image")
    batch: float = Field(ge=0, le=1000, description="weight of how the images of a batch are alike")
    classes: float = Field(ge=0, le=1000, description="weight of how the classes are alike")


def loss(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module | None) -> Tensor:
    """CE(labels) + sum over the temperatures of the three `levels`, each times its weight."""
    weights = student.logits.new_tensor([options.instance, options.batch, options.classes])
    found = [levels(student.logits, teacher.logits, temperature) for temperature in options.temperatures]
    return F.cross_entropy(student.logits, targets) + (weights * torch.stack(found)).sum()


def levels(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the three parts (3) for logits (B, classes), without weights.

    With P = softmax(logits / T) of teacher and student: T^2 KL as the mean over images; |P P' - P P'|^2 / B, of the
    Gram matrices of the images (B, B); and |P' P - P' P|^2 / classes, of those of the classes. At equal answers the
    second grows with B / classes and the third with its square.
    """
    ours, theirs = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    instance = F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2
    p, q = theirs.exp(), ours.exp()  # (B, classes)
    images = (p @ p.T - q @ q.T).square().sum() / len(p)
    classes = (p.T @ p - q.T @ q).square().sum() / p.shape[1]
    return torch.stack([instance, images, classes])
