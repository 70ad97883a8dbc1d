"""How far the answers of a quantized network are from those of the one in fp32."""

import torch.nn.functional as F
from torch import Tensor


def divergence(fp32: Tensor, quantized: Tensor) -> float:
    """Return the mean KL(fp32 || quantized) of the class probabilities that logits (n, classes) stand for, in nats."""
    ours, theirs = (F.log_softmax(given.double(), dim=1) for given in (quantized, fp32))
    return float(F.kl_div(ours, theirs, reduction="batchmean", log_target=True))
