"""Ranks chosen by a budget, by energy and by variational Bayes, and the CP decomposition."""

import copy
import functools
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.base.errors import ParamsError
from netpress.core.context import Method
from netpress.core.measure import count_macs, count_params
from netpress.core.networks import build_model
from netpress.factorize import run
from netpress.factorize.common.budget import Budget, Candidate, knapsack, ranks_within
from netpress.factorize.common.ranks import discarded, evbmf, rank_of
from netpress.factorize.methods import cp, spatial_svd, svd, tucker2
from netpress.factorize.run import factorize_network
from netpress.params import plugins
from netpress.params.items import Factorize
from netpress.params.reader import member_checks
from netpress.params.schema import parse

NAMES = plugins.names("factorize/methods")
IMAGE = (3, 12, 14)


def method(name, **options):
    module = plugins.load("factorize/methods", name)
    changes = {"min_channels": 1} | ({"images": 0} if name == "svd" else {}) | options
    return Method(name, module, parse(module.Options, module.EXAMPLE | changes, name))


class Twice(nn.Module):
    """A convolution that runs twice for each image."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images):
        return self.conv(self.conv(images).relu())


def network(seed=0):
    """Convolutions of unlike sizes, strides and spectra, one of which runs twice, and two linear layers."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 12, 3, padding=1), Twice(12), nn.ReLU(), nn.Conv2d(12, 20, (3, 2), stride=2), nn.ReLU()]
    layers += [nn.Conv2d(20, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    made = nn.Sequential(*layers, nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 5)).eval()
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d):  # some directions matter more than others
            layer.weight.data *= torch.rand(layer.weight.shape[1])[None, :, None, None] ** 3
    return made


def no_batches():
    return iter(())


