"""Networks that nobody wrote for netpress: pruned, factorized, saved, loaded, quantized; or refused by the layer."""

import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import NO_AUGMENT, striped
from test_artifacts import made
from torch import nn

from netpress.base import model_files
from netpress.base.errors import ConfigError
from netpress.core import artifacts
from netpress.core.batches import training_batches
from netpress.core.context import Method
from netpress.core.edits import resize_edit, sizes_of
from netpress.core.export import OnnxModule, export_onnx
from netpress.core.measure import count_params
from netpress.core.networks import require_rebuilt
from netpress.factorize.methods import svd
from netpress.factorize.run import factorize_network
from netpress.params import plugins
from netpress.prune.common.channels import remove_channels
from netpress.quantize.methods import int8_static

SIZE = 32
#: Architecture, options, and the refusal of pruning, if it is refused.
NETWORKS = {
    "resnet50": ("torchvision", {}, None),
    "mobilenet_v2": ("torchvision", {}, None),
    "mobilenet_v3_small": ("torchvision", {}, None),
    "shufflenet_v2_x1_0": ("torchvision", {}, r"layer 'stage2' \(Sequential\) cannot be removed"),
    "efficientnet_b0": ("torchvision", {}, None),
    "densenet121": ("torchvision", {}, None),
    "convnext_tiny": ("torchvision", {}, None),
    "squeezenet1_1": ("torchvision", {}, None),
    "vit_tiny_patch16_224": ("timm", {"img_size": SIZE, "patch_size": 8}, None),
    "resnetv2_50": ("timm", {}, None),
    "regnety_002": ("timm", {}, None),
    "mixer_s16_224": ("timm", {"img_size": SIZE}, r"layer 'blocks\.\d\.mlp_tokens\.fc\d' \(Linear\) cannot be removed"),
    "ghostnet_050": ("timm", {}, None),
    "convnextv2_atto": ("timm", {}, None),
    "poolformer_s12": ("timm", {}, r"layer 'stages\.0\.blocks\.0' \(MetaFormerBlock\) cannot be removed"),
    "test_byobnet": ("timm", {}, None),
}
#: The one whose ONNX file is made in every suite, and what takes too long for that.
QUICK, SLOW = "test_byobnet", "densenet121"


def network_of(name, edit=None):
    arch, arguments, _ = NETWORKS[name]
    return made(arch, {"name": name, "arguments": arguments}, edit)


def pruned(network):
    score = plugins.load("prune/scores", "magnitude")
    before, sizes = count_params(network), sizes_of(network)
    remove_channels(network, torch.zeros(2, 3, SIZE, SIZE), 0.3, 1, score.scores(score.Options(norm=2)))
    assert count_params(network) < 0.9 * before
    return resize_edit(sizes, network)


class Quick:
    """The SVD of small layers alone: that of a wide one takes seconds."""

    KNOB = svd.KNOB

    @staticmethod
    def factorize(layer, options, inputs):
        return svd.factorize(layer, options, inputs) if layer.weight.numel() < 60_000 else None


def factorized(network):
    split = striped(4, size=SIZE, channels=3)
    method = Method("svd", Quick, svd.Options(choose="share", rank=0.3, min_channels=16, images=0))
    return factorize_network(network, method, lambda: training_batches(split, NO_AUGMENT, 0.0, 4, 0, 0))


