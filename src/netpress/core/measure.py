"""The measurements that every model gets: accuracy, parameters, multiply-adds, bytes."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netpress.base.errors import TrainingError
from netpress.core import predictions
from netpress.core.metrics import RIGHT, VAL_ACC, packed
from netpress.core.predictions import PREDICTED
from netpress.core.ranks import here
from netpress.core.splits import DeviceSplit
from netpress.params.recipes import Runtime

#: Bins of equal width in which confidence is compared with accuracy.
BINS = 15
#: How large a network may be said to be -> the words for it.
SIZES = {"params": "parameters", "macs": "multiply-adds"}


@dataclass(frozen=True)
class Quality:
    """How well a network does on one split.

    Attributes:
        hit: (N) bool, whether each image's class is named right, in the split's order.
        predicted: (N) int64, the class that the network names.
        confidence: (N), the probability of that class.
        loss: mean cross-entropy in nats.
    """

    hit: Tensor
    predicted: Tensor
    confidence: Tensor
    loss: float

    @property
    def accuracy(self) -> float:
        """Top-1, a fraction."""
        return int(self.hit.sum()) / len(self.hit)

    @property
    def right(self) -> str:
        """Which images are named right, as the metrics keep it."""
        return packed(self.hit.cpu().numpy())

    def named(self, key: str) -> dict[str, Any]:
        """Return the accuracy as the metrics keep it: under `key`, and which images it is made of under `key`_right."""
        return {key: self.accuracy, f"{key}{RIGHT}": self.right}

    def detail(self, split: DeviceSplit) -> dict[str, Any]:
        """Return what is kept of validation beside accuracy and loss: images, calibration, classes, predictions."""
        return {
            PREDICTED: predictions.packed(self.predicted, self.confidence),
            f"{VAL_ACC}{RIGHT}": self.right,
            "val_ece": calibration_error(self.hit, self.confidence),
            "val_acc_by_class": list(accuracy_by_class(self.hit, split)),
        }


@torch.inference_mode()
def evaluate(network: nn.Module, split: DeviceSplit, where: str = "the network") -> Quality:
    """Measure `network` on `split` without augmentation, in fp32 whatever it was trained in; leaves it in eval mode.

    Processes that share a training share the batches too, and each comes to the figures that one alone would.

    Raises:
        TrainingError: the loss is not finite, so that the accuracy means nothing; `where` says of what.
    """
    network.eval()
    ranks = here()
    found: dict[int, tuple[Tensor, Tensor, float]] = {}
    for place, (images, labels) in enumerate(split.in_order()):
        if place % ranks.count == ranks.number:
            logits = network(images)
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
            found[place] = logits.argmax(1), logits.softmax(1).amax(1), float(loss)
    predicted, confidences, losses = zip(*ranks.in_order(found), strict=True)
    loss = sum(losses)
    if not math.isfinite(loss):
        raise TrainingError(
            f"{where}: the loss on {len(split)} images became {loss}; nothing was written. Usual causes: the learning "
            "rate is too high (lower recipes.<name>.lr), or the method broke the network (choose milder method_options)"
        )
    named, confidence = (torch.cat(parts).to(split.labels.device) for parts in (predicted, confidences))
    return Quality(named == split.labels, named, confidence, loss / len(split))


def calibration_error(hit: Tensor, confidence: Tensor) -> float:
    """Return the expected calibration error of `hit` (N) bool and `confidence` (N) in 0..1, a fraction.

    By how much confidence and accuracy differ, over bins of confidence. Guo et al., https://arxiv.org/abs/1706.04599.
    """
    edges = torch.linspace(0, 1, BINS + 1, device=hit.device)[1:-1]
    bins = torch.bucketize(confidence, edges)
    error = 0.0
    for index in bins.unique().tolist():
        inside = bins == index
        error += abs(float(hit[inside].double().sum() - confidence[inside].double().sum()))
    return error / len(hit)


def accuracy_by_class(hit: Tensor, split: DeviceSplit) -> tuple[float | None, ...]:
    """Return the share of hits among the images of each class; `hit` (N) is in the order of `split`."""
    counts = torch.bincount(split.labels, minlength=split.num_classes).tolist()
    right = torch.bincount(split.labels[hit], minlength=split.num_classes).tolist()
    return tuple(good / count if count else None for good, count in zip(right, counts, strict=True))


def evidence(network: nn.Module, train: DeviceSplit, val: DeviceSplit, taught: Tensor | None = None) -> dict[str, Any]:
    """Return what helps to say why a network does as well as it does: all on images without augmentation.

    `train_acc` and, where `taught` says which class the teacher names for each validation image, `teacher_agreement`:
    the share on which both name the same class.
    """
    found = {"train_acc": evaluate(network, train).accuracy}
    if taught is not None:
        found["teacher_agreement"] = int((answers(network, val) == taught).sum()) / len(val)
    return found


@torch.inference_mode()
def answers(network: nn.Module, split: DeviceSplit) -> Tensor:
    """Return the class that `network`, which comes to eval mode, names for each image: (N) int64, in fp32."""
    network.eval()
    return torch.cat([network(images).argmax(1) for images, _ in split.in_order()])


def autocast(runtime: Runtime, network: nn.Module, device: torch.device) -> torch.autocast:
    """Return the context in which `runtime.precision` holds for `network`."""
    coarse = runtime.precision == "bf16" or (runtime.precision == "mixed" and not has_depthwise(network))
    return torch.autocast(device.type, torch.bfloat16, enabled=coarse)


def has_depthwise(network: nn.Module) -> bool:
    """Return whether any convolution has a group for each of its channels."""
    return any(isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels for m in network.modules())


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


def size_of(network: nn.Module, of: str, image: tuple[int, ...]) -> int:
    """Return the parameters of `network`, or its multiply-adds for one image (C, H, W): `of` is a key of `SIZES`."""
    return count_params(network) if of == "params" else count_macs(network, *image)


def weight_bytes(weights: dict[str, Tensor]) -> int:
    """Return the payload of the tensors as stored, buffers included."""
    return sum(t.numel() * t.element_size() for t in weights.values())
