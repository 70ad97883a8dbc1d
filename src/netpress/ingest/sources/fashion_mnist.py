"""Fashion-MNIST in its IDX files, whole or the embedded part. Xiao et al., https://arxiv.org/abs/1708.07747."""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

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
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049
#: No IDX file of this source is larger, unpacked; and gzip packs no bytes better than this.
LARGEST = 2**31
BEST_RATIO = 1100
#: Bytes read at once.
BLOCK = 2**20


@dataclass(frozen=True)
class Idx:
    """An IDX file that has not been read yet: its path, the dimensions in its header, and where its content begins."""

    path: Path
    shape: tuple[int, ...]
    offset: int


def read(place: Path, data: Data, aside: Path) -> Source:
    """Read the four IDX files of `place`, packed by gzip or not, the images in pieces.

    Raises:
        DataError: a file is missing, damaged, or not what SHA256SUMS says.
    """
    folder = downloaded(data.root, place, _download)
    for candidate in (folder, folder / "FashionMNIST" / "raw"):
        if _find(candidate, "train-images-idx3-ubyte") is not None:
            folder = candidate
    sums = _read_sums(folder / SUMS)
    splits, total = {}, 0
    for name, prefix in FILES.items():
        images = open_idx(folder, f"{prefix}-images-idx3-ubyte", IMAGES_MAGIC, 3)
        labels = read_labels(open_idx(folder, f"{prefix}-labels-idx1-ubyte", LABELS_MAGIC, 1), sums)
        if images.shape[0] != len(labels):
            raise DataError(f"{folder}: {name} has {images.shape[0]} images but {len(labels)} labels; fetch them again")
        splits[name] = _pieces(images, labels, sums, data.resolution)
        total += len(labels)
    return Source(CLASSES, splits, total)


def open_idx(folder: Path, name: str, magic: int, dimensions: int) -> Idx:
    """Read the header of an IDX file, and hold its promise against the size of the file.

    Raises:
        DataError: the file is missing, is no IDX file of this kind, or cannot hold what it promises.
    """
    path = _find(folder, name)
    if path is None:
        raise DataError(f"{folder / name} is missing, also with the ending .gz; data.root must hold the four IDX files")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path} leads out of {folder}; copy the file instead of linking it")
    size = 4 * (1 + dimensions)
    with _reading(path):
        with _open(path) as stream:
            header = stream.read(size)
        packed = path.stat().st_size
    found = struct.unpack(f">{1 + dimensions}I", header) if len(header) == size else (None,)
    if found[0] != magic:
        raise DataError(f"{path} is not the IDX file expected (magic {found[0]}, not {magic}); fetch it again")
    expected = size + math.prod(found[1:])
    if path.suffix != ".gz" and packed != expected:
        raise DataError(f"{path} has {packed} bytes where its header says {expected}; fetch it again")
    if expected > min(LARGEST, packed * BEST_RATIO) or 0 in found[2:]:
        raise DataError(
            f"{path} says that it holds {'x'.join(map(str, found[1:]))} bytes, which cannot be; fetch it again"
        )
    return Idx(path, found[1:], size)


def read_labels(idx: Idx, sums: dict[str, str]) -> np.ndarray:
    """Return the labels of an IDX file: (N) uint8 in 0..9.

    Raises:
        DataError: a label is wrong, or the file damaged or not what `sums` (name -> sha256 of its bytes) says.
    """
    labels = np.concatenate([np.zeros(0, np.uint8), *_content(idx, BLOCK, sums)])
    if len(labels) and labels.max() >= len(CLASSES):
        at = int(labels.argmax())
        raise DataError(
            f"{idx.path}: label {labels[at]} of image {at} is out of range, allowed 0 to {len(CLASSES) - 1}"
        )
    return labels


def _pieces(images: Idx, labels: np.ndarray, sums: dict[str, str], resolution: int) -> Iterator[Piece]:
    count, height, width = images.shape
    each = height * width
    bounds = list(spans(count, max(each, resolution**2)))
    step = bounds[0][1] * each if bounds else each
    for (start, stop), content in zip(bounds, _content(images, step, sums), strict=True):
        yield Piece(resize_all(content.reshape(-1, height, width, 1), resolution), labels[start:stop])


def _content(idx: Idx, step: int, sums: dict[str, str]) -> Iterator[np.ndarray]:
    """Yield what follows the header in pieces of `step` bytes, uint8; the last is shorter.

    The length, and the sum if there is one, are checked at the end: nothing may be made of the pieces before.
    """
    path, size = idx.path, idx.offset + math.prod(idx.shape)
    digest = hashlib.sha256()
    with _reading(path), _open(path) as stream:
        digest.update(stream.read(idx.offset))
        done = idx.offset
        while done < size:
            block = stream.read(min(step, size - done))
            done += len(block)
            digest.update(block)
            if len(block) < min(step, size - done + len(block)):
                raise DataError(f"{path} has {done} bytes where its header says {size}; fetch it again")
            yield np.frombuffer(block, np.uint8)
        if stream.read(1):
            raise DataError(f"{path} has over {size} bytes, which is what its header says; fetch it again")
    expected = sums.get(path.name.removesuffix(".gz"))
    if expected is not None and digest.hexdigest() != expected:
        raise DataError(f"{path} is not what {path.parent / SUMS} says (sha256 of the unpacked bytes); restore it")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch it again") from None


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _find(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)


def _read_sums(path: Path) -> dict[str, str]:
    """Read `<sha256>  <name>` lines; the hashes are of unpacked bytes."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8") as stream:
            pairs = (line.split() for line in stream.read(BLOCK).splitlines() if line.strip())
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
