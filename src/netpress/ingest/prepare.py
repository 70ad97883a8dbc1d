"""The prepared data: arrays that any tool reads with `np.load`, and a manifest with their hashes."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from netpress.base import files
from netpress.base.errors import DataError
from netpress.core.dataset import ID, MANIFEST, UNLABELLED, UNLABELLED_IDS, UNLABELLED_IMAGES, Manifest
from netpress.ingest.arrays import write_array
from netpress.ingest.near_duplicates import find_twins
from netpress.ingest.pieces import Source
from netpress.ingest.splits import Chosen, separate
from netpress.ingest.spool import Spooled, spool
from netpress.params import plugins
from netpress.params.items import Data
from netpress.params.schema import parse

NEAR_DUPLICATES = "near_duplicates.csv"
NEAR_COLUMNS = ("split", "index", "later_split", "later_index", "distance")
#: Below this many validation images an accuracy is uncertain by more than five points.
FEW_IMAGES = 384


def prepare(root: Path, data: Data, out: Path) -> Manifest:
    """Read the source, check it, split it, and write arrays, manifest and the list of near-duplicates to `out`.

    Memory does not grow with the pictures but by some tens of bytes for each (a file of Fashion-MNIST or CIFAR is held
    whole). All is written aside first, beside `out`,
    and takes twice the disk of the result; until it is whole, `out` stays as it was.

    Args:
        root: the project; `data.root` is relative to it.
        data: the section `data` of params.yaml.
        out: gets `{train,val,test}_images.npy` (N, H, W, C) uint8, `_labels.npy` (N) int64, `near_duplicates.csv`
            and the manifest; with images without labels also `unlabelled_images.npy` and their ids, `unlabelled.csv`.

    Raises:
        DataError: the data are missing or cannot be used; says which file and why.
        ArtifactError: the result cannot be written.
    """
    place, out = root / data.root, out.resolve()
    if not place.exists():
        raise DataError(f"data.root: {data.root} does not exist; put the images there or change data.root")
    module = plugins.load("ingest/sources", data.module, "data.source")
    with files.aside_folder(out) as aside:
        source: Source = module.read(place, data, aside / "unpacked")
        spooled = spool(source, data, aside)
        ready = {name: listing for name, listing in spooled.ready.items() if name != UNLABELLED}
        splits, found = separate(ready, source.classes, data)
        found.notes[:0] = source.notes
        new = aside / "new"
        with files.writing(new):
            new.mkdir()
        hashes, statistics = _write_splits(new, spooled, splits)
        hashes |= _write_unlabelled(new, spooled)
        near_count, pairs = find_twins(
            spooled.near_hashes(), {name: spooled.first[split.ready] + split.index for name, split in splits.items()}
        )
        rows = [dict(zip(NEAR_COLUMNS, pair, strict=True)) for pair in pairs]
        files.write_csv(new / NEAR_DUPLICATES, rows, NEAR_COLUMNS)
        hashes[NEAR_DUPLICATES] = files.sha256_file(new / NEAR_DUPLICATES)
        facts: dict[str, Any] = {
            "source": data.source,
            "classes": list(source.classes),
            "channels": spooled.shape[2],
            "resolution": data.resolution,
            "counts": {n: np.bincount(s.labels, minlength=len(source.classes)).tolist() for n, s in splits.items()},
            "mean": statistics[0],
            "std": statistics[1],
            "sha256": hashes,
            "near_duplicates": near_count,
            "skipped": spooled.skipped,
            "unlabelled": len(spooled.ready[UNLABELLED].labels) if UNLABELLED in spooled.ready else 0,
        }
        manifest = parse(Manifest, facts | dataclasses.asdict(found), "manifest")
        files.write_sealed(new / MANIFEST, manifest.model_dump())
        files.swap(new, out, aside)
    return manifest


def _write_splits(
    folder: Path, spooled: Spooled, splits: dict[str, Chosen]
) -> tuple[dict[str, str], tuple[list[float], list[float]]]:
    """Write the arrays; return file -> sha256, and mean and deviation of each channel of the training images."""
    hashes = {}
    levels = np.zeros((spooled.shape[2], 256), np.int64)
    for name, split in splits.items():
        images = spooled.images(split.ready, split.index)
        if name == "train":
            images = _counting(images, levels)
        file = f"{name}_images.npy"
        hashes[file] = write_array(folder / file, (len(split), *spooled.shape), "uint8", images)
        file = f"{name}_labels.npy"
        hashes[file] = write_array(folder / file, (len(split),), "int64", [split.labels])
    return hashes, channel_statistics(levels)


def _write_unlabelled(folder: Path, spooled: Spooled) -> dict[str, str]:
    """Write the images without a label and their ids, the names of their files; return file -> sha256."""
    if UNLABELLED not in spooled.ready:
        return {}
    count = len(spooled.ready[UNLABELLED].labels)
    images = spooled.images(UNLABELLED, np.arange(count))
    ids = [{ID: PurePosixPath(name).stem} for name in spooled.names(UNLABELLED)]
    files.write_csv(folder / UNLABELLED_IDS, ids, [ID])
    return {
        UNLABELLED_IMAGES: write_array(folder / UNLABELLED_IMAGES, (count, *spooled.shape), "uint8", images),
        UNLABELLED_IDS: files.sha256_file(folder / UNLABELLED_IDS),
    }


def _counting(pieces: Iterator[np.ndarray], levels: np.ndarray) -> Iterator[np.ndarray]:
    """Pass pieces (n, H, W, C) uint8 on and add the pixels of each level to `levels` (C, 256)."""
    for piece in pieces:
        for channel in range(len(levels)):
            # bincount widens each pixel to 8 bytes.
            for part in np.array_split(piece[..., channel].ravel(), 8):
                levels[channel] += np.bincount(part, minlength=256)
        yield piece


def channel_statistics(levels: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, pixels in 0..1, to 6 digits.

    `levels` (C, 256) counts the pixels of each level.
    """
    means, stds = [], []
    values = np.arange(256) / 255
    for counts in levels:
        shares = counts / counts.sum()
        mean = float((shares * values).sum())
        means.append(round(mean, 6))
        stds.append(max(round(float(np.sqrt((shares * (values - mean) ** 2).sum())), 6), 1e-3))
    return means, stds


def summary(manifest: Manifest) -> dict[str, Any]:
    """Return what is tracked as metrics: counts, and the names of the classes."""
    counts = {f"{name}_images": sum(per_class) for name, per_class in manifest.counts.items()}
    found = ("duplicates", "conflicts", "overlaps", "dropped", "near_duplicates", "skipped", "unlabelled")
    counts |= {"classes": len(manifest.classes)} | {key: getattr(manifest, key) for key in found}
    return counts | {"class_names": list(manifest.classes)}


def doubts(manifest: Manifest) -> list[str]:
    """Return what the data do not suffice for: a line where the validation images are few."""
    count = sum(manifest.counts["val"])
    if count >= FEW_IMAGES:
        return []
    points = 100 * 1.96 * (0.25 / count) ** 0.5
    return [
        f"warning: {count} validation images: an accuracy of 50 % is uncertain by {points:.0f} points either way "
        "(95 %); more pictures, or a larger data.val_share, tell more"
    ]
