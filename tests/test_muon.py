"""The optimizer Muon: orthogonal steps by their definition, and which parameters take them."""

import pytest
import torch
from conftest import RECIPE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.core.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonal
from netpress.core.optimizer import make_optimizer

MUON = RECIPE.model_copy(update={"optimizer": "muon"})


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made_of_groups(network, head="head"):
    """Return the names of the parameters that take orthogonal steps, and of the others."""
    names = {id(p): name for name, p in network.named_parameters()}
    found = {True: set(), False: set()}
    for group in make_optimizer(network, MUON, nn.ModuleDict(), head).param_groups:
        found[group["orthogonal"]] |= {names[id(p)] for p in group["params"]}
    return found[True], found[False]


@settings(deadline=None)  # the first loads LAPACK
@given(st.integers(1, 20), st.integers(1, 40), st.floats(1e-4, 1e4), st.integers(0, 9))
def test_singular_values_follow_the_polynomial_and_vectors_stay(rows, columns, scale, seed):
    matrix = drawn(rows, columns, seed=seed).double()
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = COEFFICIENTS
    s = s / s.norm()
    for _ in range(ITERATIONS):
        s = a * s + b * s**3 + c * s**5
    found = orthogonal((scale * matrix).float()[None])[0]
    torch.testing.assert_close(found, ((u * s) @ vt).float(), atol=2e-4, rtol=0)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 60), st.integers(0, 9))
def test_values_above_a_fiftieth_of_the_norm_come_near_one(rows, columns, seed):
    matrix = drawn(rows, columns, seed=seed)
    s = torch.linalg.svdvals(matrix)
    found = torch.linalg.svdvals(orthogonal(matrix[None])[0])
    large = int((s > s.norm() / 50).sum())
    # the polynomial does not keep the order of the values, so that the smallest are not the last
    assert found.max() <= 1.21
    assert int((found >= 0.68).sum()) >= large


def test_matrices_of_a_stack_do_not_meet_and_zeros_stay():
    stack = torch.stack([drawn(4, 9), torch.zeros(4, 9), drawn(4, 9, seed=1)])
    found = orthogonal(stack)
    assert found[1].abs().max() == 0
    for one, whole in zip(stack, found, strict=True):
        torch.testing.assert_close(orthogonal(one[None])[0], whole)


def test_steps_are_those_of_pytorchs_muon_but_for_bf16():
    start = drawn(12, 30)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
    theirs_optimizer = torch.optim.Muon([theirs], **settings, ns_steps=ITERATIONS)
    group = {"params": [ours], "orthogonal": True, "weight_decay": 0.1}
    optimizer = Muon([group], lr=0.05, momentum=0.9)
    for seed in range(8):
        for parameter, own in ((ours, optimizer), (theirs, theirs_optimizer)):
            parameter.grad = drawn(12, 30, seed=seed)
            own.step()
    assert (ours - start).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0)


@pytest.mark.parametrize(("shape", "factor"), [((8, 2), 2.0), ((2, 8), 1.0), ((9, 1, 1, 1), 3.0), ((4, 2, 3, 3), 1.0)])
def test_a_tall_matrix_takes_longer_steps_and_a_kernel_is_one(shape, factor):
    parameter, gradient = nn.Parameter(torch.zeros(shape)), drawn(*shape)
    parameter.grad = gradient.clone()
    Muon([{"params": [parameter], "orthogonal": True}], lr=0.1, momentum=0.9).step()
    expected = -0.1 * factor * orthogonal(gradient.flatten(1)[None])[0].view(shape)
    torch.testing.assert_close(parameter.detach(), expected)


def test_depthwise_kernels_the_head_and_what_is_no_matrix_take_the_steps_of_sgd():
    network = nn.Sequential()
    network.add_module("conv", nn.Conv2d(3, 6, 3))
    network.add_module("norm", nn.BatchNorm2d(6))
    network.add_module("depthwise", nn.Conv2d(6, 6, 3, groups=6))
    network.add_module("middle", nn.Linear(6, 6))
    network.add_module("head", nn.Linear(6, 4))
    orthogonal_steps, others = made_of_groups(network)
    assert orthogonal_steps == {"conv.weight", "middle.weight"}
    assert others == {name for name, _ in network.named_parameters()} - orthogonal_steps
    copy = {name: nn.Parameter(p.detach().clone()) for name, p in network.named_parameters() if name in others}
    decayed = [p for p in copy.values() if p.ndim > 1]
    kept = [p for p in copy.values() if p.ndim == 1]
    sgd = torch.optim.SGD(
        [{"params": decayed, "weight_decay": MUON.weight_decay}, {"params": kept}],
        MUON.lr,
        MUON.momentum,
        nesterov=True,
    )
    optimizer = make_optimizer(network, MUON, nn.ModuleDict(), "head")
    for seed in range(3):
        for name, parameter in network.named_parameters():
            parameter.grad = drawn(*parameter.shape, seed=seed)
            if name in copy:
                copy[name].grad = parameter.grad.clone()
        optimizer.step()
        sgd.step()
    for name, parameter in copy.items():
        torch.testing.assert_close(network.get_parameter(name), parameter)
