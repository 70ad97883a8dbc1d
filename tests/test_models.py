"""Every architecture: its size, its inputs, its options."""

import pytest
import torch

from netpress.base.errors import ConfigError
from netpress.core.measure import count_macs, count_params, weight_bytes
from netpress.core.networks import build_model, build_on_meta, require_rebuilt
from netpress.params import plugins

#: Architecture, options, parameters, bytes of the weights and buffers; 3 channels and 11 classes.
EXACT = [
    ("resnet18", {}, 11_182_155, 44_767_180),
    ("mobile_student", {}, 1_618_763, 6_534_116),
    ("large_cnn", {}, 54_412_875, 217_716_636),
    ("large_cnn_depthwise", {}, 5_915_531, 23_784_196),
    ("plain_cnn", {}, 4_324_547, 17_310_708),
    ("compact_cnn", {"groups": 1}, 243_107, 975_868),
    ("compact_cnn", {"groups": 2}, 248_323, 998_140),
    ("compact_cnn", {"groups": "depthwise"}, 240_883, 980_068),
]


@pytest.mark.parametrize(("arch", "options", "params", "size"), EXACT)
def test_counts_are_those_of_the_study(arch, options, params, size):
    network = build_on_meta(arch, **options)
    assert count_params(network) == params
    assert weight_bytes(network.state_dict()) == size


def test_sizes_lie_where_the_study_has_them():
    params = {(arch, str(options)): count for arch, options, count, _ in EXACT}
    assert params["large_cnn", "{}"] == pytest.approx(54.34e6, rel=0.01)
    assert params["large_cnn_depthwise", "{}"] == pytest.approx(5.92e6, rel=0.03)
    assert params["plain_cnn", "{}"] == pytest.approx(4.32e6, rel=0.02)
    trio = [size for arch, _, _, size in EXACT if arch == "compact_cnn"]
    assert trio == [pytest.approx(1.0e6, rel=0.05)] * 3
    assert max(trio) / min(trio) <= 1.03


def example_of(arch):
    return plugins.load("models", arch).EXAMPLE


@pytest.mark.parametrize("arch", plugins.names("models"))
@pytest.mark.parametrize(("channels", "pixels"), [(1, 28), (3, 28), (3, 64)])
def test_contract(arch, channels, pixels):
    """All take 1 or 3 channels, any number of classes, 28 pixels and up, and come back from what their spec says."""
    torch.manual_seed(0)
    network = build_model(arch, num_classes=7, in_channels=channels, **example_of(arch)).eval()
    logits = network(torch.randn(2, channels, pixels, pixels))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    assert count_params(network) == count_params(build_on_meta(arch, 7, channels, **example_of(arch)))
    require_rebuilt(network, arch, 7, example_of(arch), [], (channels, pixels, pixels))


@pytest.mark.parametrize("arch", plugins.names("models"))
def test_the_same_seed_gives_the_same_weights(arch):
    def weights():
        torch.manual_seed(3)
        return build_model(arch, **example_of(arch)).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("arch", ["resnet18", "mobile_student", "large_cnn", "large_cnn_depthwise", "plain_cnn"])
def test_width_is_a_factor_of_the_channels(arch):
    assert count_params(build_on_meta(arch, 7, 3, width=0.25)) < 0.2 * count_params(build_on_meta(arch, 7, 3))


def test_resnet18_is_torchvisions():
    from torchvision.models import resnet18

    theirs = resnet18(num_classes=11).eval()
    ours = build_model("resnet18").eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(("stem", "size"), [("imagenet", 7), ("pooled", 14), ("small", 28)])
def test_stems_of_resnet18_keep_more_of_a_small_image(stem, size):
    network = build_model("resnet18", in_channels=1, width=0.25, stem=stem).eval()
    seen = []
    network.layer1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
    network(torch.zeros(1, 1, 28, 28))
    assert seen == [size]


def test_grouped_form_has_two_groups_everywhere_but_in_the_stem():
    network = build_on_meta("compact_cnn", groups=2)
    groups = [module.groups for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert groups == [1] + [2] * 5


def test_macs_of_one_convolution_are_counted_by_hand():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10)
    )
    assert count_macs(network, 4, 6, 6) == 6 * 6 * 8 * 2 * 9 + 8 * 36 * 10


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("resnet19", {}, "unknown architecture 'resnet19', did you mean 'resnet18'"),
        ("resnet18", {"widht": 1.0}, "resnet18.widht: unknown key, did you mean 'width'"),
        ("resnet18", {"width": 0.0}, "resnet18.width = 0.0: must be a number above 0"),
        ("compact_cnn", {"groups": 3}, "compact_cnn.groups = 3: must be one of 1, 2, depthwise"),
        ("torchvision", {"name": "resnet51"}, "torchvision has no such classifier, did you mean 'resnet50'?"),
        ("torchvision", {"name": "resnet18", "weights": "V3"}, "torchvision has none of this name; known: none, IMAGE"),
        ("torchvision", {"name": "resnet18", "arguments": {"depth": 3}}, "options.arguments = {'depth': 3}: resnet18"),
        ("timm", {"name": "resnet51x"}, "timm has no such network, did you mean 'resnet51q'?"),
        ("timm", {"name": "hf-hub:someone/net"}, "timm has no such network"),
        (
            "timm",
            {"name": "test_vit", "arguments": {"checkpoint_path": "w.pt"}},
            "checkpoint_path is not yours to give",
        ),
        (
            "timm",
            {"name": "test_vit", "arguments": {"img_size": "a"}},
            "options.arguments = {'img_size': 'a'}: test_vit",
        ),
    ],
)
def test_bad_options_are_named(arch, options, message):
    with pytest.raises(ConfigError) as error:
        build_model(arch, **options)
    assert message in str(error.value)
