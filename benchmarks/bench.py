"""Speed of the training loop, as ratios to an ordinary PyTorch loop in the same run.

The baseline reads one picture at a time through a DataLoader without workers, augments it with
torchvision's transforms and keeps PyTorch's default memory format; model, batch size and optimizer are
the same. Rounds of baseline and candidates alternate, and medians are compared, because machines are noisy.

Then what checkpoints cost: the share of a run's time that is spent on them, where a network is small, where its
epochs are short, and where it is large.

    python benchmarks/bench.py [--images N] [--rounds N]
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from netpress.core.batches import DeviceSplit
from netpress.core.checkpoint import Checkpoint, History
from netpress.core.engine import Schedule, fit, make_optimizer
from netpress.core.networks import build_model
from netpress.params.recipes import Augment, Recipe, Runtime

RUNTIME = Runtime(device="cpu", threads=2, precision="fp32", channels_last=True, compile=False)
RECIPE = Recipe(
    optimizer="sgd",
    lr=0.05,
    body_lr=1.0,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="one_cycle",
    warmup=0.3,
    batch_size=128,
    min_steps=0,
    label_smoothing=0.0,
    clip_norm=0.0,
    average=0.0,
    augment=Augment(flip=True, crop_padding=2, resized_crop=0.0, erasing=0.0, mixup=0.0),
)
NETWORKS: list[tuple[str, dict[str, float | str]]] = [
    ("resnet18", {"width": 0.25, "stem": "pooled"}),
    ("mobile_student", {"width": 0.5}),
]


#: What it is called, architecture, options, images and epochs of the runs whose checkpoints are timed.
CHECKPOINTED: list[tuple[str, str, dict[str, float | str], int, int]] = [
    ("resnet18 at width 0.25", "resnet18", {"width": 0.25, "stem": "pooled"}, 8000, 8),
    ("mobile_student, short epochs", "mobile_student", {"width": 0.5}, 500, 100),
    ("large_cnn, 14 M parameters", "large_cnn", {"width": 0.5}, 128, 100),
]


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """A split as an ordinary data set: one PIL picture at a time through torchvision's transforms."""

    def __init__(self, split: DeviceSplit) -> None:
        from torchvision import transforms

        self._split = split
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(split.images.shape[1], padding=2),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(split.mean, split.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = Image.fromarray(self._split.images[index, :, :, 0].numpy())
        return self._transform(picture), int(self._split.labels[index])


def made_up(count: int) -> DeviceSplit:
    """Noise in the shape of Fashion-MNIST; speed does not depend on the pictures."""
    images = torch.randint(0, 256, (count, 28, 28, 1), dtype=torch.uint8)
    return DeviceSplit(images, torch.arange(count) % 10, 10, (0.3,), (0.35,), channels_last=True)


def ordinary(arch: str, options: dict[str, float | str], split: DeviceSplit) -> None:
    """One epoch the ordinary way."""
    network = build_model(arch, 10, 1, **options).train()
    optimizer = make_optimizer(network, RECIPE, nn.ModuleDict(), "")
    for images, labels in DataLoader(Pictures(split), batch_size=RECIPE.batch_size, shuffle=True):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def ours(arch: str, options: dict[str, float | str], split: DeviceSplit, runtime: Runtime) -> None:
    """One epoch of the engine, with a validation split too small to count."""
    network = build_model(arch, 10, 1, **options)
    few = DeviceSplit(split.images[:16], split.labels[:16], 10, split.mean, split.std, runtime.channels_last)
    whole = DeviceSplit(split.images, split.labels, 10, split.mean, split.std, runtime.channels_last)
    with quiet():
        fit(network, whole, few, Schedule(RECIPE, 1, 0), runtime, "bench")


def checkpoint_share(
    arch: str, options: dict[str, float | str], split: DeviceSplit, epochs: int
) -> tuple[float, float, int]:
    """Train with checkpoints; return the seconds of the run, those spent on checkpoints, and how many there were."""
    spent, written = 0.0, 0

    class Timed(Checkpoint):
        """Notes what each checkpoint takes."""

        def save_if_due(self, network: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> None:
            nonlocal spent, written
            before, last = time.perf_counter(), self._last
            super().save_if_due(network, optimizer, history)
            spent += time.perf_counter() - before
            written += self._last != last

    network = build_model(arch, 10, 1, **options)
    few = DeviceSplit(split.images[:16], split.labels[:16], 10, split.mean, split.std, RUNTIME.channels_last)
    with tempfile.TemporaryDirectory() as folder, quiet():
        checkpoint = Timed(Path(folder) / "fit")
        whole = seconds(
            lambda: void(fit(network, split, few, Schedule(RECIPE, epochs, 0), RUNTIME, "bench", checkpoint=checkpoint))
        )
    return whole, spent, written


def quiet() -> contextlib.AbstractContextManager[object]:
    """Keep the lines of progress out of the table."""
    return contextlib.redirect_stderr(io.StringIO())


def void(_: object) -> None:
    """Drop a result."""


def seconds(work: Callable[[], None]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print images a second of each loop and the ratio to the baseline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2560, help="images of one epoch (default: 2560)")
    parser.add_argument("--rounds", type=int, default=3, help="times each loop is run (default: 3)")
    args = parser.parse_args()
    torch.set_num_threads(RUNTIME.threads)
    split = made_up(args.images)
    contiguous = RUNTIME.model_copy(update={"channels_last": False})
    bf16 = RUNTIME.model_copy(update={"precision": "bf16"})
    print(f"{args.images} images of 28x28, batch {RECIPE.batch_size}, {RUNTIME.threads} threads")
    for arch, options in NETWORKS:
        loops: dict[str, Callable[[], None]] = {
            "ordinary loop (baseline)": partial(ordinary, arch, options, split),
            "netpress, contiguous": partial(ours, arch, options, split, contiguous),
            "netpress, channels_last (default)": partial(ours, arch, options, split, RUNTIME),
            "netpress, channels_last, bf16": partial(ours, arch, options, split, bf16),
        }
        times: dict[str, list[float]] = {name: [] for name in loops}
        for round_number in range(args.rounds + 1):
            for name, work in loops.items():
                spent = seconds(work)
                if round_number:  # the first round warms up
                    times[name].append(spent)
        base = statistics.median(times["ordinary loop (baseline)"])
        print(f"\n{arch} {options}")
        for name, spent_all in times.items():
            median = statistics.median(spent_all)
            print(f"  {name:36}{args.images / median:8,.0f} img/s   {base / median:5.2f}x")
    print("\ncheckpoints                              epochs  written   run    checkpoints  share")
    for title, arch, options, images, epochs in CHECKPOINTED:
        whole, spent, written = checkpoint_share(arch, options, made_up(images), epochs)
        print(f"  {title:36}{epochs:8}{written:9}{whole:7.1f} s{spent:10.3f} s{spent / whole:10.2%}")


if __name__ == "__main__":
    main()
