"""Training, validation and test: split off where a source has none, and disjoint by content."""

from collections.abc import Callable, Container
from dataclasses import dataclass, field

import numpy as np

from netpress.base.errors import DataError
from netpress.params.items import Data

#: Names of the independent streams of random numbers.
VAL, TEST = 0, 1
REMEDY = "set data.on_overlap: drop_from_train to keep such pictures in the later split alone"
#: Files named for one finding.
NAMED = 3


def numbered(index: int) -> str:
    """Name an image that has no file of its own."""
    return f"image {index}"


@dataclass(frozen=True)
class Listing:
    """The images of one ready split without their pixels.

    Attributes:
        labels: (N) whole numbers, counted from 0.
        content: (N) numbers of contents from 0, equal where the pixels are, in all splits of a source.
        name: from the index of an image to what a message calls it.
    """

    labels: np.ndarray
    content: np.ndarray
    name: Callable[[int], str] = numbered


@dataclass(frozen=True)
class Chosen:
    """Images of one final split: the ready split that holds them, their rising indices in it (N), and labels (N)."""

    ready: str
    index: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.index)


@dataclass
class Findings:
    """Counts of what was found and done.

    duplicates: images that repeat an earlier one of the same split; conflicts: the same picture under two
    labels; overlaps: images that lie in a later split too; dropped: images left out because of that; notes: the
    first files of each of these, by name.
    """

    duplicates: int = 0
    conflicts: int = 0
    overlaps: int = 0
    dropped: int = 0
    notes: list[str] = field(default_factory=list)


def separate(ready: dict[str, Listing], classes: tuple[str, ...], data: Data) -> tuple[dict[str, Chosen], Findings]:
    """Return disjoint splits, in the order train, val, test, and what was found on the way.

    Pictures of equal content never end in two splits. Test is split off first, then validation, both
    stratified and drawn from `data.split_seed`.

    Raises:
        DataError: ready splits overlap and `data.on_overlap` is `error`; a class is missing in a split.
    """
    found = Findings()
    for name, listing in ready.items():
        _count_repeats(name, listing, found)
    kept = _settle_overlaps(ready, data, found)
    splits = {name: Chosen(name, index, ready[name].labels[index]) for name, index in kept.items()}
    for name, share, stream in (("test", data.test_share, TEST), ("val", data.val_share, VAL)):
        if name not in splits and share > 0:
            index, content = splits["train"].index, ready["train"].content
            parts = split_off(splits["train"].labels, content[index], share, [data.split_seed, stream])
            for part, chosen in zip(("train", name), parts, strict=True):
                splits[part] = Chosen("train", index[chosen], ready["train"].labels[index[chosen]])
    _require_every_class(splits, classes, ready)
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}, found


def split_off(labels: np.ndarray, content: np.ndarray, share: float, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Choose `share` of every class, pictures of equal content together.

    Args:
        labels: (N) classes.
        content: (N) whole numbers from 0, equal where the pixels are.
        share: above 0 and below 1; at least one image of every class that has two different ones.
        seed: names the stream of random numbers.

    Returns:
        Indices of the images that stay and of those split off, both rising.
    """
    rng = np.random.default_rng(seed)
    first = _first_places(content)
    members = np.argsort(content, kind="stable")  # images of one content lie together
    ends = np.cumsum(np.bincount(content))
    once = first[content] == np.arange(len(content))  # each picture once
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        groups = np.flatnonzero(once & (labels == label))  # in the order of the files
        wanted = min(max(1, round(share * int((labels == label).sum()))), len(groups) - 1)
        taken = 0
        for index in groups[rng.permutation(len(groups))]:
            if taken >= wanted:
                break
            number = content[index]
            same = members[ends[number - 1] if number else 0 : ends[number]]
            chosen[same] = True
            taken += int((labels[same] == label).sum())
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _count_repeats(name: str, listing: Listing, found: Findings) -> None:
    content = listing.content
    first = _first_places(content)
    repeats = np.flatnonzero(first[content] != np.arange(len(content)))
    found.duplicates += len(repeats)
    if len(repeats):
        pairs = [f"{listing.name(k)} is {listing.name(int(first[content[k]]))}" for k in repeats[:NAMED].tolist()]
        found.notes.append(f"{len(repeats)} images of {name} repeat others of it ({_and_more(pairs, len(repeats))})")
    # A picture of several labels is one that has another label than its first place.
    conflicts = np.unique(content[repeats[listing.labels[repeats] != listing.labels[first[content[repeats]]]]])
    found.conflicts += len(conflicts)
    if len(conflicts):
        names = [listing.name(k) for k in np.sort(first[conflicts])[:NAMED].tolist()]
        text = f"{len(conflicts)} pictures of {name} stand under several labels"
        found.notes.append(f"{text} ({_and_more(names, len(conflicts))})")


def _first_places(content: np.ndarray) -> np.ndarray:
    """Return for each number in `content` the first index that has it; without sorting, which takes more memory."""
    first = np.zeros(int(content.max(initial=-1)) + 1, np.int32)
    first[content[::-1]] = np.arange(len(content) - 1, -1, -1, dtype=np.int32)  # the last one written stays
    return first


def _settle_overlaps(ready: dict[str, Listing], data: Data, found: Findings) -> dict[str, np.ndarray]:
    """Return for each ready split the indices of the images that no later split holds."""
    kept = {name: np.arange(len(listing.labels), dtype=np.int32) for name, listing in ready.items()}
    notes = []
    for name, later in (("val", ("test",)), ("train", ("val", "test"))):
        if name not in ready:
            continue
        again = np.zeros(len(kept[name]), dtype=bool)
        for other in (o for o in later if o in ready):
            theirs = ready[other].content[kept[other]]
            both = np.isin(ready[name].content, theirs)
            if both.any():
                pairs = [
                    f"{ready[name].name(k)} is {ready[other].name(_place(ready[other], ready[name].content[k]))}"
                    for k in np.flatnonzero(both)[:NAMED].tolist()
                ]
                count = int(both.sum())
                notes.append(f"{count} images of {name} are in {other} too ({_and_more(pairs, count)})")
            again |= both
        found.overlaps += int(again.sum())
        kept[name] = kept[name][~again]
    if found.overlaps and data.on_overlap == "error":
        raise DataError(f"the splits overlap: {'; '.join(notes)}; {REMEDY}, or remove them from one of the splits")
    found.notes += notes
    found.dropped = found.overlaps
    return kept


def _place(listing: Listing, content: int) -> int:
    return int(np.argmax(listing.content == content))


def _and_more(names: list[str], count: int) -> str:
    return ", ".join(names) + (f" and {count - len(names)} more" if count > len(names) else "")


def _require_every_class(splits: dict[str, Chosen], classes: tuple[str, ...], ready: Container[str]) -> None:
    for name, split in splits.items():
        counts = np.bincount(split.labels, minlength=len(classes))
        if len(counts) > len(classes):
            raise DataError(f"{name}: label {len(counts) - 1} is out of range; there are {len(classes)} classes")
        empty = [classes[k] for k in np.flatnonzero(counts == 0)]
        if empty:
            listed = ", ".join(f"{c} {n}" for c, n in zip(classes, counts, strict=True))
            how = "add images of it there, or remove the class"
            if name not in ready:
                how = (
                    f"it is drawn from train (data.{name}_share in params.yaml), where a class needs different images "
                    f"for every split: add some, remove the class, or bring a {name} split of your own"
                )
            text = f"{name}: no image of class {', '.join(empty)} (found: {listed}), and every split needs each class"
            raise DataError(f"{text}; {how}")
