"""Channels of several groups ranked together, the scores made for it, and weights refitted after a removal."""

import copy
import json
from functools import partial

import pytest
import torch
from conftest import NO_AUGMENT, planned, rates, score_of, striped
from hypothesis import given, settings
from hypothesis import strategies as st
from little import CURVE, SECTIONS, copy_of, make_project
from test_pruning_channels import lively, silence
from test_pruning_scores import Two
from torch import nn

from netpress.base.errors import ConfigError
from netpress.core.batches import Batch, training_batches
from netpress.core.measure import count_macs, count_params, size_of
from netpress.core.networks import outputs_of
from netpress.graph.checks import load_checked
from netpress.prune.common.channels import remove_channels, sum_over_group
from netpress.prune.common.plan import plan_rounds
from netpress.prune.common.ranking import Coupled, Goal, fewest, leaving_order, same_share
from netpress.prune.common.reconstruction import reconstruct
from netpress.prune.scores.lamp import lamp

NETWORKS = [
    ("resnet18", {"width": 0.25}),
    ("mobile_student", {"width": 0.5}),
    ("compact_cnn", {"groups": 2}),
    ("compact_cnn", {"groups": "depthwise"}),
]
EXAMPLE = torch.zeros(2, 3, 32, 32)
MAGNITUDE = ("magnitude", {"norm": 2})


def groups_of(scores, step=1, kinds=None):
    kinds = kinds or [""] * len(scores)
    tensors = [torch.tensor(each, dtype=torch.float64) for each in scores]
    return [Coupled(str(k), each, 1, step, kinds[k]) for k, each in enumerate(tensors)]


def channels_left(groups, counts):
    return sum(len(group.scores) - count for group, count in zip(groups, counts, strict=True))


def goal(left, scope="global", comparable=True, size=None):
    return Goal(scope, comparable, size, left)


SCORES = st.lists(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30), min_size=1, max_size=6)


@given(SCORES, st.floats(0.05, 0.9), st.sampled_from(["global", "isomorphic"]))
@settings(max_examples=150, deadline=None)
def test_as_many_channels_leave_as_with_the_same_share_and_no_group_is_emptied(scores, rate, scope):
    groups = groups_of(scores, kinds=[k % 2 for k in range(len(scores))])
    left = channels_left(groups, same_share(groups, rate))
    counts = fewest(groups, goal(left, scope), partial(channels_left, groups))
    assert channels_left(groups, counts) == left
    assert all(0 <= count < len(group.scores) for group, count in zip(groups, counts, strict=True))


@given(SCORES, st.integers(2, 8), st.floats(0.0, 1.0))
@settings(max_examples=150, deadline=None)
def test_steps_are_kept_whole_and_no_more_leaves_than_must(scores, step, share):
    groups = groups_of(scores, step)
    least = channels_left(groups, [max(0, len(each) - step) for each in scores])
    left = round(least + share * (channels_left(groups, [0] * len(groups)) - least))
    seen = {}

    def size(counts):
        seen[tuple(counts)] = channels_left(groups, counts)
        return seen[tuple(counts)]

    counts = fewest(groups, goal(left), size)
    assert channels_left(groups, counts) <= left
    for group, count in zip(groups, counts, strict=True):
        assert count == 0 or ((len(group.scores) - count) % step == 0 and len(group.scores) - count >= step)
    fewer = [n for n in seen.values() if n > channels_left(groups, counts)]
    assert all(n > left for n in fewer), "a smaller removal was enough"


def test_the_lowest_of_all_leave_first_and_the_best_tenth_of_a_group_last():
    groups = groups_of([[0.9, 0.1, 0.5], [0.2, 0.3, 0.05], [0.01 * k for k in range(1, 21)]])
    order = leaving_order(groups, goal(0))
    lowest = sorted((s, k) for k, g in enumerate(groups) for s in g.scores.tolist())
    free = [k for s, k in lowest if s not in (0.9, 0.3, 0.19, 0.2) or (k == 1 and s == 0.2)]
    assert order[: len(free)] == free
    assert order[len(free) :] == [2], "of the third group, two are the best tenth, of which one stays"


def test_scores_are_divided_by_their_groups_mean_unless_they_compare():
    scores = [[1.0, 2.0, 3.0, 4.0], [100.0, 900.0, 100.0, 900.0]]
    as_they_are = leaving_order(groups_of(scores), goal(0, comparable=True))
    assert as_they_are[:3] == [0, 0, 0]
    assert leaving_order(groups_of(scores), goal(0, comparable=False))[:3] == [1, 1, 0]  # 0.2, 0.2, 0.4, 0.8, ...
    larger = [scores[0], [10.0 * s for s in scores[1]]]
    assert leaving_order(groups_of(larger), goal(0, comparable=False)) == leaving_order(
        groups_of(scores), goal(0, comparable=False)
    )


