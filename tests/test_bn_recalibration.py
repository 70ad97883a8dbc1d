"""Normalizations measured again: the mean over the batches, and nothing else changes."""

import copy

import pytest
import torch
from conftest import NO_AUGMENT, striped
from torch import nn

from netpress.core.batches import training_batches
from netpress.core.bn_recalibration import recalibrate
from netpress.core.networks import build_model


def batches():
    return training_batches(striped(48), NO_AUGMENT, 0.0, 16, 0, 0)


def test_the_first_layers_statistics_are_those_of_its_inputs():
    torch.manual_seed(0)
    network = build_model("compact_cnn", 3, 1, width=0.25)
    conv, norm = network[0][0][0], network[0][0][1]
    with torch.no_grad():
        means, variances = zip(
            *((y.mean((0, 2, 3)), y.var((0, 2, 3))) for b in batches() for y in [conv(b.images)]), strict=True
        )
    recalibrate(network, batches(), 100)
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0), rtol=1e-4, atol=1e-5)


def test_weights_momentum_and_dropout_stay_as_they_are():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.9), nn.Flatten())
    before, twin = copy.deepcopy(network), copy.deepcopy(network)
    recalibrate(network, batches(), 2)
    recalibrate(twin, batches(), 2)
    assert network[1].momentum == 0.3
    assert not network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name])
        assert torch.equal(value, before.state_dict()[name]) == ("running" not in name and "batches" not in name), name


@pytest.mark.parametrize(("count", "taken"), [(2, 2), (9, 3)])
def test_as_many_batches_are_taken_as_asked_or_there_are(count, taken):
    network = nn.BatchNorm2d(1)
    recalibrate(network, batches(), count)
    assert network.num_batches_tracked == taken


def test_without_such_layers_no_batch_is_made():
    def refused():
        pytest.fail("a batch was asked for")
        yield

    recalibrate(nn.Conv2d(1, 2, 3), refused(), 5)
