"""What a network loses where one layer alone is made smaller."""

import copy
import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import striped
from little import copy_of
from torch import nn

from netpress.__main__ import main
from netpress.base.errors import TrainingError
from netpress.cli.sensitivity import STREAM
from netpress.core import artifacts
from netpress.core.measure import count_params
from netpress.core.networks import build_model
from netpress.core.splits import drawn
from netpress.sensitivity import figure, table
from netpress.sensitivity.changes import four_bits, half_pruned, half_rank, int8, round_inputs
from netpress.sensitivity.measure import WAYS, Effect, Row, batches_of, effect, logits_of, look, measure

IMAGES = striped(150)
KEYS = [way.key for way in WAYS]


def lively(network):
    """A network whose normalizations have scales and statistics unlike those of its inputs."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5)):
                nn.init.uniform_(tensor, low, high)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def built(arch, **options):
    torch.manual_seed(0)
    return lively(build_model(arch, 3, 1, **options))


def small():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.append(nn.Linear(8, 3))
    network[5].weight.data *= 10  # answers of some confidence
    return lively(network)


def nearest_of(weight, bits, block):
    """The weight, an output after the other and a block after the other, by the definition."""
    rows = weight.detach().flatten(1).double().numpy().copy()
    for row in rows:
        for start in range(0, len(row), block):
            part = row[start : start + block]
            scale = np.abs(part).max() / (2 ** (bits - 1) - 1) or 1.0
            part[:] = np.round(part / scale) * scale
    return torch.from_numpy(rows).reshape(weight.shape).float()


@pytest.mark.parametrize(("change", "bits", "block"), [(int8, 8, 10**6), (four_bits, 4, 32)])
@pytest.mark.parametrize("name", ["0", "2", "6"])
def test_weights_are_rounded_by_output_channel_or_by_block_of_32_inputs(change, bits, block, name):
    torch.manual_seed(0)
    depthwise = nn.Conv2d(9, 9, 3, groups=9)
    network = nn.Sequential(nn.Conv2d(1, 9, 3), nn.ReLU(), depthwise, nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    network.append(nn.Linear(144, 3)).eval()
    changed = change(network, name, look(network, IMAGES))
    expected = nearest_of(network.get_submodule(name).weight, bits, block)
    torch.testing.assert_close(changed.get_submodule(name).weight.detach(), expected, atol=1e-6, rtol=1e-5)
    for other in {"0", "2", "6"} - {name}:
        assert torch.equal(changed.get_submodule(other).weight, network.get_submodule(other).weight)


@pytest.mark.parametrize(("low", "high"), [(-1.3, 2.2), (0.0, 3.0), (0.7, 1.9), (-2.0, -0.4)])
def test_inputs_are_rounded_to_256_values_over_a_range_that_holds_0(low, high):
    inputs = torch.linspace(low, high, 998)
    bottom, top = min(low, 0), max(high, 0)
    step = (top - bottom) / 255
    places = np.arange(256) - round(-bottom / step)
    grid = torch.tensor(places * step)
    expected = grid[(inputs.double()[:, None] - grid).abs().argmin(1)].float()
    torch.testing.assert_close(round_inputs(inputs, low, high), expected, atol=1e-5, rtol=1e-5)
    assert round_inputs(torch.zeros(1), low, high) == 0
    assert torch.equal(round_inputs(torch.zeros(3), 0.0, 0.0), torch.zeros(3))


def test_the_inputs_of_the_changed_layer_alone_are_rounded_by_the_range_of_all_images():
    network, images = small(), striped(200)
    seen = look(network, images)
    given = []
    network[5].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    logits_of(network, images, "")
    inputs = torch.cat(given)
    assert seen.ranges["5"] == (float(inputs.min()), float(inputs.max()))
    changed = int8(network, "5", seen)
    expected = nn.functional.linear(round_inputs(inputs, *seen.ranges["5"]), changed[5].weight, network[5].bias)
    torch.testing.assert_close(logits_of(changed, images, "").float(), expected)


def test_half_of_the_rank_is_left_and_no_matrix_of_that_rank_is_nearer():
    network = built("plain_cnn", width=0.125)
    weight = network.get_submodule("0.2.0").weight.detach().double().flatten(1)
    changed = half_rank(network, "0.2.0", look(network, IMAGES))
    changed = changed.get_submodule("0.2.0").weight.detach().double().flatten(1)
    values = torch.linalg.svdvals(weight)
    rank = min(weight.shape) // 2
    assert torch.linalg.matrix_rank(changed, rtol=1e-5) == rank
    torch.testing.assert_close((weight - changed).norm(), values[rank:].norm(), atol=1e-6, rtol=1e-5)


def kept_of(weight, groups):
    """The outputs that stay: of each group the places whose norm over all groups is among the larger half."""
    norms = weight.detach().flatten(1).norm(dim=1).reshape(groups, -1).norm(dim=0)
    places = sorted(norms.argsort().tolist()[len(norms) // 2 :])
    return [group * len(norms) + place for group in range(groups) for place in places]


@pytest.mark.parametrize(
    ("arch", "options", "name", "norm", "groups"),
    [
        ("plain_cnn", {"width": 0.125}, "0.2.0", "0.2.1", 1),
        ("compact_cnn", {"groups": 2}, "0.0.0", "0.0.1", 2),
        ("compact_cnn", {"groups": 2}, "0.2.0", "0.2.1", 2),
        ("compact_cnn", {"groups": "depthwise"}, "0.1.3", "0.1.4", 1),
    ],
)
def test_the_half_of_smallest_norm_leaves_and_the_rest_computes_as_if_it_were_silent(arch, options, name, norm, groups):
    network = built(arch, **options)
    changed = half_pruned(network, name, look(network, IMAGES))
    weight = network.get_submodule(name).weight
    kept = kept_of(weight, groups)
    gone = [k for k in range(len(weight)) if k not in kept]
    assert len(gone) == len(weight) // 2
    assert torch.equal(changed.get_submodule(name).weight, weight[kept])
    silent = copy.deepcopy(network)
    for part in (name, norm):
        silent.get_submodule(part).weight.data[gone] = 0
    silent.get_submodule(norm).bias.data[gone] = 0
    if options.get("groups") == "depthwise":  # the next one makes its outputs of one channel each
        for tensor in (silent.get_submodule("0.2.1").weight, silent.get_submodule("0.2.1").bias):
            tensor.data[gone] = 0
    expected = logits_of(silent, IMAGES, "")
    torch.testing.assert_close(logits_of(changed, IMAGES, ""), expected, atol=1e-6, rtol=1e-5)
    assert (expected - logits_of(network, IMAGES, "")).abs().max() > 1e-4


def test_a_depthwise_layer_takes_the_layer_before_it_along():
    network = built("compact_cnn", groups="depthwise")
    changed = half_pruned(network, "0.1.0", look(network, IMAGES))
    before, own = network.get_submodule("0.0.0").weight, network.get_submodule("0.1.0").weight
    kept = kept_of(own, 1)
    assert torch.equal(changed.get_submodule("0.1.0").weight, own[kept])
    assert torch.equal(changed.get_submodule("0.0.0").weight, before[kept])


def test_all_layers_of_a_residual_stream_lose_the_same_channels():
    network = built("resnet18", width=0.25)
    changed = half_pruned(network, "layer2.1.conv2", look(network, IMAGES))
    kept = kept_of(network.layer2[1].conv2.weight, 1)
    for name in ("layer2.1.conv2", "layer2.0.conv2", "layer2.0.downsample.0"):
        assert torch.equal(changed.get_submodule(name).weight, network.get_submodule(name).weight[kept]), name
    assert torch.equal(changed.layer3[0].conv1.weight, network.layer3[0].conv1.weight[:, kept])
    assert torch.equal(changed.layer2[1].conv1.weight, network.layer2[1].conv1.weight[:, kept])
    assert torch.equal(changed.layer2[0].conv1.weight, network.layer2[0].conv1.weight), "within a block, not of it"


def idle(way):
    """A network, a layer of it, and images, with which a way of changing it changes nothing."""
    network, images = small(), striped(150, mean=(0.0,), std=(1.0,))
    weight = network[0].weight.data
    if way == "int8":
        # pixels are 0, 1/255, ..., 1 already
        images.images[0, 0, 0, 0], images.images[0, 0, 1, 0] = 0, 255
        weight.copy_(torch.randint(-127, 128, weight.shape) / 128)
        weight[:, 0, 0, 0] = 127 / 128
    elif way == "4bit":
        weight.copy_(torch.randint(-7, 8, weight.shape))
        weight[:, 0, 0, 0] = -7
    elif way == "pruned":
        for tensor in (weight, network[0].bias.data, network[1].weight.data, network[1].bias.data):
            tensor[[1, 2, 5, 6]] = 0
    else:
        weight.copy_((torch.randn(8, 4) @ torch.randn(4, 9)).reshape(weight.shape))
    return network, images


@pytest.mark.parametrize("way", WAYS, ids=KEYS)
def test_a_change_that_changes_nothing_costs_nothing_whatever_the_normalizations_say(way):
    network, images = idle(way.key)
    (found,) = (row for row in measure(network, images, [way]) if row.layer == "0")
    assert 0 <= found.effects[way.key].kl < 1e-9
    assert found.effects[way.key].drop == 0
    torch.manual_seed(1)
    network[0].weight.data += torch.randn_like(network[0].weight)
    (found,) = (row for row in measure(network, images, [way]) if row.layer == "0")
    assert found.effects[way.key].kl > 1e-8, "nor is the law empty"


def test_the_divergence_is_that_of_the_formula_and_the_drop_is_in_points():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 20, 5)) * 3
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a, b))
    kl = np.mean([sum(p[i, k] * math.log(p[i, k] / q[i, k]) for k in range(5)) for i in range(20)])
    ours, theirs = torch.from_numpy(a), torch.from_numpy(b)
    labels = ours.argmax(1)
    labels[:5] = (labels[:5] + 1) % 5
    found = effect(ours, theirs, labels)
    assert found.kl == pytest.approx(kl, rel=1e-9)
    assert found.kl != pytest.approx(effect(theirs, ours, labels).kl, rel=1e-2), "of the original from the changed"
    right = [int((x.argmax(1) == labels).sum()) for x in (ours, theirs)]
    assert right[0] == 15
    assert found.drop == pytest.approx(100 * (right[0] - right[1]) / 20)
    assert effect(ours, ours, labels) == Effect(0.0, 0.0)


def test_pruned_layers_are_judged_after_normalizations_are_measured_again_in_both():
    network, images = small(), striped(100)
    rows = {row.layer: row for row in measure(network, images)}

    def fit(net):  # one batch, so that its own statistics are what is measured
        with torch.no_grad():
            x = net[0](images.normalize(images.images))
        net[1].running_mean, net[1].running_var = x.mean((0, 2, 3)), x.var((0, 2, 3))
        return logits_of(net, images, "")

    seen = look(network, images)
    for key, change in (("pruned", half_pruned), ("rank", half_rank)):
        expected = effect(fit(copy.deepcopy(network)), fit(change(network, "0", seen)), images.labels)
        assert rows["0"].effects[key].kl == pytest.approx(expected.kl, rel=1e-3)
    logits = (logits_of(net, images, "") for net in (network, four_bits(network, "0", seen)))
    expected = effect(*logits, images.labels)
    assert rows["0"].effects["4bit"] == expected, "rounding is compared with the network as it is"


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        pytest.param("resnet18", {"width": 0.125}, marks=pytest.mark.exhaustive),
        ("compact_cnn", {"groups": 2, "width": 0.25}),
        ("compact_cnn", {"groups": "depthwise", "width": 0.25}),
    ],
)
def test_every_layer_has_its_row_and_the_network_stays_as_it_was(arch, options):
    network, seen = built(arch, **options), []
    before, twin = copy.deepcopy(network), copy.deepcopy(network)
    rows = measure(network, IMAGES, progress=lambda done, total: seen.append((done, total)))
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert [row.layer for row in rows] == [*layers]
    assert seen == [(k, 4 * len(rows)) for k in range(1, 4 * len(rows) + 1)]
    for row in rows:
        layer, grouped = layers[row.layer], getattr(layers[row.layer], "groups", 1) > 1
        assert (row.kind, row.params) == (type(layer).__name__, count_params(layer))
        assert row.share == row.params / count_params(network)
        assert [key for key in KEYS if row.effects[key] is None] == (
            ["rank"] if grouped else ["pruned"] if row is rows[-1] else []
        )
        assert all(found.kl > 0 for found in row.effects.values() if found)
    for name, tensor in before.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
    assert [p.requires_grad for p in network.parameters()] == [p.requires_grad for p in before.parameters()]
    assert not any(m._forward_pre_hooks or m.training for m in network.modules())
    assert measure(twin, IMAGES) == rows, "the same once more"


class Fixed(nn.Module):
    """States its own sizes between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 8, 5, 5), nn.Linear(8 * 25, 3)

    def forward(self, x):
        return self.last(self.first(x).reshape(-1, 8, 25).flatten(1))