def size_of(module, of):
    return count_params(module) if of == "params" else count_macs(module, *IMAGE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["params", "macs"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_budget_is_kept_and_nearly_used(name, of, share):
    """By the sizes that every model's measurement gives, and the same every time."""
    start = network()
    made = copy.deepcopy(start)
    edit = factorize_network(made, method(name, rank=1.0), no_batches, Budget(share, of, IMAGE))
    assert 0.88 * share < size_of(made, of) / size_of(start, of) <= share
    assert factorize_network(start, method(name, rank=1.0), no_batches, Budget(share, of, IMAGE)) == edit
    assert all(torch.equal(a, b) for a, b in zip(start.state_dict().values(), made.state_dict().values(), strict=True))


@pytest.mark.parametrize("of", ["params", "macs"])
def test_wide_layers_use_nearly_all_of_a_budget(of):
    start = build_model("large_cnn", 11, 3, width=0.0625).eval()
    made = copy.deepcopy(start)
    factorize_network(made, method("spatial_svd", rank=1.0), no_batches, Budget(0.5, of, (3, 28, 28)))
    sizes = [count_params(net) if of == "params" else count_macs(net, 3, 28, 28) for net in (made, start)]
    assert 0.49 < sizes[0] / sizes[1] <= 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_may_stay_where_others_lose_nothing(name):
    """A kernel of rank one gives way, one of noise stays."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)).eval()
    made[0].weight.data = torch.einsum("o,i,h,w->oihw", torch.rand(16), torch.rand(16), torch.rand(3), torch.rand(3))
    images = torch.randn(2, 16, 9, 9)
    with torch.no_grad():
        before = made(images)
        edit = factorize_network(made, method(name, rank=1.0), no_batches, Budget(0.6, "params", (16, 9, 9)))
        torch.testing.assert_close(made(images), before, atol=1e-4, rtol=1e-3)
    assert list(edit["layers"]) == ["0"]


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_out_of_reach_says_the_smallest_and_that_one_is_reached(name):
    with pytest.raises(
        ParamsError, match=rf"^budget = 0\.001: the smallest that {name} reaches is (0\.\d+) of"
    ) as error:
        factorize_network(network(), method(name), no_batches, Budget(0.001, "macs", IMAGE))
    assert error.value.faults[0][0] == "budget"
    least = float(str(error.value).split("reaches is ")[1].split(" ")[0])
    made = network()
    factorize_network(made, method(name), no_batches, Budget(least, "macs", IMAGE))
    assert least - 0.001 < size_of(made, "macs") / size_of(network(), "macs") <= least


def test_a_layer_in_two_places_stays_as_it_is():
    """Its weight is shared, which a chain in one of the places would end."""
    alone, shared = network(), network()
    shared.append(nn.Identity())
    shared[-1].again = shared[3]  # named 3, and 12.again
    replaced = [factorize_network(n, method("spatial_svd", rank=0.3), no_batches)["layers"] for n in (alone, shared)]
    assert replaced[0].keys() - replaced[1].keys() == {"3"}
    assert shared[3] is shared[-1].again


def test_a_network_in_which_no_layer_can_be_replaced_is_refused_with_a_budget_too():
    with pytest.raises(ParamsError, match=r"^method_options\.min_channels = 4096: cp leaves all 6 layers"):
        factorize_network(network(), method("cp", min_channels=4096), no_batches, Budget(0.5, "params", IMAGE))


@pytest.mark.parametrize("name", NAMES)
def test_the_options_say_the_largest_rank_that_a_budget_may_give(name):
    """Though nothing smaller than half of the parent is asked for, layers are cut to a tenth of their rank, or stay."""
    mine, layer = method(name, rank=0.1), network()[5]
    largest = mine.module.candidates(layer, mine.options, no_batches())[-1]
    chain = mine.module.factorize(layer, mine.options, no_batches())
    assert [tuple(part.weight.shape) for part in largest.chain] == [tuple(part.weight.shape) for part in chain]


def product(chain):
    """The kernel that a chain stands for: its answer to every unit impulse."""
    return torch.func.functional_call(chain, dict(chain.named_parameters()), (impulses(chain),))


def impulses(chain):
    inputs = chain[0].in_channels
    high, wide = (max(part.kernel_size[side] for part in chain) for side in (0, 1))
    images = torch.zeros(inputs * high * wide, inputs, high, wide, dtype=torch.float64)
    images.view(len(images), -1).fill_diagonal_(1.0)
    return images


def relative_error(layer, chain):
    """The squared error of a convolution's kernel, relative to the kernel's, by what both do to impulses."""
    plain = copy.deepcopy(layer).double()
    plain.bias, plain.padding, plain.stride = None, (0, 0), (1, 1)
    twin = copy.deepcopy(chain).double()
    for part in twin:
        part.bias, part.padding, part.stride = None, (0, 0), (1, 1)
    with torch.no_grad():
        wanted, found = plain(impulses([plain])), twin(impulses([plain]))
    return float((wanted - found).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("name", NAMES)
def test_candidates_are_the_chains_that_are_made_and_their_errors_bound_the_real_ones(name):
    mine, layer = method(name, rank=1.0), network()[3]
    found = mine.module.candidates(layer, mine.options, no_batches())
    errors = []
    for candidate in found[:: max(1, len(found) // 7)] + found[-1:]:
        assert all(part.weight.device.type == "meta" for part in candidate.chain)
        chain = mine.module.factorize(layer, mine.options, no_batches(), candidate.rank)
        shapes = [[tuple(p.shape) for p in made.parameters()] for made in (chain, candidate.chain)]
        assert shapes[0] == shapes[1]
        error = relative_error(layer, chain)
        if name in ("svd", "spatial_svd"):
            assert error == pytest.approx(candidate.error, abs=1e-6)
        assert error <= candidate.error + 1e-6
        errors.append(error)
    assert errors[-1] < 1e-6, "exact at full rank"
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.05
    listed = [candidate.error for candidate in found]
    assert listed == sorted(listed, reverse=True)


def test_the_candidates_of_data_aware_svd_are_errors_on_the_inputs():
    torch.manual_seed(0)
    layer = nn.Linear(24, 16, bias=False)
    images = torch.randn(512, 24) * torch.linspace(0.05, 2, 24)
    options = svd.Options(choose="share", rank=1.0, min_channels=1, images=512)
    for candidate in svd.candidates(layer, options, iter([images]))[::4]:
        chain = svd.factorize(layer, options, iter([images]), candidate.rank)
        with torch.no_grad():
            wanted = layer(images)
            error = float((chain(images) - wanted).square().sum() / wanted.square().sum())
        assert error == pytest.approx(candidate.error, rel=0.03, abs=1e-3)  # damping adds a little


def test_layers_that_stay_have_no_candidates():
    grouped, linear = nn.Conv2d(32, 32, 3, groups=2), nn.Linear(32, 32)
    for name in NAMES:
        mine = method(name)
        assert mine.module.candidates(grouped, mine.options, no_batches()) == []
        assert (mine.module.candidates(linear, mine.options, no_batches()) == []) == (name != "svd")


tables = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 12), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9)),
    min_size=1,
    max_size=6,
)


def as_tables(drawn):
    """Layers with costs that rise and errors that fall with the rank, as a method lists them."""
    costs, errors = [], []
    for step, fixed, lost in drawn:
        ranks = np.arange(1, len(lost) + 1)
        costs.append(np.array([step * (len(lost) + 1) // 2 + 1, *(fixed // 4 + step * ranks)]))
        errors.append(np.array([0.0, *sorted(lost, reverse=True)]))
    return costs, errors


def every(tables):
    return functools.reduce(lambda sums, table: (sums[:, None] + table[None]).ravel(), tables, np.zeros(1))


@given(drawn=tables, part=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_the_knapsack_fits_and_is_no_worse_than_any_uniform_share(drawn, part):
    costs, errors = as_tables(drawn)
    least, most = (sum(int(fold(cost)) for cost in costs) for fold in (min, max))
    limit = int(least + part * (most - least))
    picks = knapsack(costs, errors, limit)
    spent = sum(cost[pick] for cost, pick in zip(costs, picks, strict=True))
    lost = sum(error[pick] for error, pick in zip(errors, picks, strict=True))
    assert spent <= limit
    for share in np.linspace(0, 1, 211):
        uniform = [min(max(1, round(share * (len(cost) - 1))), len(cost) - 1) for cost in costs]
        uniform = [pick if cost[pick] < cost[0] else 0 for cost, pick in zip(costs, uniform, strict=True)]
        if sum(cost[pick] for cost, pick in zip(costs, uniform, strict=True)) <= limit:
            assert lost <= sum(error[pick] for error, pick in zip(errors, uniform, strict=True)) + 1e-9


@pytest.mark.parametrize("seed", range(8))
def test_the_knapsack_is_near_the_best_of_all(seed):
    """By trying every combination, where spectra are convex: within a step of the price."""
    rng = np.random.default_rng(seed)
    costs, errors = [], []
    for _ in range(4):
        ranks, decay = int(rng.integers(5, 12)), rng.uniform(0.4, 0.95)
        energy = decay ** np.arange(ranks)
        costs.append(np.array([int(9 * ranks), *(10 * np.arange(1, ranks + 1))]) * int(rng.integers(1, 5)))
        errors.append(np.array([0.0, *(1 - energy.cumsum() / energy.sum())]))
    spent, lost = every(costs), every(errors)
    for share in (0.3, 0.5, 0.7, 0.9):
        limit = int(share * sum(cost[0] for cost in costs))
        best = lost[spent <= limit].min()
        picks = knapsack(costs, errors, limit)
        found = sum(error[pick] for error, pick in zip(errors, picks, strict=True))
        steps = max(float((error[1:-1] - error[2:]).max()) for error in errors)
        assert best - 1e-12 <= found <= best + steps


def test_a_uniform_share_filled_up_is_taken_where_a_price_leaves_too_much():
    """No price fits between [0, 2], for 26 with an error of 0.8, and both as they are, for 33."""
    costs, errors = [np.array([12, 6]), np.array([21, 7, 14])], [np.array([0, 0.6]), np.array([0, 0.9, 0.8])]
    assert knapsack(costs, errors, 30) == [1, 0]


def test_what_cannot_fit_is_none():
    assert knapsack([np.array([10, 4])], [np.array([0.0, 0.5])], 3) is None
    assert knapsack([np.array([10, 4])], [np.array([0.0, 0.5])], 4) == [1]
    assert knapsack([np.array([10, 4])], [np.array([0.0, 0.5])], 10) == [0]


@pytest.mark.parametrize("seed", range(4))
def test_on_random_networks_no_uniform_share_of_that_size_loses_less(seed):
    """The relative squared errors of plain SVD, from the weights."""
    start = network(seed)
    layers = {name: layer for name, layer in start.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}

    def lost(made):
        total = 0.0
        for name, layer in layers.items():
            values = np.linalg.svd(layer.weight.detach().flatten(1).double().numpy(), compute_uv=False) ** 2
            now = made.get_submodule(name)
            total += values[len(now[0].weight) :].sum() / values.sum() if isinstance(now, nn.Sequential) else 0.0
        return total

    for share in (0.15, 0.3, 0.45):
        uniform, together = copy.deepcopy(start), copy.deepcopy(start)
        factorize_network(uniform, method("svd", rank=share), no_batches)
        size = count_params(uniform) / count_params(start)
        budget = Budget(size * (1 + 1e-12), "params", IMAGE)
        factorize_network(together, method("svd", rank=1.0), no_batches, budget)
        assert count_params(together) <= count_params(uniform)
        assert lost(together) <= lost(uniform) + 1e-9
        assert lost(together) < 0.97 * lost(uniform) or share > 0.4


def test_macs_are_counted_for_each_time_that_a_layer_runs():
    """Of two equal kernels, the one that runs on larger images gives way first."""
    torch.manual_seed(0)
    wide, narrow = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    narrow.weight.data = wide.weight.data.clone()
    made = nn.Sequential(wide, nn.AvgPool2d(4), narrow).eval()
    edit = factorize_network(made, method("svd", rank=1.0), no_batches, Budget(0.7, "macs", (8, 16, 16)))
    assert list(edit["layers"]) == ["0"]


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (SimpleNamespace(candidates=lambda *_: None), "candidates returned None; return list"),
        (SimpleNamespace(candidates=lambda *_: [3]), "candidates listed a int; list entries of"),
        (
            SimpleNamespace(candidates=lambda *_: [Candidate(1, 0.1, nn.Sequential(nn.Conv2d(5, 12, 3)))]),
            r"cannot replace layer '0' \(Conv2d\): its chain has inputs 5 in place of 3",
        ),
    ],
)
def test_candidates_that_are_none_are_refused(module, says):
    with pytest.raises(ParamsError, match=r"^method = mine: .*" + says):
        factorize_network(network(), Method("mine", module, None), no_batches, Budget(0.5, "params", IMAGE))


@pytest.mark.parametrize("count", [0, 2])
def test_normalizations_are_measured_again_before_fine_tuning(monkeypatch, count):
    """The mean of the batches' own means, of what the chains give; before that, the accuracy is measured too."""
    made, seen = network(), []
    batches = [SimpleNamespace(images=torch.randn(8, *IMAGE)) for _ in range(3)]
    quality = SimpleNamespace(named=lambda key: {key: seen.append(key)})
    monkeypatch.setattr(run, "evaluate", lambda *_: quality)
    monkeypatch.setattr(run, "evidence", lambda *_: {})
    monkeypatch.setattr(run, "require_rebuilt", lambda *_: None)
    monkeypatch.setattr(run, "tuning", lambda *_: nullcontext())
    monkeypatch.setattr(run, "save", lambda context, place, seed, made: seen.append(made.evidence))
    work = SimpleNamespace(label="", models=Path())
    monkeypatch.setattr(run, "run_seeds", lambda context, make: make(0, work))
    spec = SimpleNamespace(edits=[], arch="", classes=[], options={}, image=IMAGE, epochs=0)
    run.factorize_model(
        SimpleNamespace(
            parent=lambda seed: SimpleNamespace(network=made, spec=spec),
            method=lambda: method("svd"),
            item=SimpleNamespace(budget=0.6, budget_of="macs", bn_batches=count),
            batches=lambda seed, epoch: iter(batches),
            fit=lambda *_: seen.append(made[6].running_mean.clone()) or [],
            device="cpu",
            val=None,
            train=None,
        )
    )
    with torch.no_grad():
        means = [made[:6](batch.images).mean((0, 2, 3)) for batch in batches[:count]]
    keys = ["val_acc_before_tuning", "val_acc_recalibrated"][: 1 + bool(count)]
    assert seen[: len(keys)] == keys and list(seen[-1]) == keys
    torch.testing.assert_close(seen[len(keys)], torch.stack(means).mean(0) if means else torch.zeros(16))
    assert count_macs(made, *IMAGE) <= 0.6 * count_macs(network(), *IMAGE)


ITEM = {
    "from": "train/teacher",
    "method": "svd",
    "method_options": {"choose": "share", "rank": 1.0, "min_channels": 8, "images": 0},
    "budget": 0.5,
    "budget_of": "params",
    "bn_batches": 0,
    "recipe": "finetune",
    "loss": "labels",
    "loss_options": {},
    "epochs": 1,
}


@pytest.mark.parametrize(
    ("functions", "says"),
    [
        (
            {"factorize": lambda layer, options, inputs: None},
            r"its file defines no candidates\(layer, options, inputs\)",
        ),
        (
            {"factorize": lambda layer, options, inputs: None, "candidates": lambda layer, options, inputs: []},
            r"is called as factorize\(layer, options, inputs, rank\), and cannot be: too many",
        ),
    ],
)
def test_a_method_that_cannot_tell_its_ranks_refuses_a_budget(monkeypatch, functions, says):
    mine = SimpleNamespace(Options=svd.Options, **functions)
    monkeypatch.setattr(plugins, "load", lambda *_: mine)
    check, *_ = member_checks(parse(Factorize, ITEM, "factorize.x"), "factorize.x")
    with pytest.raises(ParamsError, match=rf"^factorize\.x\.budget = 0\.5: svd cannot .*: .*{says}"):
        check()
    check, *_ = member_checks(parse(Factorize, ITEM | {"budget": "none"}, "factorize.x"), "factorize.x")
    check()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("budget", 1.0, "must be a number above 0 and below 1"),
        ("budget", 0.0, "must be a number above 0 and below 1"),
        ("budget", "half", "must be a number above 0"),
        ("budget_of", "bytes", "must be one of params, macs"),
        ("bn_batches", -1, "must be a whole number at least 0"),
    ],
)
def test_what_an_item_may_say(key, value, says):
    with pytest.raises(ParamsError, match=rf"^factorize\.x\.{key} = .*{says}"):
        parse(Factorize, ITEM | {key: value}, "factorize.x")
    assert parse(Factorize, ITEM | {"budget": "none"}, "x").budget == 0
    assert parse(Factorize, ITEM, "x").budget == 0.5


