"""CIFAR's batches, read without executing anything that they hold.

The files are pickles. Their bytes are compared with the published md5 first, and what is unpickled may hold plain
values and arrays of bytes alone: nothing of numpy is called, and nothing asks for more memory than the file has bytes.
"""

import hashlib
import io
import math
import pickle
import pickletools
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

#: The published files have at most 155 MB.
LARGEST = 2**28
SIDE = 32
#: Opcodes that store a value under a number; the unpickler makes room up to that number.
NUMBERED = ("PUT", "BINPUT", "LONG_BINPUT")
#: Most tuples in a file: hashing very deep ones would end the process.
MOST_TUPLES = 1000


class _Kind:
    """Stands for numpy's array and for its types while unpickling; cannot be called."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment say nothing about bytes."""


class _Array:
    """Stands for an array until its bytes are there."""

    __slots__ = ("values",)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(kind, _Kind) or kind.name != "u1" or math.prod(shape) != len(raw):
            raise pickle.UnpicklingError("an array is not of bytes, or not as long as it says")
        self.values = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _Maker:
    """Stands for the functions that a pickled array names."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: Any) -> Any:
        if self._name == "_reconstruct":
            return _Array()
        if self._name == "dtype":
            return _Kind(str(args[0]))
        text, coding = args
        if coding != "latin1" or not isinstance(text, str):
            raise pickle.UnpicklingError("it asks for another encoding than latin1")
        return text.encode("latin1")


STAND_INS: dict[tuple[str, str], type[_Maker] | type[_Kind]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Maker,
    ("numpy", "ndarray"): _Kind,
    ("numpy", "dtype"): _Maker,
    ("_codecs", "encode"): _Maker,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return STAND_INS[module, name](name)  # a new one each time, since a pickle can set attributes


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


def read_batch(path: Path, md5: str | None) -> dict[str, Any]:
    """Return the dictionary of one batch file; with `md5` given, only if the file is the published one.

    Raises:
        DataError: the file is missing, another one, or holds more than plain values and arrays of bytes.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path} is missing or no file; data.root must hold the unpacked batches")
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path} has over {LARGEST / 1e6:,.0f} MB, which no batch of CIFAR does; fetch it again")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); data.root must hold the unpacked batches") from None
    if md5 is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path} is not the published file (md5 differs); fetch it again")
    try:
        _require_harmless(content)
        batch = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path} is not a batch of CIFAR ({error}); fetch it again") from None
    if not isinstance(batch, dict):
        raise DataError(f"{path} is not a batch of CIFAR (found {type(batch).__name__}); fetch it again")
    return {key: value.values if isinstance(value, _Array) else value for key, value in batch.items()}


def _require_harmless(content: bytes) -> None:
    """Refuse what the unpickler itself would take too much memory or stack for."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in NUMBERED and not 0 <= int(argument or 0) <= len(content):
            raise pickle.UnpicklingError("a value is stored under a number out of reach")
        tuples += opcode.name.startswith("TUPLE")
        if tuples > MOST_TUPLES:
            raise pickle.UnpicklingError("it holds too many tuples")


def pieces(files: Sequence[tuple[Path, str | None]], key: str, classes: int, resolution: int) -> Iterator[Piece]:
    """Yield the images of batch files (path, md5); a file is in memory only while its images are given."""
    for path, md5 in files:
        images, labels = images_of(read_batch(path, md5), key, classes, str(path))
        for start, stop in spans(len(labels), 3 * max(SIDE, resolution) ** 2):
            part = images[start:stop].transpose(0, 2, 3, 1)
            yield Piece(resize_all(np.ascontiguousarray(part), resolution), labels[start:stop])


def images_of(batch: dict[str, Any], key: str, classes: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (N, 3, 32, 32) uint8 and labels (N) of a batch.

    Raises:
        DataError: rows or labels are missing, of another shape or out of range; begins with `where`.
    """
    rows, labels = batch.get("data"), batch.get(key)
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (3 * SIDE * SIDE,):
        raise DataError(f"{where}: not CIFAR's layout (data is no array of rows of 3072 bytes); fetch it again")
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < classes for label in labels):
        raise DataError(f"{where}: not CIFAR's layout ({key} is no list of numbers from 0 to {classes - 1})")
    if len(rows) != len(labels):
        raise DataError(f"{where}: {len(rows)} images, but {len(labels)} labels; fetch it again")
    return rows.reshape(-1, 3, SIDE, SIDE), np.array(labels, dtype=np.int64)
