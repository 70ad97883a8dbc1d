"""The images of a source on disk, in the order in which it gives them; in memory only what tells them apart."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from netpress.base.errors import DataError
from netpress.base.files import writing
from netpress.core.dataset import UNLABELLED
from netpress.ingest.pieces import DIGEST, NAMED, Piece, Source, bad_words, spans
from netpress.ingest.splits import Listing, numbered
from netpress.params.items import Data
from netpress.process.progress import ImageProgress

#: The file of perceptual hashes, which take more memory than all else and are wanted late.
NEAR = "near"
NAMES = "names"


@dataclass(frozen=True)
class Spooled:
    """What `spool` has written.

    Attributes:
        path: the pixels of all images, one after the other.
        shape: (H, W, C) of each.
        ready: split, or `UNLABELLED` -> its images without pixels.
        first: split -> place of its first image in the file.
        skipped: how many bad pictures were left out.
    """

    path: Path
    shape: tuple[int, int, int]
    ready: dict[str, Listing]
    first: dict[str, int]
    skipped: int

    def near_hashes(self) -> np.ndarray:
        """Read the perceptual hashes of all images in the order of the file: (N, 4) uint64."""
        return np.fromfile(self.path.with_name(NEAR), np.uint64).reshape(-1, 4)

    def images(self, split: str, index: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of a ready split at the rising positions `index` in pieces (n, H, W, C)."""
        each = int(np.prod(self.shape))
        # Ordinary reads: mapped pages would count as this process's memory.
        with self.path.open("rb") as stream:
            for start, stop in spans(len(self.ready[split].labels), each):
                wanted = index[np.searchsorted(index, start) : np.searchsorted(index, stop)]
                if len(wanted):
                    stream.seek((self.first[split] + start) * each)
                    block = np.frombuffer(stream.read((stop - start) * each), np.uint8)
                    yield block.reshape(-1, *self.shape)[wanted - start]

    def names(self, split: str) -> list[str]:
        """Return the names of the images of a split, in their order."""
        with self.path.with_name(NAMES).open(encoding="utf-8") as lines:
            start = self.first[split]
            chosen = itertools.islice(lines, start, start + len(self.ready[split].labels))
            return [line.rstrip("\n") for line in chosen]


def spool(source: Source, data: Data, folder: Path) -> Spooled:
    """Read `source` once, writing its pixels and names to `folder`.

    Raises:
        DataError: pictures are bad and `data.on_bad_image` is `error`; all are counted, the first `NAMED` named.
        ArtifactError: the disk is full.
    """
    path, names = folder / "pixels", folder / NAMES
    labels, digests = bytearray(), bytearray()
    first: dict[str, int] = {}
    counts: dict[str, int] = {}
    shape: tuple[int, ...] = ()
    bad, shown = 0, list[str]()
    progress = ImageProgress("reading", source.total)
    # `writing` is left last, since closing a file on a full disk is refused too.
    with closing(progress), writing(path), ExitStack() as stack:
        pixels, hashes = (stack.enter_context(p.open("wb")) for p in (path, folder / NEAR))
        listing = stack.enter_context(names.open("w", encoding="utf-8"))
        for name, piece in all_pieces(source):
            first.setdefault(name, len(labels) // 4)
            counts.setdefault(name, 0)
            shown += piece.bad[: NAMED - len(shown)]
            bad += len(piece.bad)
            progress.add(len(piece.labels) + len(piece.bad))
            if bad and data.on_bad_image == "error":
                continue  # only the rest of the bad ones is still wanted
            images = np.ascontiguousarray(piece.images)
            shape, counts[name] = images.shape[1:], counts[name] + len(images)
            labels += np.asarray(piece.labels, dtype=np.int32).tobytes()
            digests += piece.digests
            if len(images):
                pixels.write(images.data)
                hashes.write(piece.near.data)
                listing.writelines(f"{text}\n" for text in piece.names)
    if bad and data.on_bad_image == "error":
        remedy = "Fix or remove them, or set data.on_bad_image: skip"
        raise DataError(f"{bad_words(shown, bad, source.total)}. {remedy}")
    if not labels:
        raise DataError(f"data.root: {data.root} holds no image that can be used; add some")
    content = content_numbers(np.frombuffer(digests, np.uint64).reshape(-1, DIGEST // 8))
    ready = {}
    for name, start in first.items():
        span = slice(start, start + counts[name])
        called = partial(_line, names, start) if names.stat().st_size else numbered
        ready[name] = Listing(np.frombuffer(labels, np.int32)[span], content[span], called)
    return Spooled(path, (shape[0], shape[1], shape[2]), ready, first, bad)


def content_numbers(digests: np.ndarray) -> np.ndarray:
    """Number the different rows of (N, K): (N) whole numbers, equal where the rows are."""
    order = np.lexsort(digests.T)
    new = np.ones(len(order), dtype=bool)
    for start, stop in spans(len(order), digests.itemsize * digests.shape[1]):
        if stop > 1:
            at = max(start, 1)
            new[at:stop] = (digests[order[at:stop]] != digests[order[at - 1 : stop - 1]]).any(axis=1)
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.cumsum(new, dtype=np.int32) - 1
    return numbers


def all_pieces(source: Source) -> Iterator[tuple[str, Piece]]:
    """Yield (split, or `UNLABELLED`, and piece) of a source."""
    for name, pieces in {**source.splits, UNLABELLED: source.unlabelled}.items():
        for piece in pieces:
            yield name, piece


def _line(path: Path, start: int, index: int) -> str:
    """Return the name of an image from the file of names, which is not held in memory."""
    with path.open(encoding="utf-8") as lines:
        return next(itertools.islice(lines, start + index, None)).rstrip("\n")
