"""`arch: module`, a file of the project; timm, which may be missing; networks that cannot come back as they were."""

import importlib
from hashlib import sha256
from types import SimpleNamespace

import pytest
import torch
from little import DESIGN, make_project
from torch import nn

from netpress.base.errors import ConfigError, ParamsError
from netpress.core.networks import build_model, build_on_meta, failing_part, rebuild, require_rebuilt
from netpress.core.seeds import fresh_network
from netpress.models import compact_cnn, module
from netpress.params.items import Design
from netpress.params.schema import parse

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, channels, width):
        super().__init__()
        assert float(torch.linspace(0, 1, 3)[1]) == 0.5  # which no tensor without storage can say
        self.conv = nn.Conv2d(channels, width, 3)
        self.head = nn.Linear(width, classes)
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)) * self.scale)

def build(num_classes, in_channels, width=8):
    return Net(num_classes, in_channels, width)

def nothing(num_classes, in_channels):
    return None
"""
#: Four classes, grey images of 28 pixels.
MANIFEST = SimpleNamespace(classes=list("abcd"), channels=1, resolution=28)


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "nets").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(project, text=NETWORK, path="nets/own.py", **changes):
    (project / path).write_text(text)
    return {"path": path, "sha256": sha256(text.encode()).hexdigest(), **changes}


def test_a_file_of_the_project_is_built_and_comes_back(project):
    own = options(project, arguments={"width": 6})
    network = build_model("module", 4, 1, **own).eval()
    again = rebuild("module", 4, 1, own, [], network.state_dict())
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(network(images), again(images))
    assert network(images).shape == (2, 4) and network.conv.out_channels == 6
    assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))
    require_rebuilt(network, "module", 4, own, [], (1, 28, 28))
    assert sum(p.numel() for p in build_on_meta("module", 4, 1, **own).parameters()) == 60 + 28


def test_a_changed_file_is_refused_until_its_hash_is_stated(project):
    own = options(project)
    build_model("module", 4, 1, **own)
    again = options(project, NETWORK.replace("relu", "tanh"))
    text = f"nets/own.py is another file, of the sha256 {again['sha256']}; look at it, then write sha256: "
    with pytest.raises(ParamsError) as error:
        parse(module.Options, own, "train.own.options")
    key = "train.own.options.sha256"
    assert error.value.faults == ((key, f"{key} = '{own['sha256']}': {text}{again['sha256']}"),)
    build_model("module", 4, 1, **again)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/etc/passwd.py", "inside the project"),
        ("../own.py", "inside the project"),
        ("nets/../../own.py", "inside the project"),
        ("nets/own.txt", "name a Python file"),
        ("C:/own.py", "inside the project"),
        ("nets\\own.py", "inside the project"),
        ("nets/other.py", "there is no such file"),
    ],
)
def test_only_a_python_file_inside_the_project_is_run(project, path, words):
    own = options(project) | {"path": path}
    with pytest.raises(ParamsError, match=words):
        build_model("module", 4, 1, **own)


def test_a_link_that_leads_outside_is_refused(project, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "own.py"
    outside.write_text(NETWORK)
    (project / "nets/link.py").symlink_to(outside)
    own = options(project) | {"path": "nets/link.py"}
    with pytest.raises(ParamsError, match="a link that leads out of the project"):
        build_model("module", 4, 1, **own)


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("1 / 0", {}, r"options\.path = 'nets/own\.py': it fails: ZeroDivisionError: division by zero"),
        ("x = (", {}, r"options\.path = 'nets/own\.py': it fails: SyntaxError"),
        (NETWORK, {"factory": "make"}, r"options\.factory = 'make': nets/own\.py has no function of this name"),
        (NETWORK, {"factory": "nothing"}, "it gives a NoneType and not a torch.nn.Module"),
        (
            NETWORK,
            {"arguments": {"depth": 3}},
            r"options\.arguments = .*TypeError: .*unexpected keyword argument 'depth'",
        ),
    ],
)
def test_faults_of_the_file_are_one_line(project, text, changes, words):
    with pytest.raises(ParamsError, match=words) as error:
        build_model("module", 4, 1, **options(project, text, **changes))
    assert "\n" not in str(error.value)


def test_a_network_that_draws_its_own_numbers_is_refused_by_the_layer(project):
    text = NETWORK.replace("torch.full((1,), 0.5)", "torch.rand(1)")
    own = options(project, text)
    network = build_model("module", 4, 1, **own)
    with pytest.raises(ConfigError, match=r"^from: nets/own\.py: build: layer 'head' does not come back with the"):
        require_rebuilt(network, "module", 4, own, [], (1, 28, 28))
    assert network.training


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("nn.Linear(width, classes)", "nn.Linear(width, 7)", r" gives \(2, 7\); the data have 4 classes"),
        ("return self.head", "return x, self.head", r" gives a tuple; a tensor \(images, classes\) is needed"),
        ("return self.head", "return x if self.training else self.head", r" gives \(2, 1, 28, 28\) for 2 images while"),
        ("self.scale)", "self.scale).sum()", r" gives \(\) for 2 images; a tensor \(images, classes\) is needed"),
        ("return self.head", "assert len(x) == 1; self.head", r": the network does not run on images of \(1, 28, 28\)"),
        (
            "return self.head",
            "assert not self.training; return self.head",
            r": the network does not run on images of \(1, 28, 28\) while it is trained",
        ),
        ("nn.Conv2d(channels", "nn.Sequential(nn.Conv2d(3", r": layer 'conv' does not run on images of \(1, 28, 28\)"),
    ],
)
def test_a_network_without_logits_is_refused_before_it_is_trained(project, old, new, words):
    text = NETWORK.replace(old, new)
    if "Sequential" in new:
        text = text.replace("width, 3)", "width, 3))")
    item = Design(arch="module", options=options(project, text), recipe="plain", epochs=1)
    with pytest.raises(ParamsError, match=r"^arch: nets/own\.py: build" + words) as error:
        fresh_network(item, MANIFEST, 0)
    assert "\n" not in str(error.value) and error.value.faults[0][0] == "arch"


def test_an_architecture_without_the_classes_of_the_data_is_refused(monkeypatch):
    build = compact_cnn.build
    monkeypatch.setattr(compact_cnn, "build", lambda classes, *rest: build(7, *rest))
    with pytest.raises(ParamsError, match=r"^arch: compact_cnn gives \(2, 7\); the data have 4 classes"):
        fresh_network(Design(arch="compact_cnn", options={}, recipe="plain", epochs=1), MANIFEST, 0)


def test_a_network_without_parts_that_does_not_run_is_named_as_a_whole():
    class Bare(nn.Module):
        def forward(self, images):
            raise ValueError

    assert failing_part(Bare(), torch.zeros(1)) == ("", "ValueError")


def test_the_stage_trains_a_file_of_the_project(server, tmp_path):
    folder = make_project(tmp_path / "project")
    (folder / "nets").mkdir()
    own = options(folder)
    folder = make_project_again(folder, own)
    server.finish(folder, "prepare")
    server.finish(folder, "train", "teacher")
    spec_options = (folder / "models/train/teacher/seed_0/spec.json").read_text()
    assert own["sha256"] in spec_options


def make_project_again(folder, own):
    """The same project with a teacher of its own architecture."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    params = yaml.load((folder / "params.yaml").read_text())
    params["train"]["teacher"] |= {"arch": "module", "options": own, "epochs": 1}
    with (folder / "params.yaml").open("w") as stream:
        yaml.dump(params, stream)
    return folder


