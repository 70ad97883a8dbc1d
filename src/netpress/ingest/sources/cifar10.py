"""CIFAR-10: 60,000 pictures of 32x32, ten classes. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html."""

from pathlib import Path

from netpress.ingest.pieces import Source
from netpress.ingest.sources._cifar import open_batches, pieces
from netpress.params.items import Data

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TOTAL = 60_000


def read(place: Path, data: Data, aside: Path) -> Source:
    """Read the batches in `place`, in its `cifar-10-batches-py`, or in the published archive."""
    from torchvision.datasets import CIFAR10

    folder = open_batches(place, data, aside, CIFAR10)
    splits = {
        "train": pieces(folder, CIFAR10.train_list, "labels", data.resolution),
        "test": pieces(folder, CIFAR10.test_list, "labels", data.resolution),
    }
    return Source(CLASSES, splits, TOTAL)
