"""Near-duplicates: pictures of different pixels that show the same, found by a perceptual hash.

The hash is the difference hash in both directions (Krawetz, "Kind of Like That", hackerfactor.com, 2013): the picture
is averaged to 12x12 grey cells, and each bit says whether a cell is brighter than its neighbour to the left (121 bits)
or above it (121 bits). Compression, brightness and contrast change few of the bits. It is a hint for a person who
looks: silhouettes on an empty ground, such as Fashion-MNIST's trousers, can agree without being copies.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from netpress.ingest.pieces import PIECE, spans

#: Cells on a side. With 9, as Krawetz has it, a hundred times as many pairs of Fashion-MNIST's trousers are twins.
GRID = 12
#: Parts of red, green and blue in the light of a pixel, as in JPEG, which keeps that better than colour.
LIGHT = (299, 587, 114)
#: Grey levels by which a cell must be brighter: below, the noise of compression would decide.
MARGIN = 2.0
#: Most bits of 242 in which near-duplicates differ. Chosen by looking at pairs: of 1,300 photographs every copy saved
#: as JPEG of quality 75 to 95 is within it, and among 44 million pairs of photographs none that differs to the eye.
DISTANCE = 7
#: A picture with fewer bits set is too flat to be told from others, and is not compared.
LEAST_BITS = 24
#: One band more than bits that may differ: two near hashes agree in at least one band of 32 bits.
BANDS = DISTANCE + 1
#: Pairs compared at once, and hashes made ready at once.
CHUNK = 2**16
#: Pairs kept for the report.
SHOWN = 100


@dataclass(frozen=True)
class Pairs:
    """Rows of the table of hashes in the earlier and in the later split, and how many bits differ; (N) each."""

    earlier: np.ndarray
    later: np.ndarray
    distance: np.ndarray


def difference_hashes(images: np.ndarray) -> np.ndarray:
    """Return the hashes of images (N, H, W, C) uint8, H and W at least 12: (N, 4) uint64."""
    count, height, width, channels = images.shape
    rows, columns = (np.arange(GRID) * side // GRID for side in (height, width))
    sums = np.add.reduceat(images, rows, axis=1, dtype=np.uint32)  # (N, 12, W, C)
    sums = np.add.reduceat(sums, columns, axis=2)  # (N, 12, 12, C)
    # Whole numbers, so that the result does not depend on the order of sums.
    light = (sums * np.array(LIGHT if channels == 3 else (1,) * channels, np.int64)).sum(axis=3)  # (N, 12, 12)
    tall, wide = np.diff(rows, append=height), np.diff(columns, append=width)
    cells = light / (tall[:, None] * wide * (sum(LIGHT) if channels == 3 else channels))
    right = cells[:, 1:, 1:] - cells[:, 1:, :-1] > MARGIN  # (N, 11, 11)
    down = cells[:, 1:, 1:] - cells[:, :-1, 1:] > MARGIN
    bits = np.zeros((count, 256), dtype=bool)
    bits[:, :242] = np.stack([right, down], axis=3).reshape(count, 242)
    # Each band takes every eighth bit: a band of neighbours could hold nothing but the border, where many agree.
    mixed = bits.reshape(count, 256 // BANDS, BANDS).transpose(0, 2, 1).reshape(count, 256)
    return np.packbits(mixed, axis=1).view(np.uint64)


def near_pairs(hashes: np.ndarray, earlier: np.ndarray, later: np.ndarray) -> Iterator[Pairs]:
    """Yield all pairs of an earlier and a later row of `hashes` that differ in at most `DISTANCE` bits, each pair once.

    Hashes are joined where a band is equal, so that none is missed and few others are compared (Norouzi et al., "Fast
    Exact Search in Hamming Space With Multi-Index Hashing", https://arxiv.org/abs/1307.2982).

    Args:
        hashes: (K, 4) uint64.
        earlier, later: rows of `hashes`, (N) and (M).
    """
    earlier, later = _structured(hashes, earlier), _structured(hashes, later)
    bands = hashes.view(np.uint32)  # (K, 8)
    for band in range(BANDS):
        keys = bands[later, band]
        order = np.argsort(keys, kind="stable")
        keys, candidates = keys[order], later[order]
        for start, stop in spans(len(earlier), PIECE // CHUNK):
            some = earlier[start:stop]
            wanted = bands[some, band]
            first, last = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
            for left, position in _joined(first, last):
                yield _close(hashes, some[left], candidates[position], band)


def _structured(hashes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return those of `rows` whose hashes are not too flat."""
    enough = np.zeros(len(rows), dtype=bool)
    for start, stop in spans(len(rows), PIECE // CHUNK):
        enough[start:stop] = np.bitwise_count(hashes[rows[start:stop]]).sum(axis=1, dtype=np.uint16) >= LEAST_BITS
    return rows[enough]


def _joined(first: np.ndarray, last: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield k and each position in first[k]..last[k], for all k, about `CHUNK` at once."""
    ends = np.cumsum(last - first)
    start = 0
    while start < len(first):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + CHUNK, "right")))
        lengths = (last - first)[start:stop]
        left = np.repeat(np.arange(start, stop), lengths)
        within = np.arange(len(left)) - np.repeat(ends[start:stop] - lengths - done, lengths)
        if len(left):
            yield left, first[left] + within
        start = stop


def _close(hashes: np.ndarray, left: np.ndarray, right: np.ndarray, band: int) -> Pairs:
    """Keep the pairs within the distance that no band before `band` has found."""
    differs = hashes[left] ^ hashes[right]
    distance = np.bitwise_count(differs).sum(axis=1, dtype=np.int64)
    keep = np.flatnonzero(distance <= DISTANCE)
    keep = keep[(differs.view(np.uint32)[keep, :band] != 0).all(axis=1)]
    return Pairs(left[keep], right[keep], distance[keep])


def find_twins(hashes: np.ndarray, splits: dict[str, np.ndarray]) -> tuple[int, list[tuple[str, int, str, int, int]]]:
    """Compare every split with the later ones.

    Args:
        hashes: of all images, (K, 4) uint64.
        splits: name -> its rows of `hashes`, rising; earlier splits first.

    Returns:
        How many images have a near-duplicate in a later split, and the `SHOWN` nearest pairs as (split, index, later
        split, index, distance), nearest first.
    """
    names, count = list(splits), 0
    shown: list[tuple[int, int, int, int, int]] = []
    for k, name in enumerate(names):
        has_twin = np.zeros(len(splits[name]), dtype=bool)
        for other in names[k + 1 :]:
            for pairs in near_pairs(hashes, splits[name], splits[other]):
                ours = np.searchsorted(splits[name], pairs.earlier)
                theirs = np.searchsorted(splits[other], pairs.later)
                has_twin[ours] = True
                nearest = np.lexsort((theirs, ours, pairs.distance))[:SHOWN]
                columns = (c[nearest].tolist() for c in (pairs.distance, ours, theirs))
                shown += [(d, k, i, names.index(other), j) for d, i, j in zip(*columns, strict=True)]
                shown = sorted(shown)[:SHOWN]
        count += int(has_twin.sum())
    return count, [(names[a], i, names[b], j, d) for d, a, i, b, j in shown]