class Heads(nn.Module):
    """Attention, whose outputs belong to heads."""

    def __init__(self):
        super().__init__()
        self.num_heads = 2
        self.project = nn.Linear(784, 8)

    def forward(self, x):
        return self.project(x)


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (Fixed(), "first"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 1), nn.ReLU(), nn.Linear(1, 3)), "1"),
        (nn.Sequential(nn.Flatten(), Heads(), nn.ReLU(), nn.Linear(8, 3)), "1.project"),
    ],
    ids=["states its sizes", "one output", "attention"],
)
def test_a_layer_whose_outputs_cannot_leave_gets_no_value_and_the_other_ways_theirs(network, name):
    (row,) = (row for row in measure(network.eval(), IMAGES) if row.layer == name)
    assert row.effects["pruned"] is None
    assert row.effects["int8"] and row.effects["4bit"]
    assert (row.effects["rank"] is None) == (name == "1"), "of one row there is no half rank"


def test_a_layer_that_does_not_run_has_no_row():
    network = small()
    network[0].spare = nn.Linear(2, 2)
    assert [row.layer for row in measure(network, IMAGES, WAYS[:1])] == ["0", "5"]


def test_logits_that_are_not_finite_are_told_with_their_network():
    network = small()
    network[5].bias.data[0] = math.inf
    with pytest.raises(TrainingError, match="the network: logits are not finite"):
        measure(network, IMAGES)


