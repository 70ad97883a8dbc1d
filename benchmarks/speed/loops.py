"""The loops that are compared: each trains the network of a case for as many steps as it is told to."""

import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from netpress.core.context import Method
from netpress.core.engine import Schedule, fit
from netpress.core.networks import build_model
from netpress.core.runtime import set_up
from netpress.core.splits import DeviceSplit
from netpress.distill.teaching.taught import Taught
from netpress.params import plugins
from netpress.params.recipes import Runtime
from netpress.params.schema import parse
from speed.cases import BATCH, LONGEST, RECIPE, TEMPERATURE, WEIGHT, Case, Network

#: Trains for so many steps and returns how many images that were.
Loop = Callable[[int], float]
CLASSES = 10


def made_up(case: Case, steps: int = LONGEST) -> DeviceSplit:
    """Noise in the shape of the case's images; speed does not depend on the pictures."""
    shape = (steps * BATCH, case.size, case.size, case.channels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    statistics = (0.3,) * case.channels, (0.35,) * case.channels
    return DeviceSplit(images, torch.arange(len(images)) % CLASSES, CLASSES, *statistics, channels_last=True)


def built(network: Network, case: Case) -> nn.Module:
    """Build a network for the case's images."""
    return build_model(network.arch, CLASSES, case.channels, **network.options)


def netpress_loop(case: Case, threads: int, _: int) -> Loop:
    """`core.engine.fit`, set up as a stage does it; a round is one epoch."""
    runtime = Runtime(
        device="cpu",
        threads=threads,
        precision="fp32",
        channels_last=True,
        compile=False,
        devices=1,
        batch_norm="synchronized",
    )
    set_up(runtime)
    whole = made_up(case)
    few = _first(whole, 16)
    network = built(case.network, case)
    objective = None
    if case.teacher:
        kd = plugins.load("distill/losses", "kd")
        options = parse(kd.Options, {"temperature": TEMPERATURE, "weight": WEIGHT, "standardize": False}, "kd")
        objective = Taught(network, [built(case.teacher, case)], Method("kd", kd, options), "same", runtime, whole)

    def train(steps: int) -> float:
        images = _first(whole, steps * BATCH)
        fit(network, images, few, Schedule(RECIPE, 1, 0), runtime, "bench", objective)
        return len(images)

    return train


def _first(split: DeviceSplit, count: int) -> DeviceSplit:
    images, labels = split.images[:count], split.labels[:count]
    return DeviceSplit(images, labels, split.num_classes, split.mean, split.std, split.channels_last)


class Pictures(Dataset[tuple[Tensor, int]]):
    """A split as an ordinary data set: one PIL picture at a time through torchvision's transforms."""

    def __init__(self, split: DeviceSplit) -> None:
        from torchvision import transforms

        self._images, self._labels = split.images[:], split.labels
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(split.images.shape[1], padding=RECIPE.augment.crop_padding),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(split.mean, split.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self._images[index].numpy()
        picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        return self._transform(picture), int(self._labels[index])


class Shuffled(Sampler[int]):
    """Draws `count` images in a new order each time; `count` may be changed between rounds."""

    def __init__(self, data: Pictures) -> None:
        self._total = self.count = len(data)

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self._total)[: self.count].tolist())

    def __len__(self) -> int:
        return self.count


def ordinary_loop(case: Case, threads: int, loaders: int) -> Loop:
    """What one writes with PyTorch and torchvision alone, with so many processes that load images (0: none)."""
    torch.set_num_threads(threads)
    data = Pictures(made_up(case))
    order = Shuffled(data)
    images_and_labels = DataLoader(data, BATCH, sampler=order, num_workers=loaders, persistent_workers=loaders > 0)
    network = built(case.network, case).train()
    teacher = built(case.teacher, case).eval() if case.teacher else None
    optimizer = torch.optim.SGD(network.parameters(), **_sgd())

    def train(steps: int) -> float:
        order.count = steps * BATCH
        for images, labels in images_and_labels:
            logits = network(images)
            loss = nn.functional.cross_entropy(logits, labels)
            if teacher is not None:
                with torch.no_grad():
                    taught = teacher(images)
                loss = (1 - WEIGHT) * loss + WEIGHT * TEMPERATURE**2 * nn.functional.kl_div(
                    nn.functional.log_softmax(logits / TEMPERATURE, 1),
                    nn.functional.softmax(taught / TEMPERATURE, 1),
                    reduction="batchmean",
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return order.count

    return train


def _sgd() -> dict[str, Any]:
    """The recipe's optimizer as arguments of `torch.optim.SGD`."""
    return {"lr": RECIPE.lr, "momentum": RECIPE.momentum, "weight_decay": RECIPE.weight_decay, "nesterov": True}


def torchdistill_loop(case: Case, threads: int, loaders: int) -> Loop:
    """The loop of torchdistill's example for image classification, which prints and evaluates less often here."""
    if case.teacher is None:
        raise ValueError("torchdistill is measured on a pair of teacher and student")
    torch.set_num_threads(threads)
    box_of = importlib.import_module("torchdistill.core.distillation").get_distillation_box
    meters = importlib.import_module("torchdistill.misc.log")
    logging.getLogger().setLevel(logging.WARNING)
    data = Pictures(made_up(case))
    order = Shuffled(data)
    logits = {f"{role}_module_{key}": value for role in ("student", "teacher") for key, value in _LOGITS.items()}
    loss = {"temperature": TEMPERATURE, "alpha": 1 - WEIGHT, "beta": WEIGHT, **logits}
    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": lambda _: order},
            "kwargs": {"batch_size": BATCH, "num_workers": loaders, "persistent_workers": loaders > 0},
        },
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": _sgd()},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
        },
    }
    teacher, student, device = built(case.teacher, case).eval(), built(case.network, case), torch.device("cpu")
    box = box_of(teacher, student, {"train": data}, config, device, None, False, 1)

    def train(steps: int) -> float:
        order.count = steps * BATCH
        box.pre_epoch_process(epoch=0)
        meter = meters.MetricLogger(delimiter="  ")
        for images, labels, more in meter.log_every(box.train_data_loader, 1000, "Epoch"):
            loss = box.forward_process(images, labels, more)
            box.post_forward_process(loss=loss)
            meter.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
        box.post_epoch_process()
        return order.count

    return train


#: Where torchdistill finds the logits: at the output of the whole network.
_LOGITS = {"path": ".", "io": "output"}
