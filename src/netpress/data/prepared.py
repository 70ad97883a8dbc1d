"""The prepared data: arrays that any tool reads with `np.load`, and a manifest with their hashes."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from netpress.base import files, plugins
from netpress.base.errors import ArtifactError, ConfigError, DataError
from netpress.base.schema import Strict, parse
from netpress.config import Data
from netpress.data.images import resize_all
from netpress.data.splits import Findings, Source, Split, separate

MANIFEST = "manifest.json"
SPLITS = ("train", "val", "test")
#: Bytes of images looked at in one piece.
PIECE = 2**24
REMEDY = "run 'dvc repro prepare' to make the data anew"


class Manifest(Strict):
    """What the prepared data are.

    Attributes:
        source: name of the source.
        classes: names in the order of the labels.
        channels, resolution: shape of an image, (resolution, resolution, channels).
        counts: split -> images of each class.
        mean, std: of each channel over the training images, pixels in 0..1.
        sha256: file -> hash.
        duplicates, conflicts, overlaps, dropped, skipped: see `Findings`.
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
    skipped: int

    def has_split(self, name: str) -> bool:
        """Return whether there is a split of this name."""
        return name in self.counts


def prepare(root: Path, data: Data, out: Path) -> Manifest:
    """Read the source, check it, split it, and write arrays and manifest to the folder `out`.

    Args:
        root: the project; `data.root` is relative to it.
        data: the section `data` of params.yaml.
        out: gets `{train,val,test}_images.npy` (N, H, W, C) uint8, `_labels.npy` (N) int64 and the manifest.

    Raises:
        DataError: the data are missing or cannot be used; says which file and why.
    """
    folder = root / data.root
    if not folder.exists():
        raise DataError(f"data.root: {data.root} does not exist; put the images there or change data.root")
    source: Source = plugins.load("sources", data.module, "data.source").read(folder, data)
    splits, found = separate(source, data)
    for name in SPLITS:
        for part in ("images", "labels"):
            for stale in (f"{name}_{part}.npy", f".{name}_{part}.npy.aside"):
                (out / stale).unlink(missing_ok=True)
    hashes: dict[str, str] = {}
    for name, split in splits.items():
        resized = resize_all(split.images, data.resolution)
        for part, array in (("images", resized), ("labels", split.labels)):
            hashes[f"{name}_{part}.npy"] = _write_array(out / f"{name}_{part}.npy", array)
        if name == "train":
            mean, std = channel_statistics(resized)
    manifest = _manifest(source, splits, found, data, mean, std, hashes)
    files.write_sealed(out / MANIFEST, manifest.model_dump())
    return manifest


def channel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of (N, H, W, C) uint8, pixels in 0..1, to 6 digits."""
    means, stds = [], []
    for channel in range(images.shape[3]):
        counts = np.zeros(256, np.int64)
        # In pieces, since bincount widens each pixel to 8 bytes.
        for piece in np.array_split(images[..., channel], -(-images.nbytes // PIECE)):
            counts += np.bincount(piece.ravel(), minlength=256)
        levels = counts / counts.sum()
        values = np.arange(256) / 255
        mean = float((levels * values).sum())
        means.append(round(mean, 6))
        stds.append(max(round(float(np.sqrt((levels * (values - mean) ** 2).sum())), 6), 1e-3))
    return means, stds


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


def load_split(folder: Path, name: str) -> Split:
    """Read one split and check it against the manifest.

    Raises:
        ArtifactError: a file is missing or is not the one that was written.
    """
    manifest = load_manifest(folder)
    if not manifest.has_split(name):
        raise ArtifactError(f"{folder} has no {name} split; {REMEDY}")
    images, labels = (_read_array(folder / f"{name}_{part}.npy", manifest) for part in ("images", "labels"))
    return Split(images, labels)


def summary(manifest: Manifest) -> dict[str, int]:
    """Return the counts that are tracked as metrics."""
    counts = {f"{name}_images": sum(per_class) for name, per_class in manifest.counts.items()}
    found = {key: getattr(manifest, key) for key in ("duplicates", "conflicts", "overlaps", "dropped", "skipped")}
    return counts | {"classes": len(manifest.classes)} | found


def _manifest(
    source: Source,
    splits: dict[str, Split],
    found: Findings,
    data: Data,
    mean: list[float],
    std: list[float],
    hashes: dict[str, str],
) -> Manifest:
    classes = len(source.classes)
    facts: dict[str, Any] = {
        "source": data.source,
        "classes": list(source.classes),
        "channels": int(splits["train"].images.shape[3]),
        "resolution": data.resolution,
        "counts": {name: np.bincount(s.labels, minlength=classes).tolist() for name, s in splits.items()},
        "mean": mean,
        "std": std,
        "sha256": hashes,
        "duplicates": found.duplicates,
        "conflicts": found.conflicts,
        "overlaps": found.overlaps,
        "dropped": found.dropped,
        "skipped": len(source.skipped),
    }
    return parse(Manifest, facts, "manifest")


def _write_array(path: Path, array: np.ndarray) -> str:
    """Write aside, flush and rename, without a second copy in memory; return the sha256."""
    aside = path.with_name(f".{path.name}.aside")  # one name, so that the next run takes a stray's place
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        digest = files.sha256_file(aside)
        aside.replace(path)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}; free some space and run again") from None
    finally:
        aside.unlink(missing_ok=True)
    return digest


def _read_array(path: Path, manifest: Manifest) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); {REMEDY}") from None
    if files.sha256_bytes(data) != manifest.sha256.get(path.name):
        raise ArtifactError(f"{path} is not what was written (sha256 differs from the manifest); {REMEDY}")
    array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return array
