"""Group-lasso training before pruning: the penalty against its formula, and the curve that begins with it."""

import json
import signal

import pytest
import torch
from conftest import RECIPE, RUNTIME, striped
from little import CURVE, copy_of, forget, results
from torch import nn

from netpress.base.errors import ParamsError
from netpress.core.artifacts import read_spec
from netpress.core.engine import Schedule, fit
from netpress.core.networks import build_model
from netpress.graph.rounds import check_epochs
from netpress.params.items import Data, Prune, Train
from netpress.params.schema import parse
from netpress.prune.common.plan import share_epochs
from netpress.prune.common.sparsity import LEAST, Sparse, groups_of, norms

EXAMPLE = torch.zeros(2, 1, 8, 8)


class Residual(nn.Module):
    """Two convolutions whose outputs are added, so that their channels leave together."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.scale = nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 3)

    def forward(self, images):
        maps = self.first(images).relu()
        return self.last((maps + self.scale(self.second(maps))).mean((2, 3)))


def drawn(network=None):
    torch.manual_seed(0)
    network = network or Residual()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


def penalty(network, example=EXAMPLE):
    groups = groups_of(network, example, 0.5, 1)
    return torch.cat([norms(group) for group in groups]).sum()


def test_channels_coupled_by_a_sum_have_one_norm_of_all_that_leaves_with_them():
    network = drawn()
    (group,) = groups_of(network, EXAMPLE, 0.5, 1)
    squares = [
        network.first.weight.square().sum((1, 2, 3)),
        network.second.weight.square().sum((1, 2, 3)),
        network.second.weight.square().sum((0, 2, 3)),
        network.scale.weight.square(),
        network.last.weight.square().sum(0),
    ]
    torch.testing.assert_close(norms(group), torch.stack(squares).sum(0).sqrt())


def test_the_classes_and_what_cannot_leave_are_not_pulled_at():
    network = drawn()
    penalty(network).backward()
    assert network.last.bias.grad is None
    assert {len(norms(group)) for group in groups_of(network, EXAMPLE, 0.5, 1)} == {4}  # never the 3 classes
    assert groups_of(drawn(nn.Sequential(nn.Flatten(), nn.Linear(64, 3))), EXAMPLE, 0.5, 1) == []


def test_of_a_grouped_convolution_the_same_places_share_a_norm():
    layers = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(256, 3)
    network = drawn(nn.Sequential(*layers))
    found = next(norms(g) for g in groups_of(network, EXAMPLE, 0.5, 1) if g.members[0].layer is network[0])
    first, second = network[0].weight.square().flatten(), network[1].weight.square()[:, :, 0, 0]  # (4), (4, 2)
    inputs = torch.cat([second[:2].sum(0), second[2:].sum(0)])  # of channels 0, 1 and 2, 3
    torch.testing.assert_close(found, (first + inputs).view(2, 2).sum(0).sqrt())


def test_the_gradient_is_that_of_finite_differences():
    network = drawn().double()
    example, step = EXAMPLE.double(), 1e-6
    groups = groups_of(network, example, 0.5, 1)
    objective = Sparse(Nothing(), groups, 0.3)
    objective(None, None).backward()
    for parameter in (network.first.weight, network.second.weight, network.scale.weight, network.last.weight):
        for place in (0, parameter.numel() // 2, parameter.numel() - 1):
            values = parameter.data.view(-1)
            kept, found = values[place].item(), []
            for moved in (kept + step, kept - step):
                values[place] = moved
                found.append(objective(None, None).item())
            values[place] = kept
            slope = (found[0] - found[1]) / (2 * step)
            assert parameter.grad.view(-1)[place].item() == pytest.approx(slope, rel=1e-6)


class Nothing:
    """An objective that is always 0."""

    modules = nn.ModuleDict()

    def start_epoch(self, epoch, epochs):
        self.started = epoch, epochs

    def __call__(self, batch, logits):
        return torch.zeros(())


def test_the_objective_within_hears_of_epochs_and_lends_its_modules():
    within = Nothing()
    objective = Sparse(within, [], 0.1)
    objective.start_epoch(2, 5)
    assert within.started == (2, 5)
    assert objective.modules is within.modules


def test_the_penalty_grows_with_the_weights_and_not_with_their_square():
    network = drawn()
    before = penalty(network).item()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 3
    assert penalty(network).item() == pytest.approx(3 * before, rel=1e-5)


def test_a_channel_that_is_gone_has_no_gradient_rather_than_none_that_is_a_number():
    network = drawn()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    found = penalty(network)
    found.backward()
    assert found.item() == pytest.approx(4 * LEAST**0.5)
    assert not network.second.weight.grad.any()


@pytest.fixture(scope="module")
def trained():
    """Weights after three epochs without an objective, and with penalties: weight -> state, sum of the norms."""

    def train(sparsity):
        torch.manual_seed(0)
        network = build_model("compact_cnn", 3, 1, width=0.25)
        images = striped(96)
        groups = groups_of(network, images.normalize(images.images[:2]), 0.3, 1)
        objective = None if sparsity is None else Sparse(None, groups, sparsity)
        fit(network, images, striped(48, seed=1), Schedule(RECIPE, 3, 0), RUNTIME, "test", objective)
        return network.state_dict(), sum(norms(group).sum().item() for group in groups)

    return {sparsity: train(sparsity) for sparsity in (None, 0.0, 0.3)}


def test_a_penalty_of_no_weight_leaves_every_bit(trained):
    plain, none = trained[None][0], trained[0.0][0]
    assert all(torch.equal(plain[name], none[name]) for name in plain)


def test_with_a_penalty_channels_are_smaller(trained):
    assert trained[0.3][1] < 0.9 * trained[None][1]


ITEM = {"from": "train/teacher"} | CURVE


def test_a_weight_without_epochs_does_nothing_and_is_refused():
    says = "prune.sparse_epochs = 0: no epochs for sparsity = 0.1; write 1 or more, or sparsity: 0.0"
    with pytest.raises(ParamsError, match=says):
        parse(Prune, ITEM | {"sparsity": 0.1}, "prune")
    assert parse(Prune, ITEM | {"sparse_epochs": 2}, "prune").sparse_epochs == 2  # the control of a penalty


@pytest.mark.parametrize(("key", "value"), [("sparsity", -0.1), ("sparsity", 1.5), ("sparse_epochs", -1)])
def test_out_of_range_is_refused(key, value):
    with pytest.raises(ParamsError, match=f"prune.{key} = {value}: must be"):
        parse(Prune, ITEM | {"sparse_epochs": 2, key: value}, "prune")


def test_rounds_share_what_sparse_training_leaves():
    assert share_epochs(7, 3, 2) == [2, 2, 1]
    says = (
        "epochs = 4: sparse_epochs takes 2 of them, and the curve takes 3 rounds, .*; raise epochs, lower sparse_epochs"
    )
    with pytest.raises(ParamsError, match=says):
        share_epochs(4, 3, 2)


def test_too_few_epochs_are_found_before_any_work():
    parent = Train(arch="compact_cnn", options={"width": 0.5}, recipe="plain", epochs=4, init="none")
    data = Data(
        source="fashion-mnist",
        root="data/own",
        resolution=28,
        val_share=0.2,
        test_share=0.0,
        split_seed=0,
        on_overlap="error",
        on_bad_image="error",
    )
    check_epochs(parse(Prune, ITEM, "prune"), parent, data)
    with pytest.raises(ParamsError, match="epochs = 4: sparse_epochs takes 3 of them, and the curve takes 2 rounds"):
        check_epochs(parse(Prune, ITEM | {"sparse_epochs": 3}, "prune"), parent, data)


@pytest.fixture(scope="module")
def project(server, little_run, tmp_path_factory):
    """Curves of equal epochs that begin with two sparse ones: with a penalty, and without."""
    lasso = ITEM | {"sparsity": 0.02, "sparse_epochs": 2, "control_rounds": [1], "control_epochs": "auto"}
    sweep = {"lasso": lasso, "longer": ITEM | {"sparse_epochs": 2}}
    folder = copy_of(little_run, tmp_path_factory.mktemp("sparse") / "project", prune_sweep=sweep)
    for name in sweep:
        server.finish(folder, "prune", name)
    return folder


def metrics(project, model_id):
    return json.loads((project / f"metrics/{model_id}.json").read_text())


def test_sparse_epochs_count_among_those_of_the_curve_its_models_and_its_controls(project):
    curves = {name: metrics(project, f"prune_sweep/{name}") for name in ("lasso", "longer")}
    for curve in curves.values():
        assert [row["epochs_total"] for row in curve["rounds"]] == [0, 3, 4]
        assert curve["epochs"] == metrics(project, "prune/main")["epochs"] == 4
    parent = read_spec(project / "models/train/teacher/seed_0").epochs
    assert read_spec(project / "models/prune_sweep/lasso/round_1/seed_0").epochs == parent + 3
    assert "control_val_acc" in curves["lasso"]["rounds"][1]
    shas = [curve["rounds"][1]["weights_sha256"] for curve in (*curves.values(), metrics(project, "prune/main"))]
    assert len(set(shas)) == 3
    assert not list((project / ".netpress/runs/prune_sweep").rglob("sparse*"))


@pytest.mark.parametrize(
    ("moment", "says"),
    [
        ("after sparse_fit.json", "sparse training before 2 rounds: goes on after epoch 1 of 2"),
        pytest.param("after sparse.json", "round 1/2", marks=pytest.mark.exhaustive),
    ],
)
def test_a_killed_curve_goes_on_to_the_same_bytes(server, project, tmp_path, moment, says):
    again = copy_of(project, tmp_path / "project")
    forget(again, "prune_sweep/lasso")
    assert server.run(again, "prune", "lasso", kill_at=moment)["code"] == -signal.SIGKILL
    output = server.finish(again, "prune", "lasso")
    assert says in output
    assert ("sparse training" in output) == ("sparse" in says)
    assert results(again) == results(project)
