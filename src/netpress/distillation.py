"""Knowledge distillation: a trained teacher takes part in the student's objective.

A method is a file with `Options` and `loss(student_logits, teacher_logits, targets, options)`, where
the logits are (B, classes), `targets` (B, classes) sum to 1, and the loss is a scalar.
"""

import torch
from torch import Tensor, nn

from netpress.base import plugins
from netpress.base.schema import parse
from netpress.config import Distill, Runtime
from netpress.engine import Objective
from netpress.measure import autocast


def taught_by(teacher: nn.Module, item: Distill, runtime: Runtime) -> Objective:
    """Return the objective of `item`'s method; the teacher sees the student's own augmented views.

    Beyer et al., A good teacher is patient and consistent, https://arxiv.org/abs/2106.05237.
    """
    method = plugins.load("distill", item.method)
    options = parse(method.Options, item.method_options, f"{item.method}.method_options")
    teacher.eval().to(memory_format=torch.channels_last if runtime.channels_last else torch.contiguous_format)

    def objective(images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad(), autocast(runtime, images.device):
            teacher_logits = teacher(images)
        loss: Tensor = method.loss(logits, teacher_logits.float(), targets, options)
        return loss

    return objective