def test_isomorphic_groups_lose_the_same_share_whatever_the_scale_of_other_kinds():
    generator = torch.Generator().manual_seed(0)
    scores = [(torch.rand(40, generator=generator) * scale).tolist() for scale in (1.0, 1.0, 1e-6, 1e-6)]
    groups = groups_of(scores, kinds=["a", "a", "b", "b"])
    together = fewest(groups, goal(120, "global"), partial(channels_left, groups))
    assert together[:2] == [0, 0]
    apart = fewest(groups, goal(120, "isomorphic"), partial(channels_left, groups))
    assert sum(apart[:2]) == sum(apart[2:]) == 20
    assert apart != [10] * 4, "within a kind the lowest leave"


@pytest.mark.parametrize("until_of", ["params", "macs"])
@pytest.mark.parametrize("scope", ["global", "isomorphic"])
@pytest.mark.parametrize(("arch", "options"), NETWORKS, ids=str)
def test_every_round_has_the_size_that_it_has_with_the_same_share_of_every_group(arch, options, scope, until_of):
    network = lively(arch, options)
    plan = plan_rounds(network, EXAMPLE, lambda number, left: 0.3 if number < 3 else None, 1, until_of)
    local = copy.deepcopy(network)
    for rate, left in plan:
        remove_channels(local, EXAMPLE, rate, 1, score_of(*MAGNITUDE))
        assert size_of(local, until_of, EXAMPLE.shape[1:]) == left
        size = partial(size_of, of=until_of, image=EXAMPLE.shape[1:])
        remove_channels(network, EXAMPLE, goal(left, scope, False, size), 1, score_of(*MAGNITUDE))
        assert 0.97 * left < size(network) <= left
    widths = [[m.out_channels for m in n.modules() if isinstance(m, nn.Conv2d)] for n in (network, local)]
    assert widths[0] != widths[1]
    assert min(widths[0]) > 0


