"""The labels alone: what fine-tuning lowers where no teacher is asked."""

import torch.nn.functional as F
from torch import Tensor, nn

from netpress.core.taps import Seen
from netpress.params.schema import Strict

EXAMPLE: dict[str, float] = {}
ASKS_TEACHER = False


class Options(Strict):
    """There is nothing to choose."""


def loss(student: Seen, teacher: Seen, targets: Tensor, options: Options, adapter: nn.Module | None) -> Tensor:
    """Cross-entropy with the labels, as a mean over the images."""
    return F.cross_entropy(student.logits, targets)
