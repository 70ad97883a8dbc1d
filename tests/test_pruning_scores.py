"""The score of channels against the norm that its option names."""

import itertools
import math

import pytest
import torch
from conftest import NO_AUGMENT, score_of, striped
from torch import nn

from netpress.core.batches import Batch, training_batches
from netpress.core.measure import count_params
from netpress.core.networks import build_model
from netpress.params import plugins
from netpress.params.schema import parse
from netpress.prune.common.channels import by_channel, over_group, remove_channels
from netpress.prune.scores import taylor


class Two(nn.Module):
    """Two convolutions, whose four channels between them are coupled, and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        return self.head(self.second(self.first(images)).mean((2, 3)))


@pytest.mark.parametrize(("norm", "weakest"), [(1, 2), (2, 1)])
def test_the_norm_says_which_channel_is_the_weakest(norm, weakest):
    """Channel 1 has many small weights, channel 2 one large one: the sums say 2, the squares say 1."""
    network = Two()
    with torch.no_grad():
        network.first.weight[:] = 10.0
        network.second.weight[:] = 10.0
        for channel, values in ((1, torch.full((9,), 0.1)), (2, torch.eye(9)[0] * 0.6)):
            network.first.weight[channel] = values.view(1, 3, 3)
            network.second.weight[:, channel] = values.view(3, 3)
    removed = remove_channels(network, torch.zeros(2, 1, 9, 9), 0.25, 1, score_of("magnitude", {"norm": norm}))
    assert removed["first"] == [weakest]
    assert network.first.out_channels == network.second.in_channels == 3
    assert network.head.out_features == 2


@pytest.mark.parametrize("values", [torch.ones(3), torch.ones(4, 1)], ids=["short", "two dimensions"])
def test_values_for_other_than_the_channels_of_a_layer_name_the_layer(values):
    def wrong(layer, of_inputs):
        return by_channel(layer, layer.weight, of_inputs) if of_inputs else values

    with pytest.raises(ValueError, match=rf"shape \({len(values)},.*\) for the 4 outputs of layer '(first|second)"):
        remove_channels(Two(), torch.zeros(2, 1, 9, 9), 0.5, 1, lambda group: over_group(group, wrong))


NAMES = plugins.names("prune/scores")


def batches():
    return training_batches(striped(48, classes=3), NO_AUGMENT, 0.0, 16, 0, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"groups": "depthwise"}], ids=str)
def test_contract(name, options):
    """At its EXAMPLE every score prunes plain, grouped and depthwise networks, twice alike, and leaves no gradient."""
    removed, networks = [], []
    for _ in range(2):
        torch.manual_seed(0)
        network = build_model("compact_cnn", 3, 1, width=0.5, **options)
        score = score_of(name, plugins.load("prune/scores", name).EXAMPLE)
        if hasattr(score, "observe"):
            before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
            score.observe(network, batches())
            same = all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
            assert same, "observe must run the network in eval mode and leave weights and statistics as they were"
        no_gradients = all(p.grad is None for p in network.parameters())
        assert no_gradients, "observe must leave no gradients: network.zero_grad(set_to_none=True)"
        removed.append(remove_channels(network, torch.zeros(2, 1, 28, 28), 0.3, 1, score))
        networks.append(network)
    assert removed[0] == removed[1]
    assert removed[0]
    assert networks[0](torch.zeros(2, 1, 28, 28)).shape == (2, 3)
    assert count_params(networks[0]) < 0.8 * count_params(build_model("compact_cnn", 3, 1, width=0.5, **options))


@pytest.mark.parametrize("name", plugins.names("prune/schedules"))
def test_schedules_give_shares_and_end(name):
    """At its EXAMPLE every schedule ends, and its rates lie between 0 and 1."""
    module = plugins.load("prune/schedules", name)
    options, left = parse(module.Options, module.EXAMPLE, name), 1.0
    for number in range(1, 101):
        rate = module.next_rate(number, left, 0.3, 0.05, options)
        if rate is None:
            break
        assert 0 < rate < 1
        left *= (1 - rate) ** 2
    assert rate is None
    assert number > 1


def test_the_taylor_score_is_the_square_of_weight_times_gradient():
    """Of the channels between two convolutions, against gradients taken by hand, batch by batch."""
    torch.manual_seed(0)
    network = Two()
    given = [Batch(torch.randn(8, 1, 9, 9), torch.eye(2)[torch.arange(8) % 2], torch.arange(8), None) for _ in range(3)]
    expected = torch.zeros(4)
    for batch in given[:2]:
        network.zero_grad()
        nn.functional.cross_entropy(network(batch.images), batch.targets).backward()
        first, second = network.first.weight, network.second.weight
        expected += (first * first.grad).sum((1, 2, 3)).square() / 2 + (second * second.grad).sum(
            (0, 2, 3)
        ).square() / 2
    score = taylor.scores(taylor.Options(batches=2))
    score.observe(network, iter(given))
    seen = {}

    def noted(group):
        found = score(group)
        seen[len(seen)] = found
        return found

    remove_channels(network, torch.zeros(2, 1, 9, 9), 0.25, 1, noted)
    assert any(torch.allclose(found, expected.detach(), rtol=1e-4) for found in seen.values())


def test_a_channel_that_nothing_reads_has_no_taylor_score():
    torch.manual_seed(0)
    network = Two()
    with torch.no_grad():
        network.second.weight[:, 2] = 0.0
    score = taylor.scores(taylor.Options(batches=1))
    batch = Batch(torch.randn(8, 1, 9, 9), torch.eye(2)[torch.arange(8) % 2], torch.arange(8), None)
    score.observe(network, iter([batch]))
    assert remove_channels(network, torch.zeros(2, 1, 9, 9), 0.25, 1, score)["first"] == [2]


def test_fpgm_takes_the_filter_that_is_nearest_to_the_others():
    network = nn.Sequential(nn.Conv2d(1, 5, 1, bias=False), nn.Conv2d(5, 2, 1, bias=False))
    with torch.no_grad():
        network[0].weight[:, 0, 0, 0] = torch.tensor([-3.0, 0.5, 1.0, 3.5, 9.0])  # 0.5 is the smallest
        network[1].weight.zero_()
    remove_channels(network, torch.zeros(2, 1, 5, 5), 0.2, 1, score_of("fpgm", {}))
    assert network[0].weight.flatten().tolist() == [-3.0, 0.5, 3.5, 9.0]


def test_random_channels_follow_from_the_seed():
    def left(seed):
        torch.manual_seed(0)
        network = build_model("compact_cnn", 3, 1, width=0.5)
        remove_channels(network, torch.zeros(2, 1, 28, 28), 0.3, 1, score_of("random", {"seed": seed}))
        return network.state_dict()

    one, same, other = left(1), left(1), left(2)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_the_cubic_schedule_takes_most_first_and_ends_at_the_share_that_is_asked_for(rounds):
    module = plugins.load("prune/schedules", "cubic")
    options = module.Options(rounds=rounds)
    rates = [module.next_rate(k, 1.0, 0.3, 0.09, options) for k in range(1, rounds + 1)]
    assert module.next_rate(rounds + 1, 1.0, 0.3, 0.09, options) is None
    kept = [math.prod(1 - rate for rate in rates[:k]) for k in range(rounds + 1)]
    assert kept[-1] == pytest.approx(0.3), "the square of the channels is the share of the parameters"
    leaving = [before - after for before, after in itertools.pairwise(kept)]
    assert leaving == sorted(leaving, reverse=True)
    assert [1 - k for k in kept] == pytest.approx([0.7 * (1 - (1 - j / rounds) ** 3) for j in range(rounds + 1)])
