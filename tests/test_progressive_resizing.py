"""Progressive resizing: which side each epoch has, what the network gets, and what it is refused for."""

from itertools import pairwise

import pytest
import torch
from conftest import NO_AUGMENT, RECIPE, RUNTIME, Objective, striped
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from netpress.base.errors import ConfigError
from netpress.core import engine
from netpress.core.batches import training_batches
from netpress.core.engine import Schedule, fit
from netpress.core.networks import build_model
from netpress.core.progressive_resizing import resized, side_in

GROWING = RECIPE.model_copy(update={"resize_from": 0.5, "resize_until": 0.7})


def small_network(seed=0):
    torch.manual_seed(seed)
    return build_model("compact_cnn", 3, 1, width=0.25)


def sides(epochs, full=28, **changes):
    recipe = GROWING.model_copy(update=changes)
    return [side_in(recipe, epoch, epochs, full) for epoch in range(epochs)]


def trained(recipe, epochs=4, first_epoch=0, network=None):
    """Train, and return the network, its history, and the side of the images in every step."""
    network, seen = network or small_network(), []

    def objective(batch, logits):
        seen.append(tuple(batch.images.shape[1:]))
        assert batch.plain().shape[1:] == (1, 28, 28)
        return nn.functional.cross_entropy(logits, batch.targets)

    schedule = Schedule(recipe, epochs, 0, first_epoch)
    history = fit(network, striped(96), striped(48, seed=1), schedule, RUNTIME, "test", Objective(objective))
    return network, history, seen


def test_sides_grow_along_a_line_to_the_full_one():
    assert sides(10) == [14, 16, 18, 20, 22, 24, 26, 28, 28, 28]
    assert sides(10, resize_until=0.5) == [14, 16, 20, 22, 26, 28, 28, 28, 28, 28]
    assert sides(4, full=64, resize_from=0.25, resize_until=0.75) == [16, 32, 48, 64]
    assert sides(3, full=29, resize_from=0.5) == [14, 22, 29]


def test_sides_are_full_where_resizing_is_off_or_has_no_epoch():
    assert sides(5, resize_from=1.0) == [28] * 5
    assert sides(5, resize_until=0.0) == [28] * 5
    assert sides(1) == [28]
    assert sides(2, resize_until=0.99) == [14, 28]


@given(
    share=st.floats(0.01, 1),
    until=st.floats(0, 1, exclude_max=True),
    epochs=st.integers(1, 60),
    full=st.integers(16, 512),
)
def test_sides_never_shrink_and_end_at_the_full_one(share, until, epochs, full):
    found = sides(epochs, full, resize_from=share, resize_until=until)
    assert found[-1] == full
    assert all(a <= b for a, b in pairwise(found))
    assert all(side == full or (side % 2 == 0 and side >= max(2, share * full - 1)) for side in found)
    late = found[int(until * epochs) + 1 :]
    assert late == [full] * len(late)


def test_images_are_shrunk_by_the_mean_of_what_a_pixel_covers():
    """Of a chequered image nothing is left but its mean; without antialiasing one of its colours would be."""
    split = striped(4, size=16, mean=(0.0,), std=(1.0,))
    split.images[:] = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2)[..., None].to(torch.uint8) * 255
    (batch,) = training_batches(split, NO_AUGMENT, 0.0, 4, 0, 0)
    small = resized(batch, 4).images
    assert small.shape == (4, 1, 4, 4)
    assert small.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(small, torch.full((4, 1, 4, 4), 0.5), atol=0.02, rtol=0)


def test_what_is_left_of_the_batch_stays_and_at_full_size_all_of_it():
    (batch,) = training_batches(striped(8), NO_AUGMENT.model_copy(update={"mixup": 0.5}), 0.1, 8, 0, 0)
    small = resized(batch, 14)
    assert small.targets is batch.targets and small.index is batch.index
    assert torch.equal(small.plain(), batch.plain())
    assert resized(batch, 28) is batch


def test_the_network_learns_from_each_epochs_side_and_is_measured_at_the_full_one(monkeypatch):
    measured = []
    evaluate = engine.evaluate
    monkeypatch.setattr(engine, "evaluate", lambda n, s, w: measured.append(s.images.shape[1]) or evaluate(n, s, w))
    _, _, seen = trained(GROWING, epochs=4)
    assert seen == [(1, side, side) for side in (14, 20, 24, 28) for _ in range(3)]
    assert measured == [28] * 4


def test_sides_follow_the_epochs_of_the_training_and_not_those_before_it():
    """A round of fine-tuning begins small again, as its learning rate begins anew."""
    assert trained(GROWING, epochs=3)[2] == trained(GROWING, epochs=3, first_epoch=7)[2]


def test_it_learns():
    assert trained(GROWING.model_copy(update={"resize_until": 0.5}), epochs=8)[1][-1]["val_acc"] > 0.95


def test_off_is_the_training_without_it_to_the_bit(monkeypatch):
    """Whatever `resize_until` says."""
    off, history, _ = trained(RECIPE.model_copy(update={"resize_until": 0.3}))
    monkeypatch.setattr(engine, "resized", lambda batch, side: batch)
    monkeypatch.setattr(engine, "check_sides", lambda *_: None)
    without, expected, _ = trained(RECIPE)
    assert history == expected
    assert all(torch.equal(a, b) for a, b in zip(off.state_dict().values(), without.state_dict().values(), strict=True))


def test_a_network_that_takes_no_images_so_small_is_refused_before_training():
    network = build_model("plain_cnn", 3, 1, width=0.0625)  # four poolings: 16 pixels at least
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(
        ConfigError,
        match=r"test: resize_from = 0.5 makes training images of 14 x 14 pixels, which the network does not take "
        r"\(RuntimeError: .*\); raise recipes.<name>.resize_from, or set it to 1.0, which is off",
    ):
        trained(GROWING, network=network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    _, _, seen = trained(GROWING.model_copy(update={"resize_from": 0.6}), epochs=2, network=network)
    assert seen[0] == (1, 16, 16)
