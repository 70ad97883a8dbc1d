"""How much each of several teachers counts for an image: the more, the better it knows the label.

Zhang et al., Confidence-aware multi-teacher knowledge distillation, https://arxiv.org/abs/2201.00007:

    w_k = (1 - exp(CE_k) / sum_j exp(CE_j)) / (K - 1)

with the cross-entropy CE_k of teacher k's answer with the label, at temperature 1, and K teachers. The paper weighs
answers so, and features by weights of their own; here one weight is for all of a loss. The part of the labels is the
same for all teachers, and the weights sum to 1, so that it stays as it is.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def confidence_weights(answers: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Return the weights (K, B) of K >= 2 teachers, of logits (B, classes) each; they sum to 1 for each image.

    The label of an image is the class of its largest target (B, classes): smoothing does not count against sure
    teachers.
    """
    labels = targets.argmax(1)
    wrong = torch.stack([F.cross_entropy(logits, labels, reduction="none") for logits in answers])  # (K, B)
    return (1 - wrong.softmax(0)) / (len(answers) - 1)
