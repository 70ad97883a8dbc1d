"""Controls: the shapes of chosen pruning rounds, trained from weights drawn from the seed."""

import json
import signal

import pytest
import torch
from conftest import score_of
from little import CURVE, copy_of, forget, results
from ruamel.yaml import YAML
from torch import nn

from netpress.base.errors import ConfigError
from netpress.core.edits import replace_edit, resize_edit, sizes_of
from netpress.core.measure import count_params
from netpress.core.networks import build_edited, build_model
from netpress.params.items import Prune
from netpress.prune.common.channels import remove_channels
from netpress.prune.run import control_rounds

#: Of two rounds.
ITEM = {"from": "train/teacher"} | CURVE | {"control_rounds": [1], "control_epochs": 3}


@pytest.fixture(scope="module")
def whole(server, little_run, tmp_path_factory):
    """A project with a pruned teacher, whose first round has a control, and its results."""
    folder = copy_of(little_run, tmp_path_factory.mktemp("whole") / "project", prune=ITEM)
    forget(folder, "prune/main")
    server.finish(folder, "prune", "main")
    return folder, results(folder)


@pytest.fixture
def project(whole, tmp_path):
    """A copy in which nothing is pruned yet."""
    folder = copy_of(whole[0], tmp_path / "project")
    forget(folder, "prune/main")
    return folder


def change(folder, **changes):
    """Change keys of the curve in params.yaml."""
    file, yaml = folder / "params.yaml", YAML()
    params = yaml.load(file)
    params["prune"] |= changes
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(params, stream)


def rounds_of(folder):
    return json.loads((folder / "metrics/prune/main.json").read_text())["rounds"]


def test_the_chosen_round_alone_has_a_control(whole):
    rows = rounds_of(whole[0])
    assert ["control_val_acc" in row for row in rows] == [False, True, False]
    assert 0 < rows[1]["control_val_acc"] <= 1
    assert rows[1]["control_val_acc_by_seed"] == [rows[1]["control_val_acc"]]


def test_by_default_it_trains_as_long_as_the_parent_and_the_fine_tuning_up_to_its_round(server, project):
    change(project, control_epochs="auto", control_rounds=[1, 2])
    output = server.finish(project, "prune", "main")  # 4 epochs of the teacher, 2 of each round
    controls = [line for line in output.splitlines() if "control of round" in line]
    assert any("control of round 1" in line and "epoch 6/6" in line for line in controls)
    assert any("control of round 2" in line and "epoch 8/8" in line for line in controls)


def test_epochs_are_counted_along_a_chain(little_run):
    """Those of a teacher are not the student's; those of what a network starts from are its own."""
    epochs = {
        path.parent.relative_to(little_run / "models").as_posix(): json.loads(path.read_text())["epochs"]
        for path in (little_run / "models").rglob("spec.json")
    }
    assert epochs["distill/kd/seed_0"] == 4
    assert epochs["factorize/tucker/seed_0"] == 4 + 3
    assert (epochs["prune/main/round_1/seed_0"], epochs["prune/main/round_2/seed_0"]) == (4 + 2, 4 + 4)
    assert epochs["quantize/int8/seed_0"] == epochs["prune/main/seed_0"] == 4 + 4


def test_the_rounds_are_those_of_a_curve_without_controls(little_run, whole):
    without = results(little_run)
    models = {name for name in without if name.startswith("models/prune/")}
    assert models == {name for name in whole[1] if name.startswith("models/prune/")}
    assert all(without[name] == whole[1][name] for name in models)
    assert not any("control_val_acc" in row for row in rounds_of(little_run))


@pytest.mark.parametrize(
    ("moment", "says"),
    [
        ("after round_1_control_fit.json", "control of round 1 (23,791 parameters): goes on after epoch 1 of 3"),
        pytest.param("after round_1_control.json", "round 2/2", marks=pytest.mark.exhaustive),
    ],
)
def test_a_killed_control_goes_on(server, whole, project, moment, says):
    killed = server.run(project, "prune", "main", kill_at=moment)
    assert killed["code"] == -signal.SIGKILL
    output = server.finish(project, "prune", "main")
    assert says in output
    assert "round 1/2" not in output  # the round before it was finished
    assert ("control of round 1" in output) == ("control" in says)
    assert results(project) == whole[1]


