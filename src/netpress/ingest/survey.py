"""A first look at a folder of pictures: how many of which class, how large, and which are broken or doubled."""

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from netpress.base import files
from netpress.base.errors import DataError
from netpress.ingest.sources._pictures import decode
from netpress.ingest.sources._tree import Tree
from netpress.ingest.sources.imagefolder import classes_of, split_folders

#: Pixels to which a picture is decoded, to see whether it can be; and pictures that are looked at together.
LOOK, TOGETHER = 16, 64


@dataclass(frozen=True)
class Seen:
    """One picture: what messages call it, its split and class, its shorter side in pixels, its hash, or its fault."""

    shown: str
    split: str
    label: str
    side: int = 0
    sha256: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Survey:
    """All pictures of a folder, and what is to be known of them besides."""

    pictures: list[Seen]
    notes: tuple[str, ...]

    @property
    def good(self) -> list[Seen]:
        """Those that can be used."""
        return [picture for picture in self.pictures if not picture.fault]

    @property
    def bad(self) -> list[Seen]:
        """Those that cannot."""
        return [picture for picture in self.pictures if picture.fault]

    def counts(self, split: str) -> Counter[str]:
        """Return how many usable pictures each class of a split has, 0 of one whose pictures are all broken."""
        counts = Counter(dict.fromkeys(sorted({picture.label for picture in self.pictures}), 0))
        counts.update(picture.label for picture in self.good if picture.split == split)
        return counts

    @property
    def splits(self) -> list[str]:
        """The splits that are there, in the order of training, validation and test."""
        found = {picture.split for picture in self.pictures}
        return [name for name in ("train", "val", "test") if name in found]

    @property
    def doubles(self) -> list[list[Seen]]:
        """Groups of two or more usable pictures whose files are equal."""
        groups: dict[str, list[Seen]] = {}
        for picture in self.good:
            groups.setdefault(picture.sha256, []).append(picture)
        return [group for group in groups.values() if len(group) > 1]

    def side(self, share: float) -> int:
        """Return the shorter side, in pixels, that this share of the usable pictures stays below."""
        sides = sorted(picture.side for picture in self.good)
        return sides[min(len(sides) - 1, int(share * len(sides)))]


def survey(folder: Path, shown: str, progress: Callable[[int, int], None] = lambda done, total: None) -> Survey:
    """Open every picture of `folder`, which messages call `shown`, laid out as the source `imagefolder` takes it.

    `progress` is told how many were looked at, and of how many.

    Raises:
        DataError: no class folders, or a tree that cannot be read; see `imagefolder.read`.
    """
    tree = Tree(folder, shown)
    listed: list[tuple[str, str, Path]] = []
    for split, place in split_folders(tree).items():
        for label in classes_of(tree, place):
            listed += [(split, label, place / label / name) for name in tree.files(place / label)]
    pictures: list[Seen] = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(listed), TOGETHER):
            pictures += pool.map(partial(_look, tree), listed[start : start + TOGETHER])
            progress(len(pictures), len(listed))
    return Survey(pictures, tuple(tree.notes()))


def _look(tree: Tree, picture: tuple[str, str, Path]) -> Seen:
    split, label, path = picture
    shown = tree.show(path)
    try:
        decode(path, LOOK, shown)
        with Image.open(path) as opened:
            side = min(opened.size)
        return Seen(shown, split, label, side, files.sha256_file(path))
    except DataError as error:
        return Seen(shown, split, label, fault=str(error))