@pytest.mark.parametrize(("count", "sizes"), [(2, [2]), (128, [128]), (129, [65, 64]), (300, [100, 100, 100])])
def test_batches_are_of_nearly_equal_size_since_of_one_image_nothing_can_be_normalized(count, sizes):
    images = striped(count)
    batches = [*batches_of(images)]
    assert [len(batch.images) for batch in batches] == sizes
    assert torch.equal(torch.cat([batch.images for batch in batches]), images.normalize(images.images))
    assert torch.equal(torch.cat([batch.targets for batch in batches]).argmax(1), images.labels)


def test_images_are_drawn_by_the_seed_with_their_labels():
    split = striped(90)
    split.images[:, 0, 0, 0] = torch.arange(90)
    found = drawn(split, 20, 3, STREAM)
    places = found.images[:, 0, 0, 0].long()
    assert len(places.unique()) == 20
    assert torch.equal(found.labels, split.labels[places])
    assert torch.equal(drawn(split, 20, 3, STREAM).images, found.images)
    assert not torch.equal(drawn(split, 20, 4, STREAM).images, found.images)
    assert torch.equal(drawn(split, 1000, 3, STREAM).images, split.images)


def some_rows(names):
    effects = {"int8": Effect(3e-6, 0.0), "4bit": Effect(0.0, -0.2), "pruned": None, "rank": Effect(0.4, 12.5)}
    return [Row(name, "Conv2d", 10, 0.25, effects) for name in names]


