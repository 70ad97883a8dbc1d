"""Quantization-aware training: what it rounds, what it leaves of itself, and that a killed one goes on."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from conftest import RECIPE, RUNTIME, striped
from hypothesis import given, settings
from hypothesis import strategies as st
from little import SECTIONS, check_killed, copy_of
from test_quantization import trained_on
from torch import nn

from netpress.core.engine import Schedule, fit
from netpress.core.export import export_onnx
from netpress.core.networks import build_model
from netpress.quantize.methods import int8_static, qat
from netpress.quantize.run import calibration_images


def drawn(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network_of(arch="compact_cnn", **options):
    torch.manual_seed(0)
    network = build_model(arch, 3, 1, **({"width": 0.25} | options))
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return network


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), outputs=st.integers(1, 6), inputs=st.integers(1, 9), largest=st.sampled_from([64, 127])
)
def test_weights_are_rounded_by_the_formula_and_gradients_pass_through(seed, outputs, inputs, largest):
    weight = drawn((outputs, inputs, 3, 3), seed).requires_grad_()
    with torch.no_grad():
        weight[0] = 0
        scale = weight.abs().amax((1, 2, 3), keepdim=True) / largest
        expected = torch.where(scale > 0, (weight / scale.clamp(min=1e-30)).round() * scale, 0)
    found = qat.rounded_weight(weight, largest)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    factors = drawn(weight.shape, 1)
    (found * factors).sum().backward()
    assert torch.equal(weight.grad, factors)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), low=st.floats(-3, 0), high=st.floats(0.01, 3))
def test_inputs_are_rounded_by_the_formula_and_gradients_stop_where_they_are_clipped(seed, low, high):
    values = (3 * drawn((4, 5), seed)).requires_grad_()
    low, high = torch.tensor(low), torch.tensor(high)
    scale = (high - low) / 255
    zero = (-low / scale).round()
    integers = (values.detach() / scale).round() + zero
    found = qat.rounded_input(values, low, high)
    torch.testing.assert_close(found, (integers.clamp(0, 255) - zero) * scale, atol=1e-6, rtol=1e-4)
    found.sum().backward()
    assert torch.equal(values.grad, ((integers >= 0) & (integers <= 255)).float())


def test_zero_is_exact_and_so_is_a_range_of_nothing():
    values = torch.tensor([0.0, 0.4])
    assert qat.rounded_input(values, torch.tensor(-0.37), torch.tensor(1.0))[0] == 0
    assert qat.rounded_input(torch.zeros(3), torch.zeros(()), torch.zeros(())).tolist() == [0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), largest=st.sampled_from([64, 127]))
def test_rounding_and_folding_a_normalization_can_change_places(seed, largest):
    weight, factors = drawn((5, 4, 3, 3), seed), drawn((5, 1, 1, 1), seed + 1)
    torch.testing.assert_close(
        qat.rounded_weight(weight * factors, largest),
        qat.rounded_weight(weight, largest) * factors,
        atol=1e-6,
        rtol=1e-4,
    )


class Two(nn.Module):
    """A convolution, a ReLU and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 3, bias=False), nn.Linear(3, 4)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def test_a_network_computes_with_rounded_weights_and_inputs_and_then_as_before():
    torch.manual_seed(0)
    network, images = Two(), drawn((40, 2, 6, 6))
    before = network(images)
    extremes = qat.input_extremes(network, images)
    features = network.conv(images).relu().mean((2, 3))
    torch.testing.assert_close(extremes[network.conv], torch.stack((images.min(), images.max())))
    torch.testing.assert_close(extremes[network.head], torch.stack((torch.zeros(()), features.max())))
    with qat.fake_quantization(extremes, 64):
        network.eval()
        seen = F.conv2d(qat.rounded_input(images, *extremes[network.conv]), qat.rounded_weight(network.conv.weight, 64))
        pooled = qat.rounded_input(seen.relu().mean((2, 3)), *extremes[network.head])
        expected = F.linear(pooled, qat.rounded_weight(network.head.weight, 64), network.head.bias)
        torch.testing.assert_close(network(images), expected)
        assert not torch.equal(network(images), before)
        assert sorted(name for name, _ in network.named_parameters()) == ["conv.weight", "head.bias", "head.weight"]
    assert torch.equal(network(images), before)


def test_gradients_reach_the_weights_themselves():
    torch.manual_seed(0)
    network, images = Two(), drawn((8, 2, 6, 6))
    with qat.fake_quantization(qat.input_extremes(network, images), 64):
        network(images).square().sum().backward()
    for parameter in network.parameters():
        assert isinstance(parameter, nn.Parameter)
        assert float(parameter.grad.abs().sum()) > 0


def test_ranges_follow_the_batches_in_training_and_nowhere_else():
    torch.manual_seed(0)
    network, images = Two(), drawn((8, 2, 6, 6))
    with qat.fake_quantization(qat.input_extremes(network, images), 64):
        held = network.conv.quantized_input_range.clone()
        network.eval()(5 * images)
        assert torch.equal(network.conv.quantized_input_range, held)
        network.train()(5 * images)
        torch.testing.assert_close(network.conv.quantized_input_range, 0.99 * held + 0.01 * 5 * held)


