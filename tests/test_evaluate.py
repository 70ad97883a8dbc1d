"""A network's quality against the tests' own arithmetic, and what measuring leaves of it."""

import copy

import numpy as np
import own
import pytest
import torch
from conftest import RECIPE, RUNTIME, striped

from netpress.core.engine import Schedule, fit
from netpress.core.measure import answers, evaluate, evidence
from netpress.core.networks import build_model


def half_trained(seed=0, **options):
    """A network whose statistics are neither those of a batch nor the first ones, and whose answers are not sure."""
    torch.manual_seed(seed)
    network = build_model("compact_cnn", 3, 1, width=0.25, **options)
    recipe = RECIPE.model_copy(update={"lr": 0.01})
    fit(network, striped(96), striped(48, seed=1), Schedule(recipe, 1, seed), RUNTIME, "test")
    return network


def noisy(count, seed=1):
    """Pictures of which some have another class than their stripe says."""
    split = striped(count, seed=seed)
    split.labels[::5] = (split.labels[::5] + 1) % 3
    return split


def logits_of(network, split):
    images = torch.from_numpy(own.normalized(split.images.numpy(), split.mean, split.std))
    with torch.inference_mode():
        return network(images).numpy()


@pytest.mark.parametrize("training", [True, False])
def test_it_is_that_of_the_network_in_eval_mode_which_it_leaves_as_it_was(training):
    network, split = half_trained(), noisy(48)
    before = copy.deepcopy(network.state_dict())
    expected = own.quality(logits_of(copy.deepcopy(network).eval(), split), split.labels.numpy(), 3)
    network.train(training)
    found = evaluate(network, split)
    assert not network.training
    assert network.state_dict().keys() == before.keys()
    assert any(name.endswith("num_batches_tracked") for name in before)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert found.accuracy == expected["accuracy"]
    assert found.loss == pytest.approx(expected["loss"], rel=1e-4)
    assert found.detail(split)["val_ece"] == pytest.approx(expected["ece"], rel=1e-3)
    assert found.detail(split)["val_acc_by_class"] == pytest.approx(expected["by_class"])


def test_every_image_counts_however_many_there_are():
    """More than one batch, and a last one that is not full."""
    network, split = half_trained(), noisy(1100)
    expected = own.quality(logits_of(network, split), split.labels.numpy(), 3)
    found = evaluate(network, split)
    assert found.accuracy == expected["accuracy"]
    assert found.loss == pytest.approx(expected["loss"], rel=1e-4)
    assert found.detail(split)["val_ece"] == pytest.approx(expected["ece"], rel=1e-3)
    np.testing.assert_array_equal(answers(network, split), logits_of(network, split).argmax(1))


def test_agreement_and_evidence_are_of_the_split_that_they_name():
    network, teacher = half_trained(), half_trained(seed=7)
    train, val = noisy(60, seed=3), noisy(90, seed=4)
    val.labels[:30] = 0
    of_train = own.quality(logits_of(network, train), train.labels.numpy(), 3)
    of_val = own.quality(logits_of(network, val), val.labels.numpy(), 3)
    named = [logits_of(net, val).argmax(1) for net in (network, teacher)]
    found = evidence(network, train, val, answers(teacher, val))
    assert found["train_acc"] == of_train["accuracy"] != of_val["accuracy"]
    assert found["teacher_agreement"] == np.mean(named[0] == named[1])
    assert "teacher_agreement" not in evidence(network, train, val)


def test_a_calibration_error_weighs_fifteen_bins_by_their_images():
    """Of logits that fill many bins unevenly, right in every other bin alone, so that wider bins would hide errors."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 3, generator=generator) * torch.rand(500, 1, generator=generator) * 5

    class Says(torch.nn.Module):
        def forward(self, images):
            return logits

    split = striped(500)
    named, confidence = logits.argmax(1), logits.softmax(1).amax(1)
    split.labels[:] = torch.where((confidence * own.BINS).long() % 2 == 0, named, (named + 1) % 3)
    expected = own.quality(logits.numpy(), split.labels.numpy(), 3)

    class Once:
        """The split in one batch."""

        labels, num_classes = split.labels, 3

        def __len__(self):
            return 500

        def in_order(self):
            yield split.images, split.labels

    assert evaluate(Says(), Once()).detail(Once())["val_ece"] == pytest.approx(expected["ece"], rel=1e-4)
