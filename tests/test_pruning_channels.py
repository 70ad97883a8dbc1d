"""Removing channels: pruned networks compute what the full network with those channels zeroed computes."""

import copy

import numpy as np
import pytest
import torch
from conftest import planned, score_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.base.errors import ConfigError
from netpress.core.edits import resize_edit, sizes_of
from netpress.core.measure import count_params
from netpress.core.networks import build_model, rebuild
from netpress.prune.common.channels import remove_channels
from netpress.prune.common.plan import share_epochs

NETWORKS = [
    ("resnet18", {"width": 0.25}),
    ("resnet18", {"width": 0.25, "stem": "small"}),
    ("mobile_student", {"width": 0.5}),
    ("compact_cnn", {"groups": 2}),
    ("compact_cnn", {"groups": 1}),
    ("compact_cnn", {"groups": "depthwise"}),
    ("plain_cnn", {"width": 0.125}),
    ("large_cnn", {"width": 0.0625}),
    ("large_cnn_depthwise", {"width": 0.0625}),
]
EXAMPLE = torch.zeros(2, 3, 32, 32)


def lively(arch, options):
    """A network whose normalizations have statistics and scales as after training."""
    torch.manual_seed(0)
    network = build_model(arch, 11, 3, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def silence(network, removed):
    """Zero the outputs of the removed channels: their weights, biases, scales and shifts."""
    for name, indices in removed.items():
        layer = network.get_submodule(name)
        layer.weight.data[indices] = 0
        if layer.bias is not None:
            layer.bias.data[indices] = 0


@pytest.mark.parametrize(("arch", "options"), NETWORKS)
@pytest.mark.parametrize("rate", [0.3, 0.6])
def test_pruned_equals_masked(arch, options, rate):
    full = lively(arch, options)
    pruned = copy.deepcopy(full)
    removed = remove_channels(pruned, EXAMPLE, rate, 1, score_of("magnitude", {"norm": 2}))
    assert removed
    assert count_params(pruned) < count_params(full)
    silence(full, removed)
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        expected = full(images)
        torch.testing.assert_close(pruned(images), expected, atol=1e-5, rtol=1e-5)
        assert expected.std() > 0


def test_masking_is_not_vacuous():
    full = lively("resnet18", {"width": 0.25})
    pruned = copy.deepcopy(full)
    remove_channels(pruned, EXAMPLE, 0.3, 1, score_of("magnitude", {"norm": 2}))
    images = torch.randn(4, 3, 32, 32)
    assert not torch.allclose(pruned(images), full(images), atol=1e-3)


@pytest.mark.parametrize(("arch", "options"), NETWORKS)
def test_rebuilt_from_its_edit_exactly(arch, options):
    network = lively(arch, options)
    sizes = sizes_of(network)
    for _ in range(2):
        remove_channels(network, EXAMPLE, 0.4, 1, score_of("magnitude", {"norm": 1}))
    again = rebuild(arch, 11, 3, options, [resize_edit(sizes, network)], network.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again(images), network(images))


def test_the_weakest_channels_go():
    network = lively("plain_cnn", {"width": 0.125})
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    weak = [1, 4]
    coupled = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)][:3]
    first.weight.data[weak] *= 1e-3
    coupled[1].weight.data[weak] *= 1e-3
    coupled[2].weight.data[:, weak] *= 1e-3
    removed = remove_channels(network, EXAMPLE, 0.25, 1, score_of("magnitude", {"norm": 2}))
    name = next(n for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    assert removed[name] == weak


def weight_norms(network, name, axis):
    """Sums of squares of a layer's weights for each index of `axis`."""
    weight = network.get_submodule(name).weight.detach().numpy().astype(np.float64) ** 2
    return weight.sum(axis=tuple(k for k in range(weight.ndim) if k != axis))


def lowest(score, rate):
    """The channels that a round of `rate` removes, of which `rate` of all are left out at most."""
    count = len(score) - int(len(score) * (1 - rate))
    return sorted(np.argsort(score)[:count].tolist())


@pytest.mark.parametrize(
    ("arch", "options", "blocks"),
    [("mobile_student", {"width": 0.5}, 11), ("compact_cnn", {"groups": "depthwise"}, 5)],
)
def test_depthwise_weights_count(arch, options, blocks):
    """Of every group: pointwise filters before, their norm, the depthwise filters, their norm, the next inputs."""
    network = lively(arch, options)
    removed = remove_channels(copy.deepcopy(network), EXAMPLE, 0.3, 1, score_of("magnitude", {"norm": 2}))
    for k in range(1, blocks + 1):
        before = ["0.0.0", "0.0.1"] if k == 1 else [f"0.{k - 1}.3", f"0.{k - 1}.4"]
        made = sum(weight_norms(network, name, 0) for name in [*before, f"0.{k}.0", f"0.{k}.1"])
        score = (made + weight_norms(network, f"0.{k}.3", 1)) / 5
        assert removed[f"0.{k}.0"] == lowest(score, 0.3), f"block {k}"
        # The test must be able to tell: without the depthwise filters others would go.
    without = score - weight_norms(network, f"0.{k}.0", 0) / 5
    assert lowest(without, 0.3) != lowest(score, 0.3)


def test_of_grouped_weights_those_count_that_read_the_channel():
    network = lively("compact_cnn", {"groups": 2})
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 2:
            module.weight.data[: len(module.weight) // 2] *= 3  # so that the groups differ
    removed = remove_channels(copy.deepcopy(network), EXAMPLE, 0.3, 1, score_of("magnitude", {"norm": 2}))
    for k in range(5):
        weight = network.get_submodule(f"0.{k + 1}.0").weight.detach().numpy().astype(np.float64) ** 2
        first, second = np.split(weight, 2)  # the filters of a group, (out / 2, in / 2, 3, 3)
        read = np.concatenate([first.sum((0, 2, 3)), second.sum((0, 2, 3))])
        score = (weight_norms(network, f"0.{k}.0", 0) + weight_norms(network, f"0.{k}.1", 0) + read) / 3
        place = lowest(score.reshape(2, -1).mean(0), 0.3)  # the same place leaves every group
        assert removed[f"0.{k}.0"] == place + [len(score) // 2 + c for c in place], f"layer {k}"


@pytest.mark.parametrize("arch", ["plain_cnn", "resnet18"])
def test_without_groups_the_order_is_torch_prunings(arch):
    import torch_pruning as tp

    network = lively(arch, {"width": 0.25})
    own = remove_channels(copy.deepcopy(network), EXAMPLE, 0.3, 1, score_of("magnitude", {"norm": 1}))
    theirs = tp.importance.GroupMagnitudeImportance(p=1, group_reduction="mean")
    assert own == remove_channels(copy.deepcopy(network), EXAMPLE, 0.3, 1, theirs)


def test_rate_is_a_share_of_channels_not_of_parameters():
    network = lively("resnet18", {"width": 0.25})
    start = count_params(network)
    remove_channels(network, EXAMPLE, 0.5, 1, score_of("magnitude", {"norm": 2}))
    assert sizes_of(network)["layer4.1.conv2"]["shapes"] == {"weight": [64, 64, 3, 3]}
    assert count_params(network) == pytest.approx(0.25 * start, rel=0.02)


def test_counts_are_rounded():
    network = lively("resnet18", {"width": 0.5})
    remove_channels(network, EXAMPLE, 0.3, 8, score_of("magnitude", {"norm": 2}))
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.out_channels % 8 == 0 for conv in convs)


def test_plan_ends_below_until_and_leaves_the_network_alone():
    network = lively("resnet18", {"width": 0.25})
    start = count_params(network)
    left = planned(network, EXAMPLE, 0.3, 0.05, 1)
    assert count_params(network) == start
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.05 * start <= left[-2]


def test_a_rate_that_removes_nothing_is_refused():
    network = lively("resnet18", {"width": 0.0625})
    with pytest.raises(ConfigError, match=r"until: .*removes no further channel at 1\.000 of the parameters"):
        planned(network, EXAMPLE, 0.01, 0.5, 64)


def test_a_goal_out_of_reach_is_refused():
    network = lively("resnet18", {"width": 0.25})
    with pytest.raises(
        ConfigError, match=r"until: .*removes no further channel at 0\.\d+ of the parameters; raise until"
    ):
        planned(network, EXAMPLE, 0.4, 0.01, 8)


def test_rounding_is_refused_where_channels_come_in_groups():
    network = lively("compact_cnn", {"groups": 2})
    with pytest.raises(ConfigError, match="round_to = 8: must be 1 for a network with grouped convolutions"):
        remove_channels(network, EXAMPLE, 0.3, 8, score_of("magnitude", {"norm": 2}))


@given(total=st.integers(1, 300), rounds=st.integers(1, 60))
@settings(max_examples=200)
def test_epochs_are_shared_evenly_and_wholly(total, rounds):
    if total < rounds:
        with pytest.raises(
            ConfigError, match=rf"^epochs = {total}: the curve takes {rounds} rounds, each of an epoch or more"
        ):
            share_epochs(total, rounds)
        return
    shares = share_epochs(total, rounds)
    assert sum(shares) == total
    assert len(shares) == rounds
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)