def test_a_layer_that_no_image_has_reached_takes_the_range_of_its_first_batch():
    torch.manual_seed(0)
    network, images = Two(), drawn((8, 2, 6, 6))
    unseen = {layer: torch.zeros(2) for layer in qat.input_extremes(network, images)}
    with qat.fake_quantization(unseen, 64):
        network.train()(images)
        torch.testing.assert_close(
            network.conv.quantized_input_range, torch.stack((images.min(), images.max())), atol=0, rtol=0
        )


def test_a_weight_that_is_computed_itself_is_left_alone():
    network = Two()
    nn.utils.parametrizations.weight_norm(network.conv)
    assert list(qat.input_extremes(network, drawn((4, 2, 6, 6)))) == [network.head]


def hooks_of(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_nothing_of_it_is_left_even_where_training_fails():
    network, images = network_of(), drawn((20, 1, 28, 28))
    names, parameters = list(network.state_dict()), list(network.parameters())
    inside = []

    def fail():
        with qat.fake_quantization(qat.input_extremes(network, images), 64):
            inside.append((hooks_of(network), len(network.state_dict())))
            with pytest.raises(RuntimeError):
                network(images[:, :, :1].expand(-1, 7, -1, -1))  # of another number of channels
            raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        fail()
    layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules())
    assert inside == [(2 * layers, len(names) + layers)]
    assert hooks_of(network) == 0
    assert list(network.state_dict()) == names
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    assert all("weight" not in m.__dict__ for m in network.modules())


@pytest.mark.parametrize("reduce_range", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_the_file_is_that_of_static_int8_of_the_trained_network(reduce_range, monkeypatch):
    network = network_of()
    data, images = export_onnx(network.eval(), 1, 28, 28), calibration_images(striped(64), 64, 0)
    model, seen, rounded = trained_on(data, images, network), set(), qat.rounded_weight

    def watched(weight, largest):
        seen.add(largest)
        return rounded(weight, largest)

    monkeypatch.setattr(qat, "rounded_weight", watched)
    options = qat.EXAMPLE | {"reduce_range": reduce_range}
    ours = qat.quantize(model, qat.Options(**options))
    before = network.state_dict()
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.network.state_dict().items())
    assert seen == {64 if reduce_range else 127}
    assert hooks_of(model.network) == 0
    trained = dataclasses.replace(model, onnx=model.export(model.network))
    assert ours == int8_static.quantize(trained, int8_static.Options(**options, max_disagreement=1.0))


@pytest.mark.parametrize("changes", [{}, {"average": 0.9}], ids=["as it is", "averaged"])
def test_it_trains_with_ranges_and_lowers_the_loss_under_rounding(changes):
    network, images = network_of(), torch.from_numpy(calibration_images(striped(96), 64, 0))
    with qat.fake_quantization(qat.input_extremes(network, images), 64):
        recipe = RECIPE.model_copy(update={"lr": 0.02} | changes)
        history = fit(network, striped(96), striped(48, seed=1), Schedule(recipe, 3, 0), RUNTIME, "x")
        tuned = [m.quantized_input_range for m in network.modules() if hasattr(m, "quantized_input_range")]
        assert all(low <= 0 < high for low, high in tuned)
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]


def test_the_average_of_the_weights_is_measured_rounded_too():
    """A copy of the network rounds as the network does."""
    network, images = network_of(), drawn((20, 1, 28, 28))
    with qat.fake_quantization(qat.input_extremes(network, images), 64):
        twin = copy.deepcopy(network).eval()
        assert torch.equal(twin(images), network.eval()(images))
        assert not any(a is b for a, b in zip(twin.parameters(), network.parameters(), strict=True))
    assert not torch.equal(twin(images), network(images))


def item(**changes):
    options = {"calibration_images": 64, "calibration": "minmax", "reduce_range": True}
    base = SECTIONS["quantize"]["int8"] | {"method": "qat", "method_options": options, "epochs": 3}
    return {"qat": base | changes}


@pytest.fixture(scope="module")
def project(server, little_run, tmp_path_factory):
    folder = copy_of(little_run, tmp_path_factory.mktemp("qat") / "project", quantize=item())
    server.finish(folder, "quantize", "qat")
    return folder


@pytest.mark.parametrize("moment", ["half fit_2.safetensors", "after fit_3.safetensors", "half model.onnx"])
def test_a_killed_training_goes_on_to_the_same_bytes(server, project, tmp_path, moment):
    check_killed(server, project, tmp_path / "project", "quantize/qat", moment)


def test_without_epochs_it_is_refused(server, little_run, tmp_path):
    folder = copy_of(little_run, tmp_path / "project", quantize=item(epochs=0))
    done = server.run(folder, "quantize", "qat")
    assert done["code"] == 1
    assert "quantize.qat.epochs = 0: qat fine-tunes the network; set 1 or more" in done["output"]
    assert "Traceback" not in done["output"]
