"""The test of the processor: it sees wrong values, and counts operations as they are done."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from netpress.core.kernels import small_maps
from netpress.process import selftest
from netpress.process.selftest import ALLOWED, CASES, errors, speeds


@pytest.mark.parametrize("training", [small_maps, nullcontext])
def test_this_processor_computes_as_double_precision_does(training):
    found = errors(training)
    assert list(found) == [case.name for case in CASES]
    assert all(0 < error < ALLOWED for error in found.values()), found


@pytest.mark.parametrize("wrong", [2e-4, float("nan")])
def test_values_that_are_wrong_in_one_place_are_seen(monkeypatch, wrong):
    def linear(x, weight, bias):
        out = product(x, weight, bias)
        if x.dtype == torch.float32:
            out = out + torch.zeros_like(out).index_put((torch.tensor(1), torch.tensor(2)), out.abs().max() * wrong)
        return out

    product = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", linear)
    assert [name for name, error in errors(nullcontext).items() if not error <= ALLOWED] == ["matrix product"]


def test_coarser_arithmetic_than_single_precision_is_seen():
    with torch.autocast("cpu", torch.bfloat16):
        assert all(error > ALLOWED for error in errors(nullcontext).values())


def test_speed_is_of_both_passes_with_one_thread(monkeypatch):
    """A clock that stands still for the length of two rounds: operations a second are those of three products."""
    threads, ticks = [], iter(range(100))

    def clock():
        threads.append(torch.get_num_threads())
        return next(ticks)

    monkeypatch.setattr(selftest.time, "perf_counter", clock)
    monkeypatch.setattr(selftest, "CASES", [case for case in CASES if case.name in ("matrix product", "3x3")])
    torch.set_num_threads(2)
    found = speeds(nullcontext)
    assert set(threads) == {1} and torch.get_num_threads() == 2
    # One batch of 64 images, over two ticks: of the loop's end, and of the division.
    assert found["matrix product"] == pytest.approx(3 * 2 * 64 * 512 * 512 / 2 / 1e9)
    assert found["3x3"] == pytest.approx(3 * 2 * 64 * 64 * 64 * 9 * 14 * 14 / 2 / 1e9)


def test_it_draws_no_random_numbers_of_others():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    errors(nullcontext)
    assert torch.equal(torch.rand(3), expected)