def test_a_round_that_the_curve_does_not_reach_is_refused_before_any_training(server, project):
    change(project, control_rounds=[1, 3])
    ended = server.run(project, "prune", "main")
    assert ended["code"] == 1
    assert "prune.control_rounds: no round 3, since rate" in ended["output"]
    assert "name rounds 1 to 2, or write last" in ended["output"]
    assert "epoch" not in ended["output"]


def item(**changes):
    return Prune.model_validate(ITEM | changes)


def test_rounds_are_chosen_once_each():
    assert control_rounds(item(control_rounds=[]), 4) == set()
    assert control_rounds(item(control_rounds=["last"]), 4) == {4}
    assert control_rounds(item(control_rounds=[1, "last"]), 4) == {1, 4}
    assert control_rounds(item(control_rounds=[2, 4, 2]), 4) == {2, 4}
    with pytest.raises(ConfigError, match=r"control_rounds: no round 5, .* name rounds 1 to 4, or write last"):
        control_rounds(item(control_rounds=[1, 5]), 4)


def pruned(arch, options):
    """A network with fewer channels, and the edit that says so."""
    torch.manual_seed(0)
    network = build_model(arch, 11, 3, **options)
    sizes = sizes_of(network)
    remove_channels(network, torch.zeros(2, 3, 32, 32), 0.4, 1, score_of("magnitude", {"norm": 2}))
    return network, resize_edit(sizes, network)


@pytest.mark.parametrize(
    ("arch", "options"),
    [("resnet18", {"width": 0.5}), ("mobile_student", {"width": 0.5}), ("compact_cnn", {"groups": 2})],
)
def test_the_controls_network_has_the_shape_and_other_weights_drawn_from_the_seed(arch, options):
    network, edit = pruned(arch, options)
    torch.manual_seed(1)
    fresh = build_edited(arch, 11, 3, options, [edit])
    assert count_params(fresh) == count_params(network)
    assert sizes_of(fresh) == sizes_of(network)
    for name, value in fresh.state_dict().items():
        if value.ndim > 1:
            assert not torch.equal(value, network.state_dict()[name])
    torch.manual_seed(1)
    again = build_edited(arch, 11, 3, options, [edit])
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in fresh.state_dict().items())


def spreads(network):
    """Each convolution's deviation times the root of what its fan-out makes of it: 2 ** 0.5 for a ResNet's."""
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    return [float(m.weight.detach().std()) * (m.out_channels * m.kernel_size[0] ** 2) ** 0.5 for m in convs]


def test_it_is_initialized_as_its_architecture_does_it_for_the_widths_that_it_has():
    _, edit = pruned("resnet18", {"width": 0.5})
    assert spreads(build_edited("resnet18", 11, 3, {"width": 0.5}, [edit])) == pytest.approx([2**0.5] * 20, rel=0.1)
    _, edit = pruned("compact_cnn", {})
    fresh = build_edited("compact_cnn", 11, 3, {}, [edit])
    convs = [m for m in fresh.modules() if isinstance(m, nn.Conv2d)]
    bounds = [(m.in_channels * m.kernel_size[0] ** 2) ** -0.5 for m in convs]  # PyTorch's own for convolutions
    assert [float(m.weight.detach().abs().max()) for m in convs] == pytest.approx(bounds, rel=0.05)


def test_a_factorized_networks_chains_are_built_too():
    chain = nn.Sequential(nn.Conv2d(32, 8, 1, bias=False), nn.Conv2d(8, 32, 3, padding=1, bias=False))
    edit = replace_edit({"layer1.0.conv1": chain})
    fresh = build_edited("resnet18", 11, 3, {"width": 0.5}, [edit])
    assert [tuple(conv.weight.shape) for conv in fresh.get_submodule("layer1.0.conv1")] == [
        (8, 32, 1, 1),
        (32, 8, 3, 3),
    ]