@given(
    values=st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=12),
    rank=st.floats(0.01, 1, allow_subnormal=False),
)
def test_the_rank_by_energy_is_the_smallest_that_keeps_it(values, rank):
    values = torch.tensor(sorted(values, reverse=True)).double()
    options = SimpleNamespace(choose="energy", rank=rank)
    found = rank_of(options, len(values), (len(values), 20), lambda: values)
    energy = values.square().numpy()
    assert 1 <= found <= len(values)
    assert energy[:found].sum() >= rank * energy.sum() * (1 - 1e-9)
    assert found == 1 or energy[: found - 1].sum() < rank * energy.sum() * (1 + 1e-9)


def test_discarded_energy_is_what_lies_beyond_each_rank():
    lost = discarded(torch.tensor([3.0, 2.0, 1.0]))
    np.testing.assert_allclose(lost.numpy(), [5 / 14, 1 / 14, 0], atol=1e-12)
    assert discarded(torch.zeros(2)).tolist() == [0, 0]


def noisy(rows, columns, rank, noise, seed):
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns)) if rank else np.zeros((rows, columns))
    return torch.linalg.svdvals(torch.from_numpy(low + noise * rng.normal(size=(rows, columns))))


@pytest.mark.parametrize("shape", [(40, 40), (30, 120), (120, 30), (64, 300)])
@pytest.mark.parametrize("rank", [0, 1, 5, 12])
@pytest.mark.parametrize("noise", [0.01, 0.5])
def test_evbmf_finds_the_rank_beneath_noise_and_none_in_noise_alone(shape, rank, noise):
    for seed in range(3):
        assert evbmf(noisy(*shape, rank, noise, seed), shape) == rank


