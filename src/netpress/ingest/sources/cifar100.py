"""CIFAR-100: 60,000 pictures of 32x32, a hundred classes. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html."""

from pathlib import Path

from netpress.base.errors import DataError
from netpress.ingest.pieces import Source
from netpress.ingest.sources._cifar import open_batches, pieces, read_batch
from netpress.params.items import Data

TOTAL = 60_000


def read(place: Path, data: Data, aside: Path) -> Source:
    """Read the batches in `place`, its `cifar-100-python` or the published archive; the classes are the fine ones."""
    from torchvision.datasets import CIFAR100

    folder = open_batches(place, data, aside, CIFAR100)
    meta = folder / CIFAR100.meta["filename"]
    names = read_batch(meta, CIFAR100.meta["md5"]).get(CIFAR100.meta["key"])
    if not isinstance(names, list) or len(names) != 100 or not all(isinstance(name, str) for name in names):
        raise DataError(f"{meta} does not name a hundred classes; fetch it again")
    splits = {
        name: pieces([(folder / file, md5) for file, md5 in listed], "fine_labels", 100, data.resolution)
        for name, listed in (("train", CIFAR100.train_list), ("test", CIFAR100.test_list))
    }
    return Source(tuple(names), splits, TOTAL)
