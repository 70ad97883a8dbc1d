"""Order and augmentation depend on seed, epoch and image index, and on nothing else."""

import numpy as np
import pytest
import torch
from conftest import NO_AUGMENT, striped
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.core import batches
from netpress.core.batches import (
    _boxes,
    alternating,
    batches_per_epoch,
    crop_and_flip,
    erase,
    resize_boxes,
    training_batches,
)

ALL = NO_AUGMENT.model_copy(update={"flip": True, "crop_padding": 2, "erasing": 0.5})


def epoch(split, augment=ALL, smoothing=0.0, batch_size=16, seed=0, number=0):
    batches = list(training_batches(split, augment, smoothing, batch_size, seed, number))
    return torch.cat([b.images for b in batches]), torch.cat([b.targets for b in batches])


def by_content(images, targets):
    """Sort the images of an epoch so that two orders can be compared."""
    rows = torch.cat([images.flatten(1), targets], dim=1).numpy()
    return rows[np.lexsort(rows.T)]


def test_the_same_seed_and_epoch_give_the_same_views():
    split = striped(50)
    first, second = epoch(split), epoch(split)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_another_epoch_or_seed_gives_others():
    split = striped(50)
    base = epoch(split)[0]
    assert not torch.equal(base, epoch(split, number=1)[0])
    assert not torch.equal(base, epoch(split, seed=1)[0])


@pytest.mark.parametrize("augment", [ALL, ALL.model_copy(update={"mixup": 0.4})])
def test_views_do_not_depend_on_the_batch_size(augment):
    split = striped(50)
    small, large = epoch(split, augment, batch_size=7), epoch(split, augment, batch_size=50)
    np.testing.assert_allclose(small[0], large[0], atol=1e-6)
    np.testing.assert_allclose(small[1], large[1], atol=1e-6)


def test_every_image_comes_once():
    split = striped(53)
    images, targets = epoch(split, NO_AUGMENT)
    plain = split.normalize(split.images)
    one_hot = torch.nn.functional.one_hot(split.labels, 3).float()
    np.testing.assert_array_equal(by_content(images, targets), by_content(plain, one_hot))


@given(count=st.integers(1, 2000), batch_size=st.integers(2, 300))
def test_batches_are_of_nearly_equal_size(count, batch_size):
    sizes = [len(part) for part in np.array_split(np.arange(count), batches_per_epoch(count, batch_size))]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == batches_per_epoch(count, batch_size)


def test_normalization_is_that_of_the_statistics():
    split = striped(4, channels=3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    out = split.normalize(split.images)
    assert out.shape == (4, 3, 28, 28)
    assert out.is_contiguous(memory_format=torch.channels_last)
    expected = (split.images[2, 5, 7, 1].item() / 255 - 0.2) / 0.25
    assert out[2, 1, 5, 7].item() == pytest.approx(expected, abs=1e-6)


def test_a_flip_mirrors_and_a_crop_shifts():
    image = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4, 1)
    flip = NO_AUGMENT.model_copy(update={"flip": True})
    assert torch.equal(crop_and_flip(image, torch.tensor([[0.4, 0, 0]]), flip), image.flip(2))
    assert torch.equal(crop_and_flip(image, torch.tensor([[0.6, 0, 0]]), flip), image)
    crop = NO_AUGMENT.model_copy(update={"crop_padding": 1})
    corner = crop_and_flip(image, torch.tensor([[0.9, 0.0, 0.0]]), crop)[0, :, :, 0]
    assert torch.equal(corner[1:, 1:], image[0, :3, :3, 0])
    assert corner[0].sum() == corner[:, 0].sum() == 0
    centre = crop_and_flip(image, torch.tensor([[0.9, 0.5, 0.5]]), crop)
    assert torch.equal(centre, image)