def test_evbmf_of_extremes():
    assert evbmf(torch.zeros(5), (5, 7)) == 0
    assert evbmf(torch.tensor([3.0, 2.0, 0.0, 0.0, 0.0]), (5, 7)) == 2
    options = SimpleNamespace(choose="evbmf", rank=0.1)
    values = noisy(40, 60, 12, 0.1, 0)
    assert rank_of(options, 40, (40, 60), lambda: values) == 4, "at most the share"
    assert rank_of(options, 40, (40, 60), lambda: noisy(40, 60, 0, 1.0, 0)) == 1, "at least one"


def shrunk(value, noise, few, many):
    """The singular value that EVB gives in place of `value`, with flat hyperpriors."""
    part = 1 - (few + many) * noise / value**2
    return value / 2 * (part + math.sqrt(part**2 - 4 * few * many * noise**2 / value**4))


def free_energy(values, few, many, log_noise):
    """The free energy of a matrix at this noise, with every value kept or dropped, whichever is less; up to constants.

    Written in the posterior's terms: a kept value of strength d = g' / s has the divergence of two Gaussians.
    """
    noise, total = math.exp(log_noise), few * many * log_noise
    for value in values:
        dropped = value**2 / noise
        options = [dropped]
        if value**2 / noise > (math.sqrt(few) + math.sqrt(many)) ** 2 * (1 + 1e-9):
            g = shrunk(value, noise, few, many)
            kept = many * math.log(1 + value * g / (many * noise)) + few * math.log(1 + value * g / (few * noise))
            options.append(dropped + kept - value * g / noise)
        total += min(options)
    return total


