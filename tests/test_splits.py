"""Splits: stratified, seeded, whole, and disjoint by content."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.base.errors import DataError
from netpress.config import Data
from netpress.data.splits import Source, Split, content_hashes, separate, split_off

DATA = Data(
    source="imagefolder",
    root="x",
    resolution=28,
    val_share=0.2,
    test_share=0.0,
    split_seed=0,
    on_overlap="drop_from_train",
    on_bad_image="error",
)


def pictures(values):
    """One 4x4 picture a value; equal values are equal pictures."""
    return np.stack([np.full((4, 4, 1), value, np.uint8) for value in values])


def split(values, labels):
    return Split(pictures(values), np.array(labels, dtype=np.int64))


def contents(part):
    return {bytes(h) for h in content_hashes(part.images)}


@given(
    labels=st.lists(st.integers(0, 2), min_size=12, max_size=120),
    repeats=st.integers(1, 3),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 99),
)
@settings(max_examples=100)
def test_split_off_is_a_stratified_partition_disjoint_by_content(labels, repeats, share, seed):
    labels = np.array(labels)
    values = np.arange(len(labels)) // repeats  # runs of equal pictures
    labels = labels[values * repeats]  # which have one label
    hashes = content_hashes(pictures(values % 256))
    rest, off = split_off(labels, hashes, share, [seed, 0])
    assert sorted([*rest, *off]) == list(range(len(labels)))
    assert not {bytes(h) for h in hashes[rest]} & {bytes(h) for h in hashes[off]}
    again = split_off(labels, hashes, share, [seed, 0])
    assert np.array_equal(off, again[1])
    for label in np.unique(labels):
        wanted = max(1, round(share * (labels == label).sum()))
        assert (labels[off] == label).sum() <= wanted + repeats - 1
        assert (labels[rest] == label).any()


def test_shares_are_exact_without_repeats_and_depend_on_the_seed():
    labels = np.repeat([0, 1], [60, 40])
    hashes = content_hashes(pictures(range(100)))
    _, off = split_off(labels, hashes, 0.25, [0, 0])
    assert np.bincount(labels[off]).tolist() == [15, 10]
    assert not np.array_equal(off, split_off(labels, hashes, 0.25, [1, 0])[1])


def source(**splits):
    return Source(("a", "b"), splits)


def test_val_and_test_are_split_off_where_the_source_has_none():
    whole = split(range(100), [k % 2 for k in range(100)])
    splits, _ = separate(source(train=whole), DATA.model_copy(update={"test_share": 0.1}))
    assert {name: len(part) for name, part in splits.items()} == {"train": 72, "val": 18, "test": 10}
    sets = [contents(part) for part in splits.values()]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]


def test_ready_splits_stay_as_they_are():
    ready = source(train=split([1, 2, 3], [0, 1, 0]), val=split([4, 5], [0, 1]), test=split([6, 7], [1, 0]))
    splits, found = separate(ready, DATA)
    assert [len(part) for part in splits.values()] == [3, 2, 2]
    assert (found.duplicates, found.conflicts, found.overlaps, found.dropped) == (0, 0, 0, 0)


def test_without_a_test_split_there_is_none():
    splits, _ = separate(source(train=split(range(20), [k % 2 for k in range(20)])), DATA)
    assert set(splits) == {"train", "val"}


OVERLAPPING = {
    "train": split([1, 2, 3, 4, 9], [0, 1, 0, 1, 1]),
    "val": split([3, 5, 7], [0, 1, 0]),
    "test": split([4, 7, 8], [1, 0, 1]),
}


def test_overlaps_are_dropped_from_the_earlier_split():
    splits, found = separate(source(**OVERLAPPING), DATA)
    assert found.overlaps == found.dropped == 3
    assert splits["train"].images[:, 0, 0, 0].tolist() == [1, 2, 9]
    assert splits["val"].images[:, 0, 0, 0].tolist() == [3, 5]
    assert splits["test"].images[:, 0, 0, 0].tolist() == [4, 7, 8]


def test_overlaps_are_an_error_where_asked():
    with pytest.raises(DataError, match="1 images of val are in test too; 1 images of train are in val too"):
        separate(source(**OVERLAPPING), DATA.model_copy(update={"on_overlap": "error"}))


def test_repeats_and_conflicts_are_counted():
    ready = source(train=split([1, 1, 1, 2, 3, 3], [0, 0, 0, 1, 0, 1]), val=split([4, 5], [0, 1]))
    _, found = separate(ready, DATA)
    assert (found.duplicates, found.conflicts) == (3, 1)


def test_a_class_missing_in_a_split_is_named_with_the_counts():
    ready = source(train=split([1, 2, 3], [0, 1, 0]), val=split([4], [0]))
    with pytest.raises(DataError, match=r"val: no image of class b \(found: a 1, b 0\)"):
        separate(ready, DATA)


def test_a_class_of_one_picture_cannot_be_split():
    with pytest.raises(DataError, match="no image of class b"):
        separate(source(train=split([1, 2, 3, 4, 9], [0, 0, 0, 0, 1])), DATA)


def test_a_label_out_of_range_is_an_error():
    ready = source(train=split([1, 2, 3], [0, 1, 2]), val=split([4, 5], [0, 1]))
    with pytest.raises(DataError, match="label 2 is out of range; there are 2 classes"):
        separate(ready, DATA)