@given(draws=st.lists(st.floats(0, 0.999), min_size=5, max_size=5), size=st.integers(8, 32))
@settings(max_examples=100)
def test_erasing_removes_one_rectangle_within_the_image(draws, size):
    images = torch.ones(1, 2, size, size)
    out = erase(images, torch.tensor([draws], dtype=torch.float32), 0.5)
    gone = out[0, 0] == 0
    assert torch.equal(out[0, 0], out[0, 1])
    if draws[0] >= 0.5:
        assert not gone.any()
        return
    rows, columns = gone.any(1).nonzero().flatten(), gone.any(0).nonzero().flatten()
    assert gone[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert gone.sum() == len(rows) * len(columns)
    assert 1 / size**2 <= gone.float().mean() <= 0.45


def test_smoothed_targets_sum_to_one():
    _, targets = epoch(striped(30), smoothing=0.3)
    torch.testing.assert_close(targets.sum(1), torch.ones(30))
    torch.testing.assert_close(targets.max(1).values, torch.full((30,), 0.7 + 0.1))


def test_mixup_mixes_images_and_targets_alike():
    split = striped(40, mean=(0.0,), std=(1.0,))
    split.images[:] = (split.labels * 100).to(torch.uint8)[:, None, None, None]
    mix = NO_AUGMENT.model_copy(update={"mixup": 1.0})
    images, targets = epoch(split, mix)
    brightness = (targets * torch.tensor([0.0, 100.0, 200.0])).sum(1) / 255
    torch.testing.assert_close(images.mean((1, 2, 3)), brightness, atol=1e-5, rtol=1e-5)
    assert ((targets.max(1).values < 0.99) & (targets.max(1).values > 0.34)).any()


def test_a_whole_box_leaves_the_image_as_it_is_and_a_quarter_is_enlarged():
    images = torch.rand(2, 3, 16, 16)
    whole = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(2, 4)
    torch.testing.assert_close(resize_boxes(images, whole), images)
    flat = torch.zeros(1, 1, 16, 16)
    flat[:, :, 8:, 8:] = 1.0
    quarter = resize_boxes(flat, torch.tensor([[0.5, 0.5, 0.5, 0.5]]))
    assert quarter[:, :, 1:, 1:].min() == 1.0


@given(smallest=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
def test_boxes_lie_inside_the_image_and_keep_the_area_asked_for(smallest, seed):
    augment = NO_AUGMENT.model_copy(update={"resized_crop": smallest})
    height, width, top, left = _boxes(augment, 50, seed, 0, torch.device("cpu")).unbind(1)
    assert ((height > 0) & (height <= 1) & (top >= 0) & (top + height <= 1 + 1e-6)).all()
    assert ((width > 0) & (width <= 1) & (left >= 0) & (left + width <= 1 + 1e-6)).all()
    assert (height * width >= 0.75 * smallest - 1e-6).all()  # a box that would stick out is cut at the image's edge


def test_resized_crops_depend_on_seed_epoch_and_image_alone():
    split, augment = striped(50), NO_AUGMENT.model_copy(update={"resized_crop": 0.5})
    assert torch.equal(epoch(split, augment)[0], epoch(split, augment)[0])
    assert not np.array_equal(by_content(*epoch(split, augment)), by_content(*epoch(split, augment, number=1)))


def test_plain_images_are_mixed_as_the_augmented_ones():
    split = striped(40)
    augment = ALL.model_copy(update={"mixup": 0.4})
    still = NO_AUGMENT.model_copy(update={"mixup": 0.4})
    for batch, unmoved in zip(
        training_batches(split, augment, 0.0, 16, 0, 0), training_batches(split, still, 0.0, 16, 0, 0), strict=True
    ):
        assert torch.equal(batch.plain(), unmoved.images)
        assert not torch.equal(batch.images, unmoved.images)
        assert torch.equal(batch.targets, unmoved.targets)


def test_a_crop_may_begin_at_every_place():
    """Of two pixels of padding there are five places each way, and draws below 1 reach them all alike."""
    crop = NO_AUGMENT.model_copy(update={"crop_padding": 2})
    draws = torch.tensor([[0.9, y / 100, x / 100] for y in range(100) for x in range(100)])
    image = torch.arange(36, dtype=torch.uint8).reshape(1, 6, 6, 1) + 1
    crops = crop_and_flip(image.expand(len(draws), 6, 6, 1), draws, crop)
    _, counts = crops.flatten(1).unique(dim=0, return_counts=True)
    assert counts.tolist() == [400] * 25


@pytest.mark.parametrize(
    "changes", [{}, {"flip": True}, {"flip": "alternating"}, {"erasing": 0.9}, {"resized_crop": 0.3}, {"mixup": 1.0}]
)
def test_order_and_every_augmentation_change_from_epoch_to_epoch(changes):
    split, augment = striped(50), NO_AUGMENT.model_copy(update=changes)
    first, second = epoch(split, augment), epoch(split, augment, number=1)
    if changes:
        assert not np.array_equal(by_content(*first), by_content(*second))
    else:
        assert np.array_equal(by_content(*first), by_content(*second))
    assert not torch.equal(first[1], second[1])
    assert not torch.equal(first[1], epoch(split, augment, seed=1)[1])


def test_alternating_flips_show_each_image_both_ways_in_two_epochs():
    """Which way comes first is drawn."""
    split = striped(64)
    split.images[:, 0, :, 0] = torch.arange(28, dtype=torch.uint8)  # so that no image is its own mirror image
    split.images[:, 1, :, 0] = torch.arange(64, dtype=torch.uint8)[:, None]
    augment = NO_AUGMENT.model_copy(update={"flip": "alternating"})
    shown = []
    for number in range(4):
        batches = list(training_batches(split, augment, 0.0, 16, 0, number))
        views, plain = torch.cat([b.images for b in batches]), torch.cat([b.plain() for b in batches])
        mirrored = (views == plain.flip(3)).all((1, 2, 3))
        assert ((views == plain).all((1, 2, 3)) == ~mirrored).all()
        shown.append(mirrored[torch.cat([b.index for b in batches]).argsort()])
    assert torch.equal(shown[0], ~shown[1])
    assert torch.equal(shown[0], shown[2]) and torch.equal(shown[1], shown[3])
    assert 16 < shown[0].sum() < 48


def test_alternating_flips_are_drawn_from_the_seed_and_exact():
    """A sum that rounds to 1 would flip an image in both of two epochs."""
    first, second = (alternating(1_000_000, 0, number) < 0.5 for number in (0, 1))
    assert (first != second).all()
    assert 0.49 < first.mean() < 0.51
    assert not np.array_equal(first, alternating(1_000_000, 1, 0) < 0.5)


def test_alternating_flips_leave_the_other_draws_as_they_are(monkeypatch):
    seen = []
    monkeypatch.setattr(batches, "crop_and_flip", lambda images, draws, augment: seen.append(draws) or images)
    monkeypatch.setattr(batches, "erase", lambda images, draws, probability: seen.append(draws) or images)
    for flip in (True, "alternating"):
        epoch(striped(50), ALL.model_copy(update={"flip": flip}), batch_size=50)
    crop, erased, crop_alternating, erased_alternating = seen
    assert torch.equal(crop[:, 1:], crop_alternating[:, 1:])
    assert torch.equal(erased, erased_alternating)


def test_random_flips_are_the_first_draw_of_each_image():
    """So the views of `flip: true` are those of every version before."""
    split = striped(50)
    augment = NO_AUGMENT.model_copy(update={"flip": True})
    draws = np.random.default_rng([3, 2, 1]).random((50, 8), dtype=np.float32)
    for batch in training_batches(split, augment, 0.0, 16, 3, 2):
        mirrored = torch.from_numpy(draws)[batch.index, 0] < 0.5
        expected = torch.where(mirrored[:, None, None, None], batch.plain().flip(3), batch.plain())
        assert torch.equal(batch.images, expected)


def test_what_is_erased_does_not_depend_on_flip_and_crop(monkeypatch):
    """Each has draws of its own."""
    seen = []
    monkeypatch.setattr(batches, "crop_and_flip", lambda images, draws, augment: seen.append(draws) or images)
    monkeypatch.setattr(batches, "erase", lambda images, draws, probability: seen.append(draws) or images)
    epoch(striped(50), batch_size=50)
    crop, erased = seen
    assert (crop.shape, erased.shape) == ((50, 3), (50, 5))
    columns = torch.cat(seen, 1).T
    assert len(columns.unique(dim=0)) == 8


def test_boxes_are_of_all_sizes_and_places():
    augment = NO_AUGMENT.model_copy(update={"resized_crop": 0.2})
    height, width, top, left = _boxes(augment, 2000, 0, 0, torch.device("cpu")).unbind(1)
    area = height * width
    assert area.min() < 0.25 and area.max() > 0.95
    assert 0.5 < area.mean() < 0.65  # 0.6, less what is cut at the image's edges
    for start, size in ((top, height), (left, width)):
        place = (start / (1 - size))[size < 0.9]
        assert place.min() < 0.05 and place.max() > 0.95
