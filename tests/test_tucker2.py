"""Tucker-2 against the tests' own higher-order orthogonal iteration, and its shapes."""

import numpy as np
import pytest
import torch
from torch import nn

from netpress.factorize.methods.tucker2 import Options, factorize


def leading(matrix, rank):
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]


def iterated(kernel, rank_out, rank_in, steps):
    """The kernel (O, I, h, w) projected on its mode vectors, after some steps from their start by SVD."""
    left = leading(kernel.reshape(len(kernel), -1), rank_out)
    right = leading(kernel.transpose(1, 0, 2, 3).reshape(kernel.shape[1], -1), rank_in)
    for _ in range(steps):
        half = np.einsum("oihw,ib->obhw", kernel, right)
        left = leading(half.reshape(len(kernel), -1), rank_out)
        half = np.einsum("oihw,oa->aihw", kernel, left)
        right = leading(half.transpose(1, 0, 2, 3).reshape(kernel.shape[1], -1), rank_in)
    return np.einsum("oihw,oa,pa,ib,jb->pjhw", kernel, left, left, right, right, optimize=True)


def product(chain):
    """The kernel that a chain of three convolutions stands for."""
    first, core, last = (conv.weight.detach().double().numpy() for conv in chain)
    return np.einsum("oa,abhw,bi->oihw", last[:, :, 0, 0], core, first[:, :, 0, 0])


@pytest.mark.parametrize(("inputs", "outputs", "rank"), [(16, 16, 0.5), (12, 30, 0.4), (24, 10, 0.3)])
def test_it_is_orthogonal_iteration_from_the_svd(inputs, outputs, rank):
    """A kernel of noise has many near-optimal projections: another start ends in another one."""
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    kernel = conv.weight.detach().double().numpy()
    found = product(factorize(conv, Options(choose="share", rank=rank, min_channels=1), iter(())))
    ranks = round(rank * outputs), round(rank * inputs)
    steps = [iterated(kernel, *ranks, steps) for steps in range(1, 51)]
    nearest = min(np.abs(found - step).max() for step in steps)
    assert nearest < 1e-5 * np.abs(kernel).max()
    start = np.linalg.norm(kernel - iterated(kernel, *ranks, 0))
    assert np.linalg.norm(kernel - found) <= start + 1e-6


def test_twice_gives_the_same_bits():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 24, 3)
    chains = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        chains.append(factorize(conv, Options(choose="share", rank=0.5, min_channels=1), iter(())))
    for one, other in zip(*(chain.state_dict().values() for chain in chains), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("rank", "inner"), [(0.5, (10, 15)), (0.28, (6, 8)), (0.01, (1, 1))])
def test_ranks_are_shares_of_each_layers_own_channels_to_the_nearest(rank, inner):
    """Of 20 inputs and 30 outputs; 0.28 of 20 is 5.6."""
    first, core, last = factorize(
        nn.Conv2d(20, 30, 3, stride=2, padding=1), Options(choose="share", rank=rank, min_channels=1), iter(())
    )
    assert (first.in_channels, first.out_channels) == (20, inner[0])
    assert (core.in_channels, core.out_channels) == inner
    assert (last.in_channels, last.out_channels) == (inner[1], 30)
    assert (first.stride, core.stride, last.stride) == ((1, 1), (2, 2), (1, 1))