def test_without_timm_one_line_says_how_to_install_it(monkeypatch):
    timm = importlib.import_module("netpress.models.timm")

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(timm.importlib, "import_module", missing)
    with pytest.raises(
        ConfigError, match=r"needs the package timm.*run: \.venv/bin/uv pip install -r requirements-timm"
    ):
        parse(timm.Options, {"name": "resnet18"}, "train.x.options")


def test_the_first_convolution_takes_grey_images_as_three_equal_channels():
    def build(channels):
        torch.manual_seed(0)
        return build_model("torchvision", 3, channels, name="mobilenet_v3_small").eval()

    grey, colour = build(1), build(3)
    image = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(grey(image), colour(image.repeat(1, 3, 1, 1)))


def test_published_weights_are_not_fetched_when_a_network_is_built(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("fetched")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    network = build_model("torchvision", 3, 3, name="mobilenet_v3_small", weights="DEFAULT")
    assert isinstance(network.classifier[-1], nn.Linear) and network.classifier[-1].out_features == 3


@pytest.mark.parametrize("name", ["googlenet"])
def test_networks_with_side_branches_give_logits_alone(name):
    network = build_model("torchvision", 3, 3, name=name)
    assert network.train()(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_items_say_of_one_start_at_most(tmp_path):
    from netpress.graph.checks import load_checked

    published = DESIGN | {"arch": "resnet18", "options": {"weights": "IMAGENET1K_V1"}}
    cases = {
        "two": ({"train": {"teacher": published | {"init": "w.pt"}}}, "choose one of them"),
        "scratch": (
            {"train": {"teacher": DESIGN | {"init": "none", "epochs": 0}}},
            "epochs = 0: brings a trained network",
        ),
        "lowrank": ({"lowrank": {"depthwise": published}}, "published weights are where items of train begin"),
    }
    for name, (changes, words) in cases.items():
        folder = make_project(tmp_path / name, **changes)
        with pytest.raises(ConfigError, match=words):
            load_checked(folder / "params.yaml")
