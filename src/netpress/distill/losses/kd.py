"""Soft targets. Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, https://arxiv.org/abs/1503.02531.

With `standardize` the student follows the proportions of the teacher's logits, not their size. Sun et al., Logit
standardization in knowledge distillation, https://arxiv.org/abs/2403.01427.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from netpress.core.taps import Seen
from netpress.distill.teaching.standardization import standardized
from netpress.params.schema import Strict

EXAMPLE = {"temperature": 4.0, "weight": 0.7, "standardize": False}


class Options(Strict):
    """Options of Hinton's distillation."""

    temperature: float = Field(gt=0, le=100, description="softens both distributions; 1 leaves them as they are")
    weight: float = Field(ge=0, le=1, description="share of the teacher in the loss; the labels have the rest")
    standardize: bool = Field(description="whether each image's logits become z-scores before they are softened")


def loss(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module | None) -> Tensor:
    """(1 - weight) CE(labels) + weight T^2 KL(teacher / T || student / T).

    The factor T^2 keeps the size of the gradient when T changes; the divergence is summed over the classes
    and averaged over the images, (PyTorch's own mean would divide by the number of classes too). Standardized logits
    are those of the divergence alone; the labels see the student's own.
    """
    ours, theirs = _softened(student, teacher, options)
    soft = F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * options.temperature**2
    hard = F.cross_entropy(student.logits, targets)
    return (1 - options.weight) * hard + options.weight * soft


def losses(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module | None) -> Tensor:
    """Return the loss of each image, (B)."""
    ours, theirs = _softened(student, teacher, options)
    soft = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1) * options.temperature**2
    hard = F.cross_entropy(student.logits, targets, reduction="none")
    return (1 - options.weight) * hard + options.weight * soft


def _softened(student: Seen, teacher: Seen, options: Options) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of both at the temperature, (B, classes) each."""
    views = (standardized(seen) if options.standardize else seen for seen in (student, teacher))
    ours, theirs = (F.log_softmax(seen.logits / options.temperature, dim=1) for seen in views)
    return ours, theirs