def compressed(network):
    return [pruned(network), factorized(network)]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.exhaustive] if n == SLOW else []) for n in NETWORKS]
)
def test_pruned_factorized_saved_and_loaded_or_refused_by_the_layer(tmp_path, name):
    refusal = NETWORKS[name][2]
    if refusal:
        with pytest.raises(ConfigError, match=refusal) as error:
            network_of(name, compressed)
        assert "\n" not in str(error.value)
        network, spec = network_of(name)
    else:
        network, spec = network_of(name, compressed)
    require_rebuilt(network, spec.arch, 5, spec.options, spec.edits, spec.image)
    artifacts.save_model(tmp_path / name, spec, {model_files.WEIGHTS: artifacts.weights_as_bytes(network)})
    again = artifacts.load(tmp_path / name).network
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = network(images)
        assert torch.equal(again(images), expected)
    assert expected.shape == (3, 5) and torch.isfinite(expected).all()
    kinds = {n: type(m) for n, m in network.named_modules()}
    assert {n: type(m) for n, m in again.named_modules()} == kinds


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == QUICK else [pytest.mark.exhaustive]) for n in NETWORKS]
)
def test_its_onnx_file_and_int8_answer_as_it_does(name):
    start = time.monotonic()
    refused = NETWORKS[name][2]
    network, _ = network_of(name, None if refused else compressed)
    images = torch.randn(16, 3, SIZE, SIZE)
    data = export_onnx(network, 3, SIZE, SIZE)
    options = int8_static.Options(**int8_static.EXAMPLE | {"calibration_images": 16})
    model = SimpleNamespace(onnx=data, images=lambda count: images.numpy()[:count])
    quantized = int8_static.quantize(model, options)
    with torch.inference_mode():
        expected = network(images).numpy()
        found = OnnxModule(quantized, threads=1)(images).numpy()
    if os.environ.get("NETWORKS_TABLE"):
        off = np.abs(found - expected).mean() / max(np.abs(expected).mean(), 1e-12)
        print(f"TABLE {name} {time.monotonic() - start:.0f} s, {len(quantized) / len(data):.2f} of fp32, off {off:.1%}")
    assert found.shape == (16, 5) and np.isfinite(found).all()
    assert len(quantized) < 0.7 * len(data)  # the smallest has few weights beside its graph


@pytest.mark.parametrize(
    "name",
    ["mobilenet_v2", pytest.param("densenet121", marks=pytest.mark.exhaustive), "regnety_002", "ghostnet_050"],
)
def test_a_pruned_network_computes_what_the_whole_one_does_with_those_channels_at_zero(name):
    import copy

    torch.manual_seed(0)
    full = network_of(name)[0]
    for module in full.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.5, 0.5)
    small = copy.deepcopy(full)
    score = plugins.load("prune/scores", "magnitude")
    removed = remove_channels(small, torch.zeros(2, 3, SIZE, SIZE), 0.3, 1, score.scores(score.Options(norm=2)))
    for layer, indices in removed.items():
        module = full.get_submodule(layer)
        module.weight.data[indices] = 0
        if module.bias is not None:
            module.bias.data[indices] = 0
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected, found = full(images), small(images)
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)


def test_a_normalization_with_its_activation_comes_back_as_itself():
    """timm's BatchNormAct2d is a BatchNorm2d that also applies ReLU."""
    network, spec = network_of("test_byobnet", lambda network: [pruned(network)])
    kinds = {type(module).__name__ for module in network.modules()}
    assert "BatchNormAct2d" in kinds
    again = artifacts.rebuild(spec.arch, 5, 3, spec.options, spec.edits, network.state_dict())
    assert {type(module).__name__ for module in again.modules()} == kinds


class Fixed(nn.Module):
    """A part whose code states how many channels it gives."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.conv(x).reshape(len(x), 8, SIZE, SIZE)


def test_a_part_whose_code_states_its_sizes_stays_whole():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), Fixed(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    edit = pruned(network)
    assert network[1].conv.out_channels == 8 and network[1].conv.in_channels == network[0].out_channels == 5
    assert edit["layers"].keys() == {"0", "1.conv"}


def test_a_network_of_such_parts_alone_is_refused_by_the_layer():
    network = nn.Sequential(Fixed(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    network[0].conv = nn.Conv2d(3, 8, 1)
    with pytest.raises(ConfigError, match=r"from: the channels of layer '0' \(Fixed\) cannot be removed \(shape"):
        pruned(network)


def test_a_network_without_a_layer_for_the_classes_is_refused():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.Unflatten(1, (5, 1))
    )
    network.append(nn.Flatten()).append(nn.ZeroPad1d((0, 1)))
    with pytest.raises(ConfigError, match="no linear layer or convolution has 6 outputs, one for each class"):
        pruned(network)
