"""The measurements that every model gets: accuracy, parameters, multiply-adds, bytes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netpress.base.errors import TrainingError
from netpress.config import Runtime
from netpress.data.batches import DeviceSplit


@dataclass(frozen=True)
class Quality:
    """Top-1 accuracy as a fraction, and mean cross-entropy in nats."""

    accuracy: float
    loss: float


@torch.inference_mode()
def evaluate(network: nn.Module, split: DeviceSplit, where: str = "the network") -> Quality:
    """Measure `network` on `split` without augmentation, in fp32 whatever it was trained in; leaves it in eval mode.

    Raises:
        TrainingError: the loss is not finite, so that the accuracy means nothing; `where` says of what.
    """
    network.eval()
    correct, loss = 0, 0.0
    for images, labels in split.in_order():
        logits = network(images)
        correct += int((logits.argmax(1) == labels).sum())
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
    if not math.isfinite(loss):
        raise TrainingError(
            f"{where}: the loss on {len(split)} images became {loss}; nothing was written. Usual causes: the learning "
            "rate is too high (lower recipes.<name>.lr), or the method broke the network (choose milder method_options)"
        )
    return Quality(correct / len(split), loss / len(split))


def autocast(runtime: Runtime, device: torch.device) -> torch.autocast:
    """Return the context in which `runtime.precision` holds."""
    return torch.autocast(device.type, torch.bfloat16, enabled=runtime.precision == "bf16")


def count_params(network: nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(p.numel() for p in network.parameters())


def count_macs(network: nn.Module, in_channels: int, height: int, width: int) -> int:
    """Return the multiply-adds of convolutions and linear layers for one image of (in_channels, height, width)."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(network.parameters()).device
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, in_channels, height, width, device=device))
    return int(counter.get_total_flops()) // 2


def weight_bytes(weights: dict[str, Tensor]) -> int:
    """Return the payload of the tensors as stored, buffers included."""
    return sum(t.numel() * t.element_size() for t in weights.values())