def test_the_table_fits_the_terminal():
    rows = some_rows(["stem", "features.12.block.1.0", "a.very.long.name.of.a.layer.within.a.block.of.a.network"])
    for width in (200, 100, 80, 60):
        lines = table.text(rows, width).splitlines()
        assert max(map(len, lines)) <= width
        for line in [line for line in lines if line.startswith("stem")]:
            assert line.split()[-4:] in (["0.00", "-0.20", "-", "12.50"], ["3e-06", "0.0000", "-", "0.4000"])
    wide, narrow = (table.text(rows, width).splitlines() for width in (200, 60))
    assert sum(line.startswith("stem") for line in wide) == 1
    assert sum(line.startswith("stem") for line in narrow) == 2
    assert any(line.startswith("..") and "of.a.network" in line for line in narrow)
    assert not any("\x1b" in line for line in (*wide, *narrow)), "no colours, so none to leave out"


@pytest.mark.parametrize("count", [1, 30])
def test_the_picture_follows_from_the_rows_and_grows_with_them(count):
    rows = some_rows([f"layer{k}" for k in range(count)])
    png = figure.draw(rows, "train/net")
    assert png == figure.draw(rows, "train/net") != figure.draw(some_rows(["other"] * count), "train/net")
    assert int.from_bytes(png[20:24]) == pytest.approx(150 * (figure.MARGIN + figure.BAR * count), abs=2)


def test_a_picture_without_values_or_without_rows_is_one_too():
    still = [Row("a", "Linear", 1, 1.0, dict.fromkeys(KEYS, Effect(0.0, 0.0)))]
    for rows in (still, [], [Row("a", "Linear", 1, 1.0, dict.fromkeys(KEYS))]):
        assert figure.draw(rows, "t").startswith(b"\x89PNG")
    assert [figure.tick(value) for value in (1e-6, 1e-3, 0.1, 10.0)] == ["1e-6", "0.001", "0.1", "10"]


@pytest.fixture
def here(little_run, tmp_path, monkeypatch):
    project = copy_of(little_run, tmp_path / "project")
    monkeypatch.chdir(project)
    return project


