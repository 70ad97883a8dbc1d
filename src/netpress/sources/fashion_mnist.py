"""Fashion-MNIST in its IDX files, whole or the embedded part. Xiao et al., https://arxiv.org/abs/1708.07747."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from netpress.base.errors import DataError
from netpress.base.files import sha256_bytes
from netpress.config import Data
from netpress.data.splits import Source, Split
from netpress.sources._download import folder_of

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
#: No IDX file of this source is larger, packed or not.
LARGEST = 256 * 2**20


def read(folder: Path, data: Data) -> Source:
    """Read the four IDX files of `folder`, packed by gzip or not.

    Raises:
        DataError: a file is missing, damaged, or not what SHA256SUMS says.
    """
    folder = folder_of(data.root, folder, _download)
    for candidate in (folder, folder / "FashionMNIST" / "raw"):
        if _find(candidate, "train-images-idx3-ubyte") is not None:
            folder = candidate
    sums = _read_sums(folder / SUMS)
    splits = {}
    for name, prefix in FILES.items():
        images = parse_images(*_read(folder, f"{prefix}-images-idx3-ubyte", sums))
        labels = parse_labels(*_read(folder, f"{prefix}-labels-idx1-ubyte", sums))
        if len(images) != len(labels):
            raise DataError(f"{folder}: {name} has {len(images)} images but {len(labels)} labels; fetch them again")
        splits[name] = Split(images, labels)
    return Source(CLASSES, splits)


def parse_images(content: bytes, name: str) -> np.ndarray:
    """Return the images of an IDX file: (N, H, W, 1) uint8.

    Raises:
        DataError: the magic number, the shape or the length is wrong; `name` says of which file.
    """
    count, height, width = _header(content, name, IMAGES_MAGIC, 3)
    _require_length(content, name, 16 + count * height * width)
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, height, width, 1)


def parse_labels(content: bytes, name: str) -> np.ndarray:
    """Return the labels of an IDX file: (N) int64 in 0..9.

    Raises:
        DataError: the magic number, the length or a label is wrong.
    """
    (count,) = _header(content, name, LABELS_MAGIC, 1)
    _require_length(content, name, 8 + count)
    labels = np.frombuffer(content, np.uint8, offset=8).astype(np.int64)
    if count and labels.max() >= len(CLASSES):
        at = int(labels.argmax())
        raise DataError(f"{name}: label {labels[at]} of image {at} is out of range, allowed 0 to {len(CLASSES) - 1}")
    return labels


def _header(content: bytes, name: str, magic: int, dimensions: int) -> tuple[int, ...]:
    size = 4 * (1 + dimensions)
    found = struct.unpack(f">{1 + dimensions}I", content[:size]) if len(content) >= size else (None,)
    if found[0] != magic:
        raise DataError(f"{name} is not the IDX file expected (magic {found[0]}, not {magic}); fetch it again")
    return found[1:]


def _require_length(content: bytes, name: str, expected: int) -> None:
    if len(content) != expected:
        raise DataError(f"{name} has {len(content)} bytes where its header says {expected}; fetch it again")


def _read(folder: Path, name: str, sums: dict[str, str]) -> tuple[bytes, str]:
    path = _find(folder, name)
    if path is None:
        raise DataError(f"{folder / name} is missing, also with the ending .gz; data.root must hold the four IDX files")
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                content = stream.read(LARGEST + 1)
        else:
            with path.open("rb") as plain:
                content = plain.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch it again") from None
    if len(content) > LARGEST:
        raise DataError(f"{path} holds over {LARGEST / 1e6:,.0f} MB, which no file of this source does")
    if name in sums and sha256_bytes(content) != sums[name]:
        raise DataError(f"{path} is not what {folder / SUMS} says (sha256 of the unpacked bytes); restore it")
    return content, str(path)


def _find(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)


def _read_sums(path: Path) -> dict[str, str]:
    """Read `<sha256>  <name>` lines; the hashes are of unpacked bytes."""
    if not path.is_file():
        return {}
    try:
        pairs = (line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        return {name: digest for digest, name in pairs}
    except ValueError:  # also bytes that are no text
        raise DataError(f"{path} is not a list of '<sha256>  <name>' lines; restore or remove it") from None


def _download(target: Path) -> None:
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import download_url

    # Not through the constructor: it takes a file for whole that was left half-unpacked.
    for name, md5 in FashionMNIST.resources:
        download_url(FashionMNIST.mirrors[0] + name, target / "FashionMNIST" / "raw", name, md5)