@pytest.mark.parametrize(("arch", "options"), NETWORKS, ids=str)
def test_pruned_equals_masked_where_groups_are_ranked_together(arch, options):
    full = lively(arch, options)
    pruned = copy.deepcopy(full)
    half = goal(count_params(full) // 2, "global", False, count_params)
    removed = remove_channels(pruned, EXAMPLE, half, 1, score_of(*MAGNITUDE))
    silence(full, removed)
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(pruned(images), full(images), atol=1e-5, rtol=1e-5)


def test_multiples_are_kept_where_groups_are_ranked_together():
    network = lively("resnet18", {"width": 0.5})
    half = goal(count_params(network) // 2, "global", False, count_params)
    remove_channels(network, EXAMPLE, half, 8, score_of(*MAGNITUDE))
    assert all(module.out_channels % 8 == 0 for module in network.modules() if isinstance(module, nn.Conv2d))
    assert count_params(network) <= half.left


def test_rounds_end_by_multiply_adds_where_they_are_asked_for():
    network = lively("mobile_student", {"width": 0.5})
    plan = plan_rounds(network, EXAMPLE, rates(0.3, 0.1), 1, "macs")
    start = count_macs(network, 3, 32, 32)
    assert plan[-1][1] < 0.1 * start <= plan[-2][1]
    assert [left for _, left in plan] != planned(network, EXAMPLE, 0.3, 0.1, 1)
    with pytest.raises(ConfigError, match=r"removes no further channel at 0\.\d+ of the multiply-adds; raise until"):
        plan_rounds(network, EXAMPLE, rates(0.3, 1e-5), 1, "macs")


def test_too_few_epochs_for_a_share_of_the_multiply_adds_are_named_before_any_training(tmp_path):
    curve = SECTIONS["prune"] | {"until_of": "macs", "until": 0.3}
    load_checked(make_project(tmp_path / "enough", prune=curve | {"epochs": 2}) / "params.yaml")
    with pytest.raises(ConfigError, match=r"prune\.epochs = 1: the curve takes 2 rounds or more"):
        load_checked(make_project(tmp_path / "few", prune=curve | {"epochs": 1}) / "params.yaml")


class Stated(nn.Module):
    """A part that states its own sizes, so that it cannot lose channels."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, features):
        return self.inner(features).view(len(features), 8, 7, 7)


@pytest.mark.parametrize("rate", [0.5, goal(190, "global", True, count_params)], ids=["local", "global"])
def test_scores_from_gradients_outlive_a_part_that_has_to_stay_whole(rate):
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), Stated(), nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    )
    score = score_of("taylor", {"batches": 1})
    score.observe(network, iter([Batch(torch.randn(4, 1, 9, 9), torch.eye(2)[[0, 1, 0, 1]], torch.arange(4), None)]))
    removed = remove_channels(network, torch.zeros(2, 1, 9, 9), rate, 1, score)
    assert removed and removed.keys() <= {"0", "2"}
    assert network[1].inner.out_channels == 8 and count_params(network) <= 190


# Scores


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40, unique=True))
def test_lamp_is_the_published_ratio(norms):
    expected = [u / sum(v for v in norms if v >= u) for u in norms]
    found = lamp(torch.tensor(norms, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-12)
    assert found.max() == 1 and int(found.argmax()) == norms.index(max(norms))
    assert found.argsort().tolist() == torch.tensor(norms, dtype=torch.float64).argsort().tolist()


def test_lamp_of_nothing_is_nothing():
    assert lamp(torch.zeros(3)).tolist() == [0, 0, 0]


def test_lamp_adds_up_what_the_group_couples():
    torch.manual_seed(0)
    network, seen = Two(), {}
    with torch.no_grad():
        squares = network.first.weight.square().sum((1, 2, 3)) + network.second.weight.square().sum((0, 2, 3))
    found_by_layer(network, score_of("lamp", {}), seen)
    expected = [float(u / squares[squares >= u].sum()) for u in squares]
    assert seen["first"].tolist() == pytest.approx(expected, rel=1e-5)


def found_by_layer(network, score, seen, example=(2, 1, 9, 9)):
    """Prune, and note the score of each group under the name of its first layer."""

    def noted(group):
        name = group[0].dep.target.name.partition(" ")[0]
        seen[name] = score(group)
        return seen[name]

    remove_channels(network, torch.zeros(*example), 0.25, 1, noted)


def test_bn_scale_is_the_absolute_scale():
    network = lively("compact_cnn", {})
    with torch.no_grad():
        network[0][0][1].weight *= -1
    expected, seen = network[0][0][1].weight.detach().abs(), {}
    found_by_layer(network, score_of("bn_scale", {}), seen, (2, 3, 32, 32))
    torch.testing.assert_close(seen["0.0.0"], expected, rtol=1e-5, atol=0)


def test_a_group_without_a_scale_is_named():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(100, 2))
    with pytest.raises(ConfigError, match=r"^method = bn_scale: the channels of layer '2' pass no normalization with"):
        remove_channels(network, torch.zeros(2, 1, 9, 9), 0.25, 1, score_of("bn_scale", {}))
    network[2] = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False))
    with pytest.raises(ConfigError, match=r"^method = bn_scale: the channels of layer '2\.0' pass no normalization"):
        remove_channels(network, torch.zeros(2, 1, 9, 9), 0.25, 1, score_of("bn_scale", {}))


def test_obd_is_half_the_squared_weight_times_the_mean_squared_gradient():
    torch.manual_seed(0)
    network, seen = Two(), {}
    network.first.bias = nn.Parameter(torch.randn(4))
    images, targets = torch.randn(12, 1, 9, 9), torch.eye(2)[torch.arange(12) % 2]
    expected = torch.zeros(4)
    for image, target in list(zip(images, targets, strict=True))[:7]:
        loss = -(target * network(image[None]).log_softmax(1)[0]).sum()
        weights = [network.first.weight, network.first.bias, network.second.weight]
        of_first, of_bias, of_second = (
            (w * g).square() / 2 for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True)
        )
        expected += (of_first.sum((1, 2, 3)) + of_bias + of_second.sum((0, 2, 3))) / 7
    score = score_of("obd", {"images": 7})
    parts = [Batch(images[k : k + 4], targets[k : k + 4], torch.arange(4), None) for k in (0, 4, 8)]
    score.observe(network, iter(parts))
    found_by_layer(network, score, seen)
    torch.testing.assert_close(seen["first"], expected.detach(), rtol=1e-5, atol=1e-12)


def test_what_no_layer_says_anything_of_is_no_score():
    with pytest.raises(ValueError, match=r"no value of any layer that the channels of layer '(first|second)"):
        remove_channels(
            Two(), torch.zeros(2, 1, 9, 9), 0.5, 1, lambda group: sum_over_group(group, lambda layer, of_inputs: None)
        )


# Weights refitted by least squares


def batches():
    return training_batches(striped(48, classes=3, channels=3, size=32), NO_AUGMENT, 0.0, 16, 0, 0)


def gaps(network, full, removed):
    """By how much the outputs of each layer are off those before, in squares over the batches."""
    names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    found = dict.fromkeys(names, 0.0)
    for batch in batches():
        now, before = (outputs_of(each, batch.images) for each in (network, full))
        for name in names:
            kept = [k for k in range(before[name].shape[1]) if k not in removed.get(name, [])]
            found[name] += float((now[name] - before[name][:, kept]).double().square().sum())
    return found


@pytest.mark.parametrize(("arch", "options"), NETWORKS, ids=str)
def test_no_layer_comes_further_from_its_outputs_on_the_batches_it_is_fitted_on(arch, options):
    """One layer after the other, so that only it changes; grouped and depthwise ones stay."""
    network = lively(arch, options)
    full = copy.deepcopy(network)
    removed = remove_channels(network, EXAMPLE, 0.4, 1, score_of(*MAGNITUDE))
    before, cut = gaps(network, full, removed), copy.deepcopy(network)
    names = reconstruct(network, full, removed, batches, 3)
    last, after = names[-1], gaps(network, full, removed)
    thinned = [
        n
        for n, m in cut.named_modules()
        if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.shape[1] < full.get_submodule(n).weight.shape[1]
    ]
    assert {*names} == {n for n in thinned if getattr(cut.get_submodule(n), "groups", 1) == 1}
    assert after[names[0]] < 0.9 * before[names[0]], "what feeds the first is as it was"
    assert after[last] < 0.9 * before[last]
    for name, parameter in network.named_parameters():
        layer = name.rpartition(".")[0]
        assert torch.equal(parameter, cut.get_parameter(name)) == (layer not in names), name


def test_the_fit_is_the_damped_least_squares_solution():
    torch.manual_seed(0)
    full = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3, 2, 1), nn.Flatten(), nn.Linear(900, 3)
    )
    network = copy.deepcopy(full)
    removed = remove_channels(network, EXAMPLE, 0.5, 1, score_of(*MAGNITUDE))
    kept = [k for k in range(4) if k not in removed["2"]]
    with torch.no_grad():
        aims, rows = [], []
        for batch in batches():
            aims.append(full[:3](batch.images)[:, kept].permute(0, 2, 3, 1).reshape(-1, len(kept)))
            unfolded = nn.functional.unfold(network[:2](batch.images), 3, 1, 1, 2)
            rows.append(unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1]))
        x = torch.cat([torch.cat(rows), torch.ones(sum(map(len, rows)), 1)], 1).double()
        y = torch.cat(aims).double()
        start = torch.cat([network[2].weight.flatten(1), network[2].bias[:, None]], 1).double().T
        damping = (1e-3 * (x.T @ x).diagonal().mean()).sqrt() * torch.eye(x.shape[1])
        stacked = torch.cat([x, damping]), torch.cat([y, damping.double() @ start])
        expected = torch.linalg.lstsq(stacked[0].double(), stacked[1]).solution.T
    assert reconstruct(network, full, removed, batches, 3) == ["2", "4"]
    found = torch.cat([network[2].weight.flatten(1), network[2].bias[:, None]], 1).double()
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, start.T, atol=1e-3)


def test_a_channel_that_was_there_twice_is_not_missed():
    torch.manual_seed(0)
    full = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3, bias=False), nn.Flatten(), nn.Linear(3920, 3))
    with torch.no_grad():
        full[0].weight[2], full[0].bias[2] = full[0].weight[1], full[0].bias[1]
    network = copy.deepcopy(full)

    def third(group):
        return torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])[: len(group[0].idxs)] + (len(group[0].idxs) == 5)

    removed = remove_channels(network, EXAMPLE, 0.1, 1, third)
    assert removed["0"] == [2]
    before = gaps(network, full, removed)["1"]
    reconstruct(network, full, removed, batches, 3)
    assert gaps(network, full, removed)["1"] < 1e-3 * before


def test_a_curve_of_each_scope_has_equal_rounds_and_refits_where_asked(server, little_run, tmp_path):
    curve = {"from": "train/teacher"} | CURVE | {"until": 0.3, "epochs": 2, "bn_batches": 2}
    sweep = {
        "wide": curve | {"scope": "global", "method": "lamp", "method_options": {}},
        "refitted": curve | {"reconstruct": 2},
        "slim": curve | {"scope": "isomorphic", "method": "obd", "method_options": {"images": 8}, "until_of": "macs"},
    }
    project = copy_of(little_run, tmp_path / "project", prune=curve, prune_sweep=sweep)
    rounds = {}
    for name, folder in (("main", "prune"), *((name, "prune_sweep") for name in sweep)):
        server.finish(project, "prune", name)
        rounds[name] = json.loads((project / f"metrics/{folder}/{name}.json").read_text())["rounds"]
    local = rounds["main"]
    for one, other in zip(rounds["wide"], local, strict=True):
        assert 0.9 * other["params"] <= one["params"] <= other["params"]
    assert rounds["wide"][1]["channels_share"] != local[1]["channels_share"]
    assert rounds["slim"][-1]["macs"] < 0.3 * rounds["slim"][0]["macs"]
    assert [row["params"] for row in rounds["refitted"]] == [row["params"] for row in local]
    assert rounds["refitted"][1]["weights_sha256"] != local[1]["weights_sha256"]
    assert [row["rate"] for row in rounds["wide"]] == [row["rate"] for row in local]
