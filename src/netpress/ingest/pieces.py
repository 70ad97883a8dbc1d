"""What a data source gives: classes, and labelled images in pieces, so that memory does not grow with the data."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

#: Bytes of images in one piece, at most, unless a single image has more.
PIECE = 2**20
#: Bytes of the sha256 that are kept: equal by chance once in 2**64 for four thousand million pictures.
DIGEST = 16
#: Bad images named in one message.
NAMED = 20


@dataclass(frozen=True)
class Piece:
    """Some images of one split.

    Attributes:
        images: (N, resolution, resolution, C) uint8.
        labels: (N) whole numbers, counted from 0.
        names: of the images' files; empty where they have none of their own.
        bad: what is wrong with pictures that belong here and cannot be used, one line each.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()

    @cached_property
    def digests(self) -> bytes:
        """`DIGEST` bytes of the sha256 of each image's pixels, joined."""
        images = np.ascontiguousarray(self.images)
        return b"".join(hashlib.sha256(image.data).digest()[:DIGEST] for image in images)

    @cached_property
    def near(self) -> np.ndarray:
        """The perceptual hashes, (N, 4) uint64."""
        from netpress.ingest.near_duplicates import difference_hashes  # which cuts its work by `spans`

        return difference_hashes(self.images)

    def hashed(self) -> "Piece":
        """Return the piece with its hashes computed, so that nobody else has to."""
        if len(self.images):
            _ = self.digests, self.near
        return self


@dataclass(frozen=True)
class Source:
    """A data source.

    Attributes:
        classes: names in the order of the labels.
        splits: the ready ones, `train` and perhaps `val` and `test`.
        total: how many images there are in all.
        unlabelled: images without a label, whose classes are to be predicted.
        notes: what a user should know about the data.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Iterable[Piece]]
    total: int
    unlabelled: Iterable[Piece] = ()
    notes: tuple[str, ...] = ()


def spans(count: int, bytes_each: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the pieces of `count` images of `bytes_each`, in order."""
    step = max(1, PIECE // max(1, bytes_each))
    for start in range(0, count, step):
        yield start, min(start + step, count)


def bad_words(shown: Sequence[str], bad: int, total: int) -> str:
    """Say that `bad` of `total` pictures cannot be used; of their lines in `shown` the first `NAMED`."""
    more = f"; and {bad - NAMED} more" if bad > NAMED else ""
    return f"{bad} of {total} pictures cannot be used: {'; '.join(shown[:NAMED])}{more}"
