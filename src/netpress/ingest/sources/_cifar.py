"""CIFAR's batches. They are pickles, so a file is unpickled only if its md5 is the published one."""

import hashlib
import io
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netpress.base.errors import DataError
from netpress.ingest.archives import folder_of, require_md5
from netpress.ingest.images import resize_all
from netpress.ingest.pieces import Piece, spans
from netpress.ingest.sources._download import download_archive, downloaded
from netpress.params.items import Data

#: More than the largest published file has; what is longer has another md5 anyway.
LARGEST = 2**28
SIDE = 32
#: All that the published files ask for.
NUMPY = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds plain values and numpy's arrays, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in NUMPY:
            raise DataError(f"a batch of CIFAR asks for {module}.{name}; fetch it again")
        return super().find_class(module, name)


def open_batches(place: Path, data: Data, aside: Path, dataset: Any) -> Path:
    """Return the folder of the batches: `place`, what its archive holds, or what a download brings.

    Args:
        place: the folder, the folder above, or the published archive.
        data: the section `data` of params.yaml.
        aside: where an archive is unpacked.
        dataset: torchvision's class, for the published names and sums.

    Raises:
        DataError: the archive is not the published one.
    """
    place = downloaded(data.root, place, lambda target: download_archive(dataset, target))
    if place.is_file():
        require_md5(place, dataset.tgz_md5, place.name)
    folder = folder_of(place, aside, place.name)
    inner = folder / dataset.base_folder
    return inner if inner.is_dir() else folder


def read_batch(path: Path, md5: str) -> dict[str, Any]:
    """Return the dictionary of the batch file whose published md5 is `md5`.

    Raises:
        DataError: the file is missing, or not the published one.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing or no file; data.root must hold the unpacked batches")
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); data.root must hold the unpacked batches") from None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path} is not the published file (md5 differs); fetch it again")
    batch: dict[str, Any] = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    return batch


def pieces(folder: Path, files: Sequence[tuple[str, str]], labels: str, resolution: int) -> Iterator[Piece]:
    """Yield the images of batch files (name, md5), one file in memory at a time; `labels` is the key of the classes."""
    for name, md5 in files:
        batch = read_batch(folder / name, md5)
        images = batch["data"].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
        for start, stop in spans(len(images), 3 * max(SIDE, resolution) ** 2):
            part = np.ascontiguousarray(images[start:stop])
            yield Piece(resize_all(part, resolution), np.array(batch[labels][start:stop], np.int64))
