"""CIFAR-100: 60,000 pictures of 32x32, a hundred classes. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html."""

from pathlib import Path

from netpress.base.errors import DataError
from netpress.config import Data
from netpress.data.splits import Source
from netpress.sources._cifar import read_batch, split_of
from netpress.sources._download import download_archive, folder_of


def read(folder: Path, data: Data) -> Source:
    """Read the batches in `folder` or in its `cifar-100-python`; the classes are the fine ones."""
    from torchvision.datasets import CIFAR100

    folder = folder_of(data.root, folder, lambda target: download_archive(CIFAR100, target))
    inner = folder / CIFAR100.base_folder
    folder = inner if inner.is_dir() else folder
    names = read_batch(folder / CIFAR100.meta["filename"], CIFAR100.meta["md5"]).get(CIFAR100.meta["key"], [])
    if len(names) != 100:
        raise DataError(f"{folder / CIFAR100.meta['filename']} names {len(names)} classes, not 100; fetch it again")
    splits = {}
    for name, listed in (("train", CIFAR100.train_list), ("test", CIFAR100.test_list)):
        splits[name] = split_of([read_batch(folder / n, md5) for n, md5 in listed], "fine_labels", 100, name)
    return Source(tuple(names), splits)