@pytest.mark.parametrize("seed", range(4))
def test_evbmf_is_the_minimum_of_the_free_energy(seed):
    """Counted by trying noises on a fine grid, and keeping each value or not, without the paper's threshold."""
    few, many = 24, 36
    values = noisy(few, many, 8, 0.6 + seed, seed).numpy()
    values = np.concatenate([values[:8] * np.linspace(1, 0.3, 8), values[8:]])
    values = np.sort(values)[::-1]
    grid = np.linspace(math.log(1e-3 * (values**2).mean() / many), math.log((values**2).sum() / few / many), 4000)
    best = grid[int(np.argmin([free_energy(values, few, many, point) for point in grid]))]
    noise = math.exp(best)

    def kept(value):
        if value**2 / noise <= (math.sqrt(few) + math.sqrt(many)) ** 2:
            return False
        g = shrunk(value, noise, few, many)
        gain = many * math.log(1 + value * g / (many * noise)) + few * math.log(1 + value * g / (few * noise))
        return gain < value * g / noise

    wanted = sum(kept(value) for value in values)
    assert evbmf(torch.from_numpy(values.copy()), (few, many)) == wanted
    assert 0 < wanted < few


@pytest.mark.parametrize("module", [svd, tucker2])
def test_evbmf_chooses_the_ranks_of_layers(module):
    torch.manual_seed(0)
    layer = nn.Conv2d(24, 32, 3, padding=1)
    low = torch.einsum("oa,abhw,bi->oihw", torch.randn(32, 5), torch.randn(5, 4, 3, 3), torch.randn(4, 24))
    layer.weight.data = low + 0.05 * torch.randn(32, 24, 3, 3)
    options = parse(module.Options, module.EXAMPLE | {"choose": "evbmf", "rank": 1.0, "min_channels": 1}, "x")
    options = options.model_copy(update={"images": 0}) if module is svd else options
    chain = module.factorize(layer, options, no_batches())
    assert len(chain[-1].weight[0]) == 5, "outputs"
    assert len(chain[0].weight) == (5 if module is svd else 4)


