"""CIFAR-10: 60,000 pictures of 32x32, ten classes. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html."""

from pathlib import Path

from netpress.config import Data
from netpress.data.splits import Source
from netpress.sources._cifar import read_batch, split_of
from netpress.sources._download import download_archive, folder_of

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read(folder: Path, data: Data) -> Source:
    """Read the batches in `folder` or in its `cifar-10-batches-py`."""
    from torchvision.datasets import CIFAR10

    folder = folder_of(data.root, folder, lambda target: download_archive(CIFAR10, target))
    inner = folder / CIFAR10.base_folder
    folder = inner if inner.is_dir() else folder
    return Source(
        CLASSES,
        {
            "train": split_of([read_batch(folder / n, md5) for n, md5 in CIFAR10.train_list], "labels", 10, "train"),
            "test": split_of([read_batch(folder / n, md5) for n, md5 in CIFAR10.test_list], "labels", 10, "test"),
        },
    )
