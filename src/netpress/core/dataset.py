"""The prepared data as the stages read them: arrays that any tool reads with `np.load`, checked against a manifest."""

import csv
import hashlib
import io
import json
import math
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from netpress.base import files
from netpress.base.errors import ArtifactError, ConfigError, DataError
from netpress.params.schema import Strict, parse

#: What the images without a label are called where splits have their names.
UNLABELLED = "unlabelled"
MANIFEST = "manifest.json"
UNLABELLED_IMAGES, UNLABELLED_IDS = f"{UNLABELLED}_images.npy", f"{UNLABELLED}.csv"
#: The column of the ids, as in the course's table of predictions.
ID = "Id"
REMEDY = "run 'dvc repro prepare' to make the data again"
#: Bytes in which the header of an array's file lies.
HEADER = np.lib.format.MAGIC_LEN + 2 + 2**16
#: Bytes of a file that are hashed at once.
PIECE = 2**20


@dataclass(frozen=True)
class Split:
    """Images (N, H, W, C) uint8 and their labels (N) int64, counted from 0."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


class Manifest(Strict):
    """What the prepared data are.

    Attributes:
        source: name of the source.
        classes: names in the order of the labels.
        channels, resolution: shape of an image, (resolution, resolution, channels).
        counts: split -> images of each class.
        mean, std: of each channel over the training images, pixels in 0..1.
        sha256: file -> hash.
        duplicates, conflicts, overlaps, dropped, notes: see `Findings`.
        near_duplicates: images that have a near-duplicate in a later split; `near_duplicates.csv` shows the nearest.
        skipped: bad pictures that were left out.
        unlabelled: images without a label, whose classes are to be predicted.
    """

    source: str
    classes: list[str] = Field(min_length=2)
    channels: int = Field(ge=1)
    resolution: int = Field(ge=1)
    counts: dict[str, list[int]]
    mean: list[float]
    std: list[float]
    sha256: dict[str, str]
    duplicates: int
    conflicts: int
    overlaps: int
    dropped: int
    near_duplicates: int
    skipped: int
    unlabelled: int
    notes: list[str]

    @property
    def data_sha256(self) -> str:
        """Hash of what a network learns from and is judged by: the images of every split, their classes and order."""
        arrays = {f"{name}_{part}.npy" for name in self.counts for part in ("images", "labels")}
        facts = {"classes": self.classes, "arrays": {name: self.sha256.get(name) for name in sorted(arrays)}}
        return files.sha256_bytes(json.dumps(facts, sort_keys=True).encode())

    def has_split(self, name: str) -> bool:
        """Return whether there is a split of this name."""
        return name in self.counts


def load_manifest(folder: Path) -> Manifest:
    """Read the manifest.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    raw = files.read_sealed(folder / MANIFEST, REMEDY)
    try:
        return parse(Manifest, raw, "manifest")
    except ConfigError as error:
        raise ArtifactError(f"{folder / MANIFEST} is damaged ({str(error).splitlines()[0]}); {REMEDY}") from None


def load_split(folder: Path, name: str, manifest: Manifest) -> Split:
    """Read one split and check it against the manifest.

    Raises:
        ArtifactError: a file is missing or is not the one that was written.
    """
    images = read_array(images_file(folder, name, manifest), manifest)
    return Split(images, load_labels(folder, name, manifest))


def load_labels(folder: Path, name: str, manifest: Manifest) -> np.ndarray:
    """Read the labels of a split, (N) int64; raises as `load_split`."""
    return read_array(folder / f"{name}_labels.npy", manifest)


def images_file(folder: Path, name: str, manifest: Manifest) -> Path:
    """Return where the images of a split are.

    Raises:
        ArtifactError: there is no such split.
    """
    if not manifest.has_split(name):
        raise ArtifactError(f"{folder} has no {name} split; {REMEDY}")
    return folder / f"{name}_images.npy"


def open_images(folder: Path, name: str, manifest: Manifest) -> "ArrayFile":
    """Open the images of a split, (N, H, W, C) uint8, and leave them on the disk; raises as `load_split`."""
    path = images_file(folder, name, manifest)
    return ArrayFile(path, manifest.sha256.get(path.name, ""))