@pytest.mark.parametrize("module", [svd, spatial_svd])
def test_energy_chooses_the_ranks_of_layers(module):
    layer = network()[3]
    options = (
        module.EXAMPLE | {"choose": "energy", "rank": 0.8, "min_channels": 1} | ({"images": 0} if module is svd else {})
    )
    chain = module.factorize(layer, parse(module.Options, options, "x"), no_batches())
    matrix = layer.weight.detach().double()
    matrix = matrix.flatten(1) if module is svd else matrix.permute(1, 2, 0, 3).reshape(12 * 3, 20 * 2)
    energy = np.linalg.svd(matrix.numpy(), compute_uv=False) ** 2
    assert len(chain[0].weight) == 1 + int((energy.cumsum() < 0.8 * energy.sum()).sum())


@given(
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    kernel=st.sampled_from([(3, 3), (5, 3), (2, 2)]),
    stride=st.integers(1, 2),
    bias=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_full_rank_cp_reproduces_the_layer(inputs, outputs, kernel, stride, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=1, dilation=(1, 2), bias=bias)
    chain = cp.factorize(conv, cp.Options(rank=1.0, min_channels=1), no_batches())
    images = torch.randn(2, inputs, 9, 9)
    torch.testing.assert_close(chain(images), conv(images), atol=2e-5, rtol=1e-4)
    assert chain[1].groups == chain[1].in_channels == min(inputs, outputs) * kernel[0] * kernel[1]
    assert [part.kernel_size for part in chain] == [(1, 1), kernel, (1, 1)]


def test_cp_finds_a_kernel_of_low_rank_beyond_what_its_start_holds():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, bias=False)
    conv.weight.data = torch.einsum("or,ir,rhw->oihw", torch.randn(16, 6), torch.randn(16, 6), torch.randn(6, 3, 3))
    options = cp.Options(rank=6 / 144, min_channels=1)
    assert relative_error(conv, cp.factorize(conv, options, no_batches())) < 0.01
    assert cp.candidates(conv, options, no_batches())[5].error > 0.05


