"""Hints: the student's features inside follow the teacher's. Romero et al., FitNets, https://arxiv.org/abs/1412.6550.

One training with both terms, not the paper's two stages, as Tian et al. do it, https://arxiv.org/abs/1910.10699.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from netpress.base.errors import ParamsError
from netpress.core.taps import Seen, Shapes, Taps
from netpress.params.schema import Strict

EXAMPLE = {"student_layer": "0.2", "teacher_layer": "0.4", "weight": 1.0}


class Options(Strict):
    """Options of FitNets."""

    student_layer: str = Field(description="the guided layer of the student, as named_modules names it")
    teacher_layer: str = Field(description="the hint layer of the teacher")
    weight: float = Field(ge=0, le=10_000, description="factor of the hint loss, which is added to that of the labels")


def taps(options: Options) -> Taps:
    """Look at one layer of each network."""
    return Taps((options.student_layer,), (options.teacher_layer,))


def adapter(student: Shapes, teacher: Shapes, options: Options) -> nn.Module:
    """Return the projector from the student's channels to the teacher's: a 1x1 convolution, or a linear layer.

    Raises:
        ParamsError: the layers give neither (C, H, W) nor (C) both.
    """
    ours, theirs = student[options.student_layer], teacher[options.teacher_layer]
    if len(ours) == len(theirs) == 3:
        return nn.Conv2d(ours[0], theirs[0], 1)
    if len(ours) == len(theirs) == 1:
        return nn.Linear(ours[0], theirs[0])
    text = (
        f"method_options: layer '{options.student_layer}' of the student gives {ours} and '{options.teacher_layer}' of "
        f"the teacher {theirs}; name two layers that both give (channels, height, width), or both (channels,)"
    )
    raise ParamsError([("method_options", text)])


def loss(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module) -> Tensor:
    """CE(labels) + weight * mean squared difference of the teacher's features and the student's, projected.

    Of maps of unequal sizes the larger is averaged down to the smaller.
    """
    ours, theirs = _compared(student, teacher, options, adapter)
    return F.cross_entropy(student.logits, targets) + options.weight * F.mse_loss(ours, theirs)


def losses(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module) -> Tensor:
    """Return the loss of each image, (B)."""
    ours, theirs = _compared(student, teacher, options, adapter)
    hint = F.mse_loss(ours, theirs, reduction="none").flatten(1).mean(1)
    return F.cross_entropy(student.logits, targets, reduction="none") + options.weight * hint


def _compared(student: Seen, teacher: Seen, options: Options, adapter: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the student's features, projected, and the teacher's, of one size."""
    ours = adapter(student.features[options.student_layer])
    theirs = teacher.features[options.teacher_layer]
    if ours.ndim == 4 and ours.shape[2:] != theirs.shape[2:]:
        size = min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3])
        ours, theirs = F.adaptive_avg_pool2d(ours, size), F.adaptive_avg_pool2d(theirs, size)
    return ours, theirs