def load_unlabelled(folder: Path, manifest: Manifest) -> tuple["ArrayFile", list[str]]:
    """Open the images without a label, (N, H, W, C) uint8, and read their ids.

    Raises:
        DataError: the source has none.
        ArtifactError: a file is missing or is not the one that was written.
    """
    if UNLABELLED_IMAGES not in manifest.sha256:
        raise DataError(f"{manifest.source} has no images without labels; name pictures of your own")
    text = files.read_checked(folder / UNLABELLED_IDS, manifest.sha256[UNLABELLED_IDS], REMEDY).decode("utf-8")
    images = ArrayFile(folder / UNLABELLED_IMAGES, manifest.sha256[UNLABELLED_IMAGES])
    return images, [row[ID] for row in csv.DictReader(io.StringIO(text))]


def read_array(path: Path, manifest: Manifest) -> np.ndarray:
    """Read the array in one of the manifest's files into memory; raises as `load_split`."""
    return array_in(files.read_checked_buffer(path, manifest.sha256.get(path.name, ""), REMEDY))


def array_in(data: bytearray) -> np.ndarray:
    """Return the array that `data`, the content of a file by `write_array`, holds; it stays where it lies."""
    shape, dtype, start = header_in(data[:HEADER])
    return np.frombuffer(data, dtype, offset=start).reshape(shape)


def header_in(data: bytes | bytearray) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return shape and type of the array whose file begins with `data`, and where in the file its values begin."""
    head = io.BytesIO(data)
    np.lib.format.read_magic(head)
    shape, _, dtype = np.lib.format.read_array_header_1_0(head)
    return shape, dtype, head.tell()


class ArrayFile:
    """An array of uint8 in a file by `write_array`, of which `file[index]` reads some rows.

    Memory holds the rows that are asked for and nothing else. They are read, not mapped: pages of a mapped file count
    as this process's memory. The file is the one whose hash was checked, also where another takes its place meanwhile.

    Attributes:
        shape: of the array, such as (N, H, W, C).
    """

    def __init__(self, path: Path, sha256: str) -> None:
        """Open the file and check its hash, in pieces.

        Raises:
            ArtifactError: it is missing, cannot be read, or is not the one that was written.
        """
        self._path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
            self._state = self._stat()
            found = self._sha256()
        except FileNotFoundError:
            raise ArtifactError(f"{path} is missing; {REMEDY}") from None
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read ({error.strerror}); {REMEDY}") from None
        if found != sha256:
            raise ArtifactError(f"{path} is not what was written (its sha256 differs from the one recorded); {REMEDY}")
        self.shape, _, self._start = header_in(os.pread(self._file, HEADER, 0))
        self._row = math.prod(self.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        """Read the rows at `index`, whole numbers (B) from 0 or a slice, in its order: (B, ...).

        Raises:
            ArtifactError: the file was changed since it was checked.
        """
        places = np.arange(*index.indices(len(self))) if isinstance(index, slice) else index
        rows = np.empty((len(places), *self.shape[1:]), np.uint8)
        for start, stop, offset in self._runs(places):
            self._read(rows[start:stop].reshape(-1), offset)
        if self._stat() != self._state:
            raise self._changed()
        return rows

    def expect(self, places: np.ndarray) -> None:
        """Tell the system that the rows at `places` (B) are wanted next: it reads them while others are at work."""
        if hasattr(os, "posix_fadvise"):
            for start, stop, offset in self._runs(places):
                os.posix_fadvise(self._file, offset, (stop - start) * self._row, os.POSIX_FADV_WILLNEED)

    def _runs(self, places: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """Yield (start, stop, where in the file) of the stretches of `places` that lie side by side there."""
        ends = np.flatnonzero(np.diff(places, append=-2) != 1) + 1
        start = 0
        for stop in ends.tolist():
            yield start, stop, self._start + int(places[start]) * self._row
            start = stop

    def _read(self, into: np.ndarray, offset: int) -> None:
        done = 0
        while done < len(into):  # the system may give less than was asked for
            count = os.preadv(self._file, [into[done:].data], offset + done)
            if not count:
                raise self._changed()
            done += count

    def _sha256(self) -> str:
        digest, offset = hashlib.sha256(), 0
        while content := os.pread(self._file, PIECE, offset):
            digest.update(content)
            offset += len(content)
        return digest.hexdigest()

    def _stat(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def _changed(self) -> ArtifactError:
        return ArtifactError(f"{self._path} was changed while it was being read; {REMEDY}")
