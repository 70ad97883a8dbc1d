"""Fashion-MNIST in its IDX files, whole or the embedded part. Xiao et al., https://arxiv.org/abs/1708.07747."""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from netpress.base.errors import DataError
from netpress.ingest.images import resize_all
from netpress.ingest.pieces import Piece, Source, spans
from netpress.ingest.sources._download import downloaded
from netpress.params.items import Data

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FILES = {"train": "train", "test": "t10k"}
SUMS = "SHA256SUMS"
SIDE = 28
#: More bytes than any file of this source has.
LARGEST = 2**27


def read(place: Path, data: Data, aside: Path) -> Source:
    """Read the four IDX files of `place`, packed by gzip or not.

    Raises:
        DataError: a file is missing, damaged, or not what SHA256SUMS says.
    """
    folder = downloaded(data.root, place, _download)
    raw = folder / "FashionMNIST" / "raw"
    folder = raw if raw.is_dir() else folder
    sums = _read_sums(folder / SUMS)
    splits, total = {}, 0
    for name, prefix in FILES.items():
        images = read_idx(folder, f"{prefix}-images-idx3-ubyte", (SIDE, SIDE), sums)
        labels = read_idx(folder, f"{prefix}-labels-idx1-ubyte", (), sums)
        if len(images) != len(labels):
            raise DataError(f"{folder}: {name} has {len(images)} images but {len(labels)} labels; fetch them again")
        wrong = np.flatnonzero(labels >= len(CLASSES))
        if len(wrong):
            at = int(wrong[0])
            raise DataError(f"{folder}: {name} has the label {labels[at]} for image {at}; fetch it again")
        splits[name] = _pieces(images, labels, data.resolution)
        total += len(labels)
    return Source(CLASSES, splits, total)


def read_idx(folder: Path, name: str, shape: tuple[int, ...], sums: dict[str, str]) -> np.ndarray:
    """Return what an IDX file holds: (N, *shape) uint8. `sums` gives the sha256 of unpacked files.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)
    if path is None:
        raise DataError(f"{folder / name} is missing, also with the ending .gz; data.root must hold the four IDX files")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(LARGEST)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch it again") from None
    start = 8 + 4 * len(shape)
    count = max(0, len(content) - start) // math.prod(shape)
    # The magic number says: unsigned bytes in so many dimensions.
    header = struct.pack(f">{2 + len(shape)}I", 0x801 + len(shape), count, *shape)
    if content[:start] != header or len(content) != start + count * math.prod(shape):
        raise DataError(f"{path} is not the IDX file expected, or not whole; fetch it again")
    if name in sums and hashlib.sha256(content).hexdigest() != sums[name]:
        raise DataError(f"{path} is not what {folder / SUMS} says (sha256 of the unpacked bytes); restore it")
    return np.frombuffer(content, np.uint8, offset=start).reshape(count, *shape)


def _pieces(images: np.ndarray, labels: np.ndarray, resolution: int) -> Iterator[Piece]:
    for start, stop in spans(len(images), max(SIDE, resolution) ** 2):
        yield Piece(resize_all(images[start:stop, :, :, None], resolution), labels[start:stop])


def _read_sums(path: Path) -> dict[str, str]:
    """Read `<sha256>  <name>` lines; the hashes are of unpacked bytes."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8") as stream:
            pairs = (line.split() for line in stream.read(LARGEST).splitlines() if line.strip())
            return {name: digest for digest, name in pairs}
    except (ValueError, OSError):  # also bytes that are no text
        raise DataError(f"{path} is not a list of '<sha256>  <name>' lines; restore or remove it") from None


def _download(target: Path) -> Path:
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import download_url

    # Not through the constructor: it takes a file for whole that was left half-unpacked.
    for name, md5 in FashionMNIST.resources:
        download_url(FashionMNIST.mirrors[0] + name, target / "FashionMNIST" / "raw", name, md5)
    return target
