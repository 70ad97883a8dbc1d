"""Low-rank chains: exact at full rank, smaller below it, rebuilt from their edit."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import NO_AUGMENT, striped
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.base.errors import ConfigError, ParamsError
from netpress.core.batches import training_batches
from netpress.core.context import Method
from netpress.core.measure import count_params
from netpress.core.networks import build_model, rebuild
from netpress.factorize.methods import spatial_svd, svd, tucker2
from netpress.factorize.run import factorize_network
from netpress.params import plugins
from netpress.params.schema import parse


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
    chain = tucker2.factorize(conv, tucker2.Options(choose="share", rank=1.0, min_channels=1), iter(()))
    images = torch.randn(2, inputs, 9, 9)
    torch.testing.assert_close(chain(images), conv(images), atol=2e-5, rtol=1e-4)


def test_a_kernel_of_low_rank_is_reproduced_at_that_rank():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    core, left, right = torch.randn(4, 4, 3, 3), torch.randn(16, 4), torch.randn(16, 4)
    conv.weight.data = torch.einsum("abhw,oa,ib->oihw", core, left, right)
    chain = tucker2.factorize(conv, tucker2.Options(choose="share", rank=0.25, min_channels=1), iter(()))
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
    assert tucker2.factorize(conv, tucker2.Options(choose="share", rank=0.5, min_channels=8), iter(())) is None


def test_a_chain_that_would_not_be_smaller_is_not_made():
    assert (
        tucker2.factorize(nn.Conv2d(32, 32, 3), tucker2.Options(choose="share", rank=0.97, min_channels=8), iter(()))
        is None
    )


def batches(size=32, channels=3):
    """Training batches of noise, the same at each call."""
    split = striped(24, size=size, channels=channels)
    return training_batches(split, NO_AUGMENT, 0.0, 8, 0, 0)


def method(name, **options):
    module = plugins.load("factorize/methods", name)
    return Method(name, module, parse(module.Options, module.EXAMPLE | options, name))


@pytest.mark.parametrize("name", plugins.names("factorize/methods"))
def test_contract(name):
    """Every method at its EXAMPLE: a smaller network that its edit rebuilds bit by bit, and the same every time."""
    torch.manual_seed(0)
    network = build_model("large_cnn", 11, 3, width=0.125).eval()
    twin = copy.deepcopy(network)
    start = count_params(network)
    edit = factorize_network(network, method(name), batches)
    assert count_params(network) < start
    assert factorize_network(twin, method(name), batches) == edit
    again = rebuild("large_cnn", 11, 3, {"width": 0.125}, [edit], network.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again(images), network(images))
        assert torch.equal(twin(images), network(images))
    assert not any(layer._forward_pre_hooks for layer in network.modules())


def test_a_network_without_a_layer_to_factorize_is_refused():
    network = build_model("large_cnn", 11, 3, width=0.0625)
    expected = r"^method_options\.min_channels = 4096: tucker2 leaves all 16 layers .* the widest has 64 .*; lower it"
    with pytest.raises(ConfigError, match=expected):
        factorize_network(network, method("tucker2", min_channels=4096), batches)


def conv(inputs, outputs, size=3, **changes):
    return nn.Conv2d(inputs, outputs, size, **({"padding": size // 2} | changes))


@pytest.mark.parametrize(
    ("chain", "says"),
    [
        (nn.Sequential(), "it gives an empty chain; give one of a layer or more, or None"),
        (nn.Sequential(conv(8, 4), nn.ReLU(), conv(4, 16)), "a chain may hold Conv2d and Linear, not a ReLU"),
        (nn.Sequential(conv(4, 4), conv(4, 16)), r"inputs 4 in place of 8 and stride \(1, 1\) in place of \(2, 2\)"),
        (nn.Sequential(conv(8, 4, stride=2), conv(4, 8)), "its chain has outputs 8 in place of 16"),
        (nn.Sequential(conv(8, 4), conv(4, 16)), r"its chain has stride \(1, 1\) in place of \(2, 2\)"),
        (
            nn.Sequential(conv(8, 4, stride=2), conv(5, 16)),
            r"Conv2d\(5, 16, .*\) of its chain does not run on \(2, 4, 34, 34\) \(Inv",
        ),
        (
            nn.Sequential(conv(8, 4, padding=0, stride=2), conv(4, 16, 1)),
            r"gives \(2, 16, 33, 33\) for inputs of \(2, 8, 67, 68\) in place of \(2, 16, 34, 34\); look at kernels",
        ),
        (nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 16)), r"its chain has stride \(\) in place of \(2, 2\)"),
    ],
)
def test_a_chain_that_cannot_take_the_place_of_its_layer_is_refused_by_its_name(chain, says):
    network = nn.Sequential(nn.Sequential(conv(8, 16, stride=2)), nn.Flatten())
    mine = SimpleNamespace(factorize=lambda layer, options, inputs: chain)
    begin = r"^method = mine: mine cannot replace layer '0\.0' \(Conv2d\): "
    with pytest.raises(ParamsError, match=begin + ".*" + says) as error:
        factorize_network(network, Method("mine", mine, None), batches)
    assert error.value.faults[0][0] == "method"
    assert type(network[0][0]) is nn.Conv2d, "nothing was replaced"


def test_a_chain_for_a_linear_layer_is_compared_too():
    network = nn.Sequential(nn.Linear(8, 16))
    mine = SimpleNamespace(factorize=lambda *_: nn.Sequential(nn.Linear(8, 4), nn.Linear(5, 16)))
    with pytest.raises(ParamsError, match=r"layer '0' \(Linear\): Linear\(.*\) of its chain does not run on \(2, 4\)"):
        factorize_network(network, Method("mine", mine, None), batches)


def rank_of(chain):
    return len(chain[0].weight)


def error(chain, layer, given):
    with torch.no_grad():
        return float((chain(given) - layer(given)).square().mean())


torch.manual_seed(0)  # of the layers' weights
LAYERS = [
    (nn.Linear(24, 16), (64, 24)),
    (nn.Conv2d(8, 16, 3, padding=1, stride=2, bias=False), (16, 8, 9, 9)),
    (nn.Conv2d(24, 16, 1), (16, 24, 5, 5)),
]


def correlated(shape, seed=0):
    """Inputs that lie near a few directions of the channels."""
    torch.manual_seed(seed)
    mix = torch.randn(shape[1], 4) @ torch.randn(4, shape[1]) + 0.05 * torch.randn(shape[1], shape[1])
    return torch.einsum("bi...,ij->bj...", torch.randn(*shape), mix)


def least_error(layer, given, rank):
    """The smallest mean squared error on these inputs that any weight of that rank has: reduced-rank regression."""
    places = given if isinstance(layer, nn.Linear) else columns_of(layer, given)
    moment = np.cov(places.double().numpy(), rowvar=False, bias=True) + np.outer(*[places.double().mean(0).numpy()] * 2)
    weight = layer.weight.detach().flatten(1).double().numpy()
    values = np.linalg.svd(weight @ np.linalg.cholesky(moment), compute_uv=False)
    return float((values[rank:] ** 2).sum() / len(weight))


def columns_of(layer, given):
    """What a convolution computes each place from: (places, I kh kw)."""
    patches = nn.functional.unfold(given, layer.kernel_size, 1, layer.padding, layer.stride)
    return patches.transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=["linear", "3x3", "pointwise"])
def test_svd_has_the_least_error_on_its_inputs_that_its_rank_allows(layer, shape):
    given = correlated(shape)
    options = {"choose": "share", "rank": 0.25, "min_channels": 1}
    aware = svd.factorize(layer, svd.Options(**options, images=len(given)), iter([given]))
    plain = svd.factorize(layer, svd.Options(**options, images=0), iter(()))
    assert rank_of(aware) == rank_of(plain) == 4
    assert error(aware, layer, given) == pytest.approx(least_error(layer, given, 4), rel=0.02)
    assert error(aware, layer, given) < 0.9 * error(plain, layer, given)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=["linear", "3x3", "pointwise"])
def test_svd_of_white_inputs_is_svd_of_the_weight(layer, shape):
    """The best approximation of that rank in the sense of Eckart, Young and Mirsky."""
    options = svd.Options(choose="share", rank=0.25, min_channels=1, images=0)
    chain = svd.factorize(layer, options, iter(()))
    weight = layer.weight.detach().flatten(1).numpy().astype(np.float64)
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    best = (left[:, :4] * values[:4]) @ right[:4]
    found = (chain[1].weight.flatten(1) @ chain[0].weight.flatten(1)).detach().numpy()
    np.testing.assert_allclose(found, best, atol=1e-5)


def test_svd_takes_no_more_images_than_it_is_told():
    layer, seen = nn.Linear(24, 16), []

    def inputs():
        for k in range(9):
            seen.append(k)
            yield correlated((10, 24), k)

    svd.factorize(layer, svd.Options(choose="share", rank=0.25, min_channels=1, images=25), inputs())
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    ("layer", "changes"),
    [
        (nn.Conv2d(32, 32, 3, groups=2), {}),
        (nn.Conv2d(32, 32, 3, padding="same"), {}),
        (nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"), {}),
        (nn.Conv2d(3, 32, 3), {}),
        (nn.Linear(32, 32), {"rank": 0.6}),
    ],
    ids=["grouped", "same", "reflect", "narrow", "not smaller"],
)
def test_layers_that_svd_leaves(layer, changes):
    options = svd.Options(**({"choose": "share", "rank": 0.25, "min_channels": 8, "images": 0} | changes))
    assert svd.factorize(layer, options, iter(())) is None


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 24, 3, padding=1),
        nn.Conv2d(24, 16, (3, 5), stride=(2, 1), padding=(0, 2), bias=False),
        nn.Conv2d(16, 16, 3, dilation=(1, 2), stride=(1, 2)),
    ],
    ids=["3x3", "unlike sides", "dilated"],
)
def test_full_rank_spatial_svd_reproduces_the_layer(conv):
    chain = spatial_svd.factorize(conv, spatial(rank=1.0), iter(()))
    images = torch.randn(2, conv.in_channels, 13, 17)
    torch.testing.assert_close(chain(images), conv(images), rtol=1e-4, atol=1e-5)
    assert [part.kernel_size[side] for part, side in zip(chain, (1, 0), strict=True)] == [1, 1]


def spatial(**changes):
    return method("spatial_svd", **changes).options


def test_the_error_of_spatial_svd_falls_with_its_rank():
    torch.manual_seed(0)
    conv, images = nn.Conv2d(16, 16, 3, padding=1), torch.randn(4, 16, 9, 9)
    factorize = spatial_svd.factorize
    with torch.inference_mode():
        chains = [factorize(conv, spatial(rank=rank), iter(())) for rank in (0.1, 0.25, 0.45)]
        errors = [float((chain(images) - conv(images)).square().mean()) for chain in chains]
    assert errors == sorted(errors, reverse=True) and errors[2] < errors[0] / 1.5


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(32, 32),
        nn.Conv2d(32, 32, 1),
        nn.Conv2d(32, 32, (3, 1)),
        nn.Conv2d(32, 32, 3, groups=2),
        nn.Conv2d(8, 32, 3),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(32, 32, 3, padding="same"),
    ],
    ids=str,
)
def test_layers_that_spatial_svd_leaves(layer):
    assert spatial_svd.factorize(layer, spatial(), iter(())) is None
    assert spatial_svd.factorize(nn.Conv2d(32, 32, 3), spatial(rank=0.9), iter(())) is None
