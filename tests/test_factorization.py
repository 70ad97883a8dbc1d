"""Low-rank chains: exact at full rank, smaller below it, rebuilt from their edit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.base.errors import ConfigError
from netpress.core.measure import count_params
from netpress.core.networks import build_model, rebuild
from netpress.factorize.methods import tucker2
from netpress.factorize.run import factorize_network
from netpress.params import plugins


@given(
    inputs=st.integers(1, 12),
    outputs=st.integers(1, 12),
    kernel=st.sampled_from([(3, 3), (5, 3), (2, 2)]),
    stride=st.integers(1, 2),
    bias=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_full_rank_tucker_reproduces_the_layer(inputs, outputs, kernel, stride, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=bias)
    chain = tucker2.factorize(conv, tucker2.Options(rank=1.0, min_channels=1))
    images = torch.randn(2, inputs, 9, 9)
    torch.testing.assert_close(chain(images), conv(images), atol=2e-5, rtol=1e-4)


def test_a_kernel_of_low_rank_is_reproduced_at_that_rank():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    core, left, right = torch.randn(4, 4, 3, 3), torch.randn(16, 4), torch.randn(16, 4)
    conv.weight.data = torch.einsum("abhw,oa,ib->oihw", core, left, right)
    chain = tucker2.factorize(conv, tucker2.Options(rank=0.25, min_channels=1))
    images = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(chain(images), conv(images), atol=1e-3, rtol=1e-4)
    assert count_params(chain) < count_params(conv)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(32, 32, 1),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 32, 3, groups=2),
        nn.Conv2d(3, 32, 3),
    ],
    ids=["pointwise", "depthwise", "grouped", "narrow"],
)
def test_layers_that_stay(conv):
    assert tucker2.factorize(conv, tucker2.Options(rank=0.5, min_channels=8)) is None


def test_a_chain_that_would_not_be_smaller_is_not_made():
    assert tucker2.factorize(nn.Conv2d(32, 32, 3), tucker2.Options(rank=0.97, min_channels=8)) is None


@pytest.mark.parametrize("method", plugins.names("factorize/methods"))
def test_contract_smaller_close_and_rebuilt_exactly(method):
    """Every method at its ordinary settings: a smaller network that its edit rebuilds bit by bit."""
    torch.manual_seed(0)
    options = {"tucker2": {"rank": 0.5, "min_channels": 16}}[method]
    network = build_model("large_cnn", 11, 3, width=0.125).eval()
    start = count_params(network)
    edit = factorize_network(network, method, options)
    assert count_params(network) < 0.7 * start
    again = rebuild("large_cnn", 11, 3, {"width": 0.125}, [edit], network.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again(images), network(images))


def test_a_network_without_a_layer_to_factorize_is_refused():
    network = build_model("large_cnn", 11, 3, width=0.0625)
    expected = r"^method_options\.min_channels = 4096: tucker2 leaves all 14 .* the widest has 64 channels; lower it"
    with pytest.raises(ConfigError, match=expected):
        factorize_network(network, "tucker2", {"rank": 0.5, "min_channels": 4096})
