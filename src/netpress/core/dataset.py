"""The prepared data as the stages read them: arrays that any tool reads with `np.load`, checked against a manifest."""

import csv
import io
import json
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
    if not manifest.has_split(name):
        raise ArtifactError(f"{folder} has no {name} split; {REMEDY}")
    images, labels = (_read_array(folder / f"{name}_{part}.npy", manifest) for part in ("images", "labels"))
    return Split(images, labels)


def load_unlabelled(folder: Path, manifest: Manifest) -> tuple[np.ndarray, list[str]]:
    """Read the images without a label, (N, H, W, C) uint8, and their ids.

    Raises:
        DataError: the source has none.
        ArtifactError: a file is missing or is not the one that was written.
    """
    if UNLABELLED_IMAGES not in manifest.sha256:
        raise DataError(f"{manifest.source} has no images without labels; name pictures of your own")
    text = files.read_checked(folder / UNLABELLED_IDS, manifest.sha256[UNLABELLED_IDS], REMEDY).decode("utf-8")
    return _read_array(folder / UNLABELLED_IMAGES, manifest), [row[ID] for row in csv.DictReader(io.StringIO(text))]


def _read_array(path: Path, manifest: Manifest) -> np.ndarray:
    return array_in(files.read_checked_buffer(path, manifest.sha256.get(path.name, ""), REMEDY))


def array_in(data: bytearray) -> np.ndarray:
    """Return the array that `data`, the content of a file by `write_array`, holds; it stays where it lies."""
    head = io.BytesIO(data[: np.lib.format.MAGIC_LEN + 2 + 2**16])
    np.lib.format.read_magic(head)
    shape, _, dtype = np.lib.format.read_array_header_1_0(head)
    return np.frombuffer(data, dtype, offset=head.tell()).reshape(shape)
