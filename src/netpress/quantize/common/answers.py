"""What files answer, and how far the answers of a quantized one are from those of the one in fp32."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netpress.core.export import OnnxModule


def logits_of(data: bytes, images: np.ndarray) -> Tensor:
    """Return the logits (n, classes) that a file gives images (n, C, H, W), in batches of 64."""
    module = OnnxModule(data, torch.get_num_threads())
    return torch.cat([module(batch) for batch in torch.from_numpy(images).split(64)])


def divergence(fp32: Tensor, quantized: Tensor) -> float:
    """Return the mean KL(fp32 || quantized) of the class probabilities that logits (n, classes) stand for, in nats."""
    ours, theirs = (F.log_softmax(given.double(), dim=1) for given in (quantized, fp32))
    return float(F.kl_div(ours, theirs, reduction="batchmean", log_target=True))
