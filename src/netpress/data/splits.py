"""Training, validation and test: split off where a source has none, and disjoint by content."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from netpress.base.errors import DataError
from netpress.config import Data

#: Names of the independent streams of random numbers.
VAL, TEST = 0, 1
REMEDY = "set data.on_overlap: drop_from_train to keep such pictures in the later split alone"


@dataclass(frozen=True)
class Split:
    """Images (N, H, W, C) uint8 and their labels (N) int64, counted from 0."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> "Split":
        """Return the images at `index`."""
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Source:
    """What a data source holds: its classes, its ready splits (`train`, perhaps `val`, `test`), skipped files."""

    classes: tuple[str, ...]
    splits: dict[str, Split]
    skipped: tuple[str, ...] = ()


@dataclass
class Findings:
    """Counts of what was found and done.

    duplicates: images that repeat an earlier one of the same split; conflicts: the same picture under two
    labels; overlaps: images that lie in a later split too; dropped: images left out because of that.
    """

    duplicates: int = 0
    conflicts: int = 0
    overlaps: int = 0
    dropped: int = 0
    notes: list[str] = field(default_factory=list)


def separate(source: Source, data: Data) -> tuple[dict[str, Split], Findings]:
    """Return disjoint splits and what was found on the way.

    Pictures of equal content never end in two splits. Test is split off first, then validation, both
    stratified and drawn from `data.split_seed`.

    Raises:
        DataError: ready splits overlap and `data.on_overlap` is `error`; a class is missing in a split.
    """
    found = Findings()
    splits = dict(source.splits)
    hashes = {name: content_hashes(split.images) for name, split in splits.items()}
    _count_repeats(splits, hashes, found)
    _settle_overlaps(splits, hashes, data, found)
    for name, share, stream in (("test", data.test_share, TEST), ("val", data.val_share, VAL)):
        if name not in splits and share > 0:
            rest, off = split_off(splits["train"].labels, hashes["train"], share, [data.split_seed, stream])
            splits[name], splits["train"] = splits["train"].take(off), splits["train"].take(rest)
            hashes[name], hashes["train"] = hashes["train"][off], hashes["train"][rest]
    _require_every_class(splits, source.classes)
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}, found


def content_hashes(images: np.ndarray) -> np.ndarray:
    """Return the sha256 of every image's pixels: (N) of 32 bytes."""
    digests = [hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in images]
    return np.array(digests, dtype="V32")


def split_off(labels: np.ndarray, hashes: np.ndarray, share: float, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Choose `share` of every class, pictures of equal content together.

    Args:
        labels: (N) classes.
        hashes: (N) content hashes.
        share: above 0 and below 1; at least one image of every class that has two different ones.
        seed: names the stream of random numbers.

    Returns:
        Indices of the images that stay and of those split off, both rising.
    """
    rng = np.random.default_rng(seed)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        groups = np.sort(first[labels[first] == label])  # each picture once, in the order of the files
        wanted = min(max(1, round(share * int((labels == label).sum()))), len(groups) - 1)
        taken = 0
        for index in groups[rng.permutation(len(groups))]:
            if taken >= wanted:
                break
            same = group == group[index]
            chosen |= same
            taken += int((same & (labels == label)).sum())
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _count_repeats(splits: dict[str, Split], hashes: dict[str, np.ndarray], found: Findings) -> None:
    for name, split in splits.items():
        unique, group = np.unique(hashes[name], return_inverse=True)
        found.duplicates += len(split) - len(unique)
        lowest = np.full(len(unique), np.iinfo(np.int64).max)
        highest = np.full(len(unique), -1)
        np.minimum.at(lowest, group, split.labels)
        np.maximum.at(highest, group, split.labels)
        found.conflicts += int((lowest != highest).sum())


def _settle_overlaps(splits: dict[str, Split], hashes: dict[str, np.ndarray], data: Data, found: Findings) -> None:
    for name, later in (("val", ("test",)), ("train", ("val", "test"))):
        if name not in splits:
            continue
        again = np.zeros(len(splits[name]), dtype=bool)
        for other in (o for o in later if o in splits):
            both = np.isin(hashes[name], hashes[other])
            if both.any():
                found.notes.append(f"{int(both.sum())} images of {name} are in {other} too")
            again |= both
        found.overlaps += int(again.sum())
        splits[name], hashes[name] = splits[name].take(np.flatnonzero(~again)), hashes[name][~again]
    if found.overlaps and data.on_overlap == "error":
        raise DataError(f"the splits overlap: {'; '.join(found.notes)}; {REMEDY}, or mend the data")
    found.dropped = found.overlaps


def _require_every_class(splits: dict[str, Split], classes: tuple[str, ...]) -> None:
    for name, split in splits.items():
        counts = np.bincount(split.labels, minlength=len(classes))
        if len(counts) > len(classes):
            raise DataError(f"{name}: label {len(counts) - 1} is out of range; there are {len(classes)} classes")
        empty = [classes[k] for k in np.flatnonzero(counts == 0)]
        if empty:
            listed = ", ".join(f"{c} {n}" for c, n in zip(classes, counts, strict=True))
            raise DataError(
                f"{name}: no image of class {', '.join(empty)} (found: {listed}); every class needs at least one "
                "image in every split: add images, or remove the class"
            )