def test_the_components_of_cp_do_not_grow_where_no_best_one_exists(monkeypatch):
    """A tensor of rank three that tensors of rank two come near without end, with ever larger components."""
    torch.manual_seed(0)
    (a, b), (c, d), (e, f) = (torch.linalg.qr(torch.randn(n, 2).double())[0].T for n in (8, 8, 9))
    kernel = sum(torch.einsum("o,i,k->oik", *three) for three in ((a, c, f), (a, d, e), (b, c, e)))
    monkeypatch.setattr(cp, "SWEEPS", 3000)

    def largest():
        return float(
            torch.stack([factor.norm(dim=0) for factor in cp._fitted(kernel, 2)]).prod(0).max() / kernel.norm()
        )

    assert largest() < 2.2
    monkeypatch.setattr(cp, "RIDGE", 0.0)
    assert largest() > 3.2


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(32, 32),
        nn.Conv2d(32, 32, 1),
        nn.Conv2d(32, 32, 3, groups=2),
        nn.Conv2d(8, 32, 3),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
    ],
    ids=str,
)
def test_layers_that_cp_leaves(layer):
    assert cp.factorize(layer, method("cp", min_channels=16).options, no_batches()) is None
    assert cp.factorize(nn.Conv2d(32, 32, 3), cp.Options(rank=0.9, min_channels=16), no_batches()) is None


def test_the_ranks_of_a_network_are_those_of_its_layers():
    """A layer that never runs costs no MACs, and stays."""
    made = network()
    made.unused = nn.Identity()
    made.unused.layer = nn.Linear(8, 8)
    layers = {"9": made[9], "unused.layer": made.unused.layer}
    mine = method("svd", rank=1.0)
    listed = {name: svd.candidates(layer, mine.options, no_batches()) for name, layer in layers.items()}
    total = count_macs(made, *IMAGE)
    found = ranks_within(made, layers, listed, Budget(1 - 500 / total, "macs", IMAGE), "svd")
    assert list(found) == ["9"] and found["9"] * (64 + 24) <= 64 * 24 - 500