def test_the_command_prints_and_writes_what_it_measured(here, capsys):
    for path in here.glob("data/prepared/val_*"):
        path.unlink()
    assert main(["sensitivity", "train/teacher", "--images", "64"]) == 0
    said = capsys.readouterr().out
    assert "train/teacher, seed 0, one layer changed at a time, on 64 training images" in said
    assert "wrote reports/sensitivity/train_teacher.csv and .png" in said
    with (here / "reports/sensitivity/train_teacher.csv").open() as stream:
        rows = [*csv.DictReader(stream)]
    assert [*rows[0]] == list(table.COLUMNS)
    assert sum(float(row["params_share"]) for row in rows) < 1
    assert all(f"\n{row['layer']} " in said for row in rows)
    assert (rows[-1]["layer"], rows[-1]["kl_pruned"], rows[-1]["drop_pruned"]) == ("3", "", "")
    assert (here / "reports/sensitivity/train_teacher.png").read_bytes().startswith(b"\x89PNG")
    assert main(["sensitivity", "train/teacher", "--images", "64", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    spec = json.loads((here / "models/train/teacher/seed_0/spec.json").read_text())
    assert (told["model_id"], told["seed"], told["images"], told["drawn_by"]) == ("train/teacher", 0, 64, 0)
    assert told["weights_sha256"] == spec["sha256"]["model.safetensors"]
    assert [row["layer"] for row in told["layers"]] == [row["layer"] for row in rows]
    assert told["layers"][0]["effects"]["rank"]["kl"] == float(rows[0]["kl_rank"])
    assert told["layers"][-1]["effects"]["pruned"] is None


def test_a_round_of_a_curve_another_seed_and_another_folder(here, capsys, tmp_path):
    command = ["sensitivity", "prune/main/round_1", "--images", "32", "--out", str(tmp_path / "out"), "--json"]
    drops = []
    for seed in ("0", "1"):
        assert main([*command, "--seed", seed]) == 0
        drops.append(json.loads(capsys.readouterr().out))
    assert drops[0]["seed"] == drops[1]["seed"] == 0, "it has one seed alone"
    assert drops[0]["layers"] != drops[1]["layers"], "of other images"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"prune_main_round_1.csv", "prune_main_round_1.png"}
    assert not (here / "reports/sensitivity").exists()


def refusal(capsys, *command):
    assert main(["sensitivity", *command]) == 1
    return capsys.readouterr().err


def test_what_cannot_be_measured_is_told_in_a_line(here, capsys):
    assert "error: no model 'train/techer', did you mean 'train/teacher'?" in refusal(capsys, "train/techer")
    for name in ("train", "train/teacher/seed_0", "../train/teacher"):
        assert f"error: no model '{name}'" in refusal(capsys, name)
    assert "quantize/int8 is quantized, so that its layers cannot be changed; name prune/main" in refusal(
        capsys, "quantize/int8"
    )
    artifacts.write_seeds(here / "models/train/teacher", [0, 1])
    assert "--seed 7: train/teacher has the seeds 0, 1; name one of them" in refusal(
        capsys, "train/teacher", "--seed", "7"
    )
    weights = here / "models/factorize/tucker/seed_0/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "model.safetensors is not what was written" in refusal(capsys, "factorize/tucker")
    shutil.rmtree(here / "models/distill/kd")
    assert (
        "error: distill/kd is not made here; run 'dvc repro distill@kd', or 'dvc pull' where it was pushed\n"
        in refusal(capsys, "distill/kd")
    )
    manifest = here / "data/prepared/manifest.json"
    manifest.unlink()
    assert "manifest.json is missing; run 'dvc repro prepare'" in refusal(capsys, "train/teacher")
    assert not (here / "reports/sensitivity").exists()


def test_a_model_of_other_data_is_refused(here, capsys, monkeypatch):
    from netpress.core.dataset import Manifest

    monkeypatch.setattr(Manifest, "data_sha256", "0" * 64)
    assert "models/train/teacher (seed 0) was made with other data" in refusal(capsys, "train/teacher")


@pytest.mark.parametrize(
    ("option", "text"),
    [(["--images", "1"], "2 images or more"), (["--images", "x"], "'x' is not"), (["--seed", "-1"], "'-1' is not a")],
)
def test_options_out_of_range_are_wrong_usage(option, text, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sensitivity", "train/teacher", f"{option[0]}={option[1]}"])
    assert stop.value.code == 2
    assert text in capsys.readouterr().err
