"""CIFAR-100: 60,000 pictures of 32x32, a hundred classes. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html."""

from pathlib import Path

from netpress.ingest.pieces import Source
from netpress.ingest.sources._cifar import open_batches, pieces, read_batch
from netpress.params.items import Data

TOTAL = 60_000


def read(place: Path, data: Data, aside: Path) -> Source:
    """Read the batches in `place`, its `cifar-100-python` or the published archive; the classes are the fine ones."""
    from torchvision.datasets import CIFAR100

    folder = open_batches(place, data, aside, CIFAR100)
    names = read_batch(folder / CIFAR100.meta["filename"], CIFAR100.meta["md5"])[CIFAR100.meta["key"]]
    splits = {
        "train": pieces(folder, CIFAR100.train_list, "fine_labels", data.resolution),
        "test": pieces(folder, CIFAR100.test_list, "fine_labels", data.resolution),
    }
    return Source(tuple(names), splits, TOTAL)
