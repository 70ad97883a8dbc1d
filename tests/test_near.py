"""Near-duplicates: the hash survives what leaves a picture the same, and the search finds every pair."""

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from netpress.ingest.near_duplicates import DISTANCE, LEAST_BITS, difference_hashes, find_twins, near_pairs


def scene(seed, size=64, channels=3):
    """A made-up picture: smooth shapes of a few sizes, as photographs have."""
    rng = np.random.default_rng(seed)
    layers = []
    for cells, weight in ((3, 1.0), (6, 0.7), (14, 0.4)):
        grid = Image.fromarray(rng.integers(0, 256, (cells, cells, channels), np.uint8).squeeze())
        layers.append(weight * np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), np.float64))
    return np.clip(sum(layers) / 2.1, 0, 255).astype(np.uint8).reshape(size, size, channels)


def jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image.squeeze()).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).reshape(image.shape)


def distance(one, other):
    return int(np.bitwise_count(difference_hashes(one[None]) ^ difference_hashes(other[None])).sum())


@given(seed=st.integers(0, 10**6), size=st.sampled_from([16, 28, 33, 64]), channels=st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_copies_are_near_and_other_pictures_are_not(seed, size, channels):
    picture = scene(seed, size, channels)
    assert distance(picture, picture.copy()) == 0
    brighter = np.clip(picture * 1.05, 0, 255).astype(np.uint8)
    assert distance(picture, brighter) <= DISTANCE
    assert distance(picture, scene(seed + 1, size, channels)) > 3 * DISTANCE


def test_most_compressed_copies_are_found():
    pictures = [scene(seed) for seed in range(100)]
    assert sum(distance(p, jpeg(p, 85)) <= DISTANCE for p in pictures) >= 95


def test_hashes_do_not_depend_on_the_company():
    pictures = np.stack([scene(seed) for seed in range(9)])
    alone = np.concatenate([difference_hashes(p[None]) for p in pictures])
    assert np.array_equal(difference_hashes(pictures), alone)
    assert difference_hashes(pictures[:0]).shape == (0, 4)


def brute_force(hashes, earlier, later):
    found = {}
    for i in earlier:
        for j in later:
            if min(int(np.bitwise_count(hashes[k]).sum()) for k in (i, j)) >= LEAST_BITS:
                found[int(i), int(j)] = int(np.bitwise_count(hashes[i] ^ hashes[j]).sum())
    return {pair: d for pair, d in found.items() if d <= DISTANCE}


@given(seed=st.integers(0, 10**6), count=st.integers(0, 40), centres=st.integers(1, 6), flips=st.integers(0, 14))
@settings(max_examples=80, deadline=None)
def test_banding_finds_what_comparing_all_with_all_finds(seed, count, centres, flips):
    rng = np.random.default_rng(seed)
    bits = rng.random((centres, 256)) < rng.choice([0.05, 0.1, 0.5])
    bits = bits[rng.integers(0, centres, count)]
    for row in bits:  # up to `flips` bits changed, so that distances lie about the limit
        row[rng.integers(0, 256, rng.integers(0, flips + 1))] ^= True
    hashes = np.packbits(bits, axis=1).view(np.uint64).reshape(-1, 4)
    rows = rng.permutation(count)
    earlier, later = np.sort(rows[: count // 2]), np.sort(rows[count // 2 :])
    found = [
        ((int(i), int(j)), int(d))
        for pairs in near_pairs(hashes, earlier, later)
        for i, j, d in zip(pairs.earlier, pairs.later, pairs.distance, strict=True)
    ]
    assert len(found) == len(dict(found)), "a pair came twice"
    assert dict(found) == brute_force(hashes, earlier, later)


def test_twins_are_counted_once_and_the_nearest_come_first():
    a, b, c = (scene(seed) for seed in range(3))
    images = np.stack([a, b, c, jpeg(a, 90), jpeg(a, 60), np.zeros_like(a), np.zeros_like(a), jpeg(c, 95)])
    hashes = difference_hashes(images)
    splits = {"train": np.array([0, 1, 5]), "val": np.array([2, 3]), "test": np.array([4, 6, 7])}
    count, shown = find_twins(hashes, splits)
    pairs = {row[:4] for row in shown}
    assert {("train", 0, "val", 1), ("val", 0, "test", 2)} <= pairs
    assert count == len({row[:2] for row in shown})
    assert all("train" not in row[:1] or row[1] == 0 for row in shown), "black pictures are no twins"
    assert [row[4] for row in shown] == sorted(row[4] for row in shown)
