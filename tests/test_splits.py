"""Splits: stratified, seeded, whole, and disjoint by content."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.base.errors import DataError
from netpress.ingest.splits import Listing, separate, split_off
from netpress.params.items import Data

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


def split(values, labels, **changes):
    """A ready split: equal values are equal pictures."""
    return Listing(np.array(labels, dtype=np.int32), np.array(values, dtype=np.int32), **changes)


def contents(ready, chosen):
    return ready[chosen.ready].content[chosen.index].tolist()


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
    content = np.random.default_rng(seed).permutation(999)[values]
    rest, off = split_off(labels, content, share, [seed, 0])
    assert sorted([*rest, *off]) == list(range(len(labels)))
    assert not set(content[rest]) & set(content[off])
    again = split_off(labels, content, share, [seed, 0])
    assert np.array_equal(off, again[1])
    for label in np.unique(labels):
        wanted = max(1, round(share * (labels == label).sum()))
        assert (labels[off] == label).sum() <= wanted + repeats - 1
        assert (labels[rest] == label).any()


def test_shares_are_exact_without_repeats_and_depend_on_the_seed():
    labels = np.repeat([0, 1], [60, 40])
    content = np.arange(100)
    _, off = split_off(labels, content, 0.25, [0, 0])
    assert np.bincount(labels[off]).tolist() == [15, 10]
    assert not np.array_equal(off, split_off(labels, content, 0.25, [1, 0])[1])


def test_the_choice_is_the_one_that_was_always_made():
    """Committed results stand on it: indices drawn by the first version of this function."""
    content = np.array([3, 3, 7, 1, 9, 9, 2, 8, 5, 5, 5, 0, 4, 6, 10, 11])
    _, off = split_off(np.arange(16) % 2, content, 0.3, [7, 1])
    assert off.tolist() == [0, 1, 6, 11, 15]


def test_shares_are_rounded_to_the_nearest_whole_image():
    labels = np.repeat([0, 1], [13, 12])  # 2.6 and 2.4
    _, off = split_off(labels, np.arange(25), 0.2, [0, 0])
    assert np.bincount(labels[off]).tolist() == [3, 2]


CLASSES = ("a", "b")


def test_val_and_test_are_drawn_from_the_split_seed_each_in_its_own_way():
    """Test from stream 1 of all images, then validation from stream 0 of the rest."""
    labels = np.arange(200) % 2
    data = DATA.model_copy(update={"test_share": 0.1, "split_seed": 9})
    splits, _ = separate({"train": split(range(200), labels)}, CLASSES, data)
    rest, test = split_off(labels, np.arange(200), 0.1, [9, 1])
    _, val = split_off(labels[rest], np.arange(200)[rest], 0.2, [9, 0])
    assert splits["test"].index.tolist() == test.tolist()
    assert splits["val"].index.tolist() == rest[val].tolist()


def test_val_and_test_are_split_off_where_the_source_has_none():
    whole = split(range(100), [k % 2 for k in range(100)])
    splits, _ = separate({"train": whole}, CLASSES, DATA.model_copy(update={"test_share": 0.1}))
    assert {name: len(part) for name, part in splits.items()} == {"train": 72, "val": 18, "test": 10}
    assert {part.ready for part in splits.values()} == {"train"}
    assert sorted(i for part in splits.values() for i in part.index.tolist()) == list(range(100))
    for part in splits.values():
        assert (np.diff(part.index) > 0).all()
        assert part.labels.tolist() == [k % 2 for k in part.index]


def test_ready_splits_stay_as_they_are():
    ready = {"train": split([1, 2, 3], [0, 1, 0]), "val": split([4, 5], [0, 1]), "test": split([6, 7], [1, 0])}
    splits, found = separate(ready, CLASSES, DATA)
    assert [len(part) for part in splits.values()] == [3, 2, 2]
    assert (found.duplicates, found.conflicts, found.overlaps, found.dropped) == (0, 0, 0, 0)


def test_without_a_test_split_there_is_none():
    splits, _ = separate({"train": split(range(20), [k % 2 for k in range(20)])}, CLASSES, DATA)
    assert set(splits) == {"train", "val"}


OVERLAPPING = {
    "train": split([1, 2, 3, 4, 9], [0, 1, 0, 1, 1]),
    "val": split([3, 5, 7], [0, 1, 0]),
    "test": split([4, 7, 8], [1, 0, 1]),
}


def test_overlaps_are_dropped_from_the_earlier_split():
    splits, found = separate(OVERLAPPING, CLASSES, DATA)
    assert found.overlaps == found.dropped == 3
    assert [contents(OVERLAPPING, splits[name]) for name in ("train", "val", "test")] == [[1, 2, 9], [3, 5], [4, 7, 8]]
    assert found.notes[0] == "1 images of val are in test too (image 2 is image 1)"


def test_overlaps_are_an_error_where_asked():
    named = OVERLAPPING | {"train": split([1, 2, 3, 4, 9], [0, 1, 0, 1, 1], name="abcde".__getitem__)}
    expected = (
        r"1 images of val are in test too \(image 2 is image 1\); 1 images of train are in val too \(c is image 0\); "
        r"1 images of train are in test too \(d is image 0\); set data.on_overlap"
    )
    with pytest.raises(DataError, match=expected):
        separate(named, CLASSES, DATA.model_copy(update={"on_overlap": "error"}))


def test_repeats_and_conflicts_are_counted():
    ready = {"train": split([1, 1, 1, 2, 3, 3, 1, 1], [0, 0, 0, 1, 0, 1, 0, 0]), "val": split([4, 5], [0, 1])}
    _, found = separate(ready, CLASSES, DATA)
    assert (found.duplicates, found.conflicts) == (5, 1)
    assert found.notes == [
        "5 images of train repeat others of it (image 1 is image 0, image 2 is image 0, image 5 is image 4 and 2 more)",
        "1 pictures of train stand under several labels (image 4)",
    ]


def test_a_class_missing_in_a_split_is_named_with_the_counts():
    ready = {"train": split([1, 2, 3], [0, 1, 0]), "val": split([4], [0])}
    expected = r"val: no image of class b \(found: a 1, b 0\), and every split needs each class; add images of it there"
    with pytest.raises(DataError, match=expected):
        separate(ready, CLASSES, DATA)


def test_a_class_of_one_picture_cannot_be_split():
    whole = {"train": split([1, 2, 3, 4, 9, 9], [0, 0, 0, 0, 1, 1])}
    with pytest.raises(
        DataError, match=r"val: no image of class b .* drawn from train \(data\.val_share in params\.yaml\)"
    ):
        separate(whole, CLASSES, DATA)
    with pytest.raises(
        DataError, match=r"no image of class b .* drawn from train \(data\.test_share in params\.yaml\)"
    ):
        separate(whole | {"val": split([5, 6], [0, 1])}, CLASSES, DATA.model_copy(update={"test_share": 0.1}))


def test_a_label_out_of_range_is_an_error():
    ready = {"train": split([1, 2, 3], [0, 1, 2]), "val": split([4, 5], [0, 1])}
    with pytest.raises(DataError, match="label 2 is out of range; there are 2 classes"):
        separate(ready, CLASSES, DATA)
