"""Decoupled distillation: what the teacher says of the true class, and of the others among themselves, apart.

Zhao et al., Decoupled knowledge distillation, https://arxiv.org/abs/2203.08679, without the paper's warm-up of the
distilled part. Hinton's divergence is the first part plus the second times the teacher's share of the other classes, so
that a sure teacher says little of them; here that share is `beta` for every image. For `standardize` see
`teaching/standardization.py`.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from netpress.core.taps import Seen
from netpress.distill.teaching.standardization import standardized
from netpress.params.schema import Strict

EXAMPLE = {"temperature": 4.0, "alpha": 1.0, "beta": 2.0, "standardize": False}


class Options(Strict):
    """Options of decoupled distillation."""

    temperature: float = Field(gt=0, le=100, description="softens both distributions; 1 leaves them as they are")
    alpha: float = Field(ge=0, le=1000, description="weight of the true class against all others")
    beta: float = Field(ge=0, le=1000, description="weight of the other classes among themselves")
    standardize: bool = Field(description="whether each image's logits become z-scores before they are softened")


def loss(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module | None) -> Tensor:
    """CE(labels) + T^2 (alpha KL(true class or not) + beta KL(among the others)).

    The true class is that of the largest target. Both divergences are of the teacher from the student at temperature T,
    summed over the classes and averaged over the images; with `standardize`, of the z-scores at temperature T.
    """
    true_class, others = _parts_of(student, teacher, targets, options)
    hard = F.cross_entropy(student.logits, targets)
    return hard + options.temperature**2 * (options.alpha * true_class.mean() + options.beta * others.mean())


def losses(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module | None) -> Tensor:
    """Return the loss of each image, (B)."""
    true_class, others = _parts_of(student, teacher, targets, options)
    hard = F.cross_entropy(student.logits, targets, reduction="none")
    return hard + options.temperature**2 * (options.alpha * true_class + options.beta * others)


def _parts_of(student: Seen, teacher: Seen, targets: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    ours, theirs = (standardized(seen) if options.standardize else seen for seen in (student, teacher))
    return parts(ours, theirs, targets, options.temperature)


def parts(student: Seen, teacher: Seen, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the two divergences of each image, (B) each, without weights."""
    is_true = F.one_hot(targets.argmax(1), targets.shape[1]).bool()  # (B, classes)
    ours, theirs = (_split(seen.logits / temperature, is_true) for seen in (student, teacher))
    true_class, others = (
        F.kl_div(s, t, reduction="none", log_target=True).sum(1) for s, t in zip(ours, theirs, strict=True)
    )
    return true_class, others


def _split(logits: Tensor, is_true: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities: of the true class and of all others together (B, 2); of the others (B, classes - 1)."""
    logs = F.log_softmax(logits, dim=1)
    rest = logs[~is_true].view(len(logs), -1)
    return torch.stack([logs[is_true], rest.logsumexp(1)], dim=1), F.log_softmax(rest, dim=1)
