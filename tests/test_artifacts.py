"""Models on disk: rebuilt exactly, checked on every load, readable by onnxruntime alone."""

import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import score_of
from torch import nn

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.base.model_files import HISTORY, ONNX, SPEC, WEIGHTS
from netpress.core import artifacts
from netpress.core.artifacts import Spec, load_model, save_model, weights_as_bytes
from netpress.core.context import Method
from netpress.core.edits import resize_edit, sizes_of
from netpress.core.export import OnnxModule, Shelf, export_onnx
from netpress.core.measure import count_params, weight_bytes
from netpress.core.networks import build_model
from netpress.factorize.methods import tucker2
from netpress.factorize.run import factorize_network
from netpress.prune.common.channels import remove_channels


def made(arch="compact_cnn", options=None, edit=None):
    """A network with lively normalizations, changed by `edit(network) -> edits`, and its spec."""
    torch.manual_seed(0)
    options = options or {"width": 0.25}
    network = build_model(arch, 5, 3, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    edits = edit(network) if edit else []
    network.eval()
    spec = Spec(
        model_id="train/example",
        seed=0,
        arch=arch,
        options=options,
        edits=edits,
        method=None,
        init=None,
        init_sha256=None,
        parents={},
        classes=list("abcde"),
        in_channels=3,
        height=32,
        width=32,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        quantized=False,
        epochs=1,
        data_sha256="0" * 64,
        params=count_params(network),
        macs=1,
        weight_bytes=weight_bytes(network.state_dict()),
        onnx_bytes=0,
        sha256={},
    )
    return network, spec


def contents(network):
    return {WEIGHTS: weights_as_bytes(network), ONNX: export_onnx(network, 3, 32, 32), HISTORY: b"epoch\n1\n"}


def prune(network):
    sizes = sizes_of(network)
    remove_channels(network, torch.zeros(2, 3, 32, 32), 0.4, 1, score_of("magnitude", {"norm": 2}))
    return [resize_edit(sizes, network)]


def factorize(network):
    method = Method("tucker2", tucker2, tucker2.Options(choose="share", rank=0.5, min_channels=4))
    return [factorize_network(network, method, lambda: iter(()))]


def factorize_then_prune(network):
    return factorize(network) + prune(network)


@pytest.mark.parametrize(
    ("arch", "options", "edit"),
    [
        ("compact_cnn", {"groups": 2, "width": 0.5}, None),
        ("resnet18", {"width": 0.125}, prune),
        ("mobile_student", {"width": 0.25}, prune),
        ("compact_cnn", {"groups": 2, "width": 0.5}, prune),
        ("large_cnn", {"width": 0.0625}, factorize),
        ("resnet18", {"width": 0.125}, factorize_then_prune),
    ],
)
def test_a_model_is_rebuilt_exactly_and_its_onnx_agrees(tmp_path, arch, options, edit):
    network, spec = made(arch, options, edit)
    spec = save_model(tmp_path, spec, contents(network))
    again, read = load_model(tmp_path)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        expected = network(images)
        assert torch.equal(again(images), expected)
    assert not again.training
    assert read == spec
    session = onnxruntime.InferenceSession((tmp_path / ONNX).read_bytes(), providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"images": images.numpy()})[0]
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4, rtol=1e-4)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    network, spec = made()
    for name in ("one", "two"):
        save_model(tmp_path / name, spec, contents(network))
    for name in (SPEC, WEIGHTS, ONNX, HISTORY):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_onnx_carries_no_path_of_the_clone():
    data = export_onnx(made()[0], 3, 32, 32)
    assert b"netpress/" not in data
    assert b".py" not in data


@pytest.mark.parametrize(
    ("arch", "options"),
    [("resnet18", {"width": 0.125}), ("compact_cnn", {"groups": "depthwise", "width": 0.5})],
)
def test_a_graph_that_is_kept_gives_the_bytes_of_a_network_of_its_own(arch, options):
    first, second = (build_model(arch, 5, 3, **options).eval() for _ in range(2))
    graphs = {}
    for network in (first, second):
        kept = export_onnx(network, 3, 32, 32, shelf=Shelf(graphs, "x"))
        assert kept == export_onnx(network, 3, 32, 32)
    assert list(graphs) == ["x"]


def test_a_graph_of_another_structure_is_refused():
    graphs = {}
    export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval(), 3, 2, 2, shelf=Shelf(graphs, "x"))
    other = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU()).eval()
    with pytest.raises(ArtifactError, match=r"^the network: the exported ONNX model is off by"):
        export_onnx(other, 3, 2, 2, shelf=Shelf(graphs, "x"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model folder; for copies, since its export takes seconds."""
    place = tmp_path_factory.mktemp("saved")
    network, spec = made()
    save_model(place / "seed_0", spec, contents(network))
    artifacts.write_seeds(place, [0])
    return place


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def test_the_variants_folder_gives_its_shipped_seed(folder):
    assert load_model(folder)[1] == load_model(folder / "seed_0")[1]


def test_children_get_the_parent_of_their_seed_or_its_only_one(tmp_path):
    artifacts.write_seeds(tmp_path / "many", [3, 1])
    artifacts.write_seeds(tmp_path / "one", [5])
    assert artifacts.seed_folder(tmp_path / "many", 1).name == "seed_1"
    assert artifacts.seed_folder(tmp_path / "many", None).name == "seed_3"
    assert artifacts.seed_folder(tmp_path / "one", 0).name == "seed_5"
    with pytest.raises(ArtifactError, match=r"has no seed 2, only \[3, 1\]"):
        artifacts.seed_folder(tmp_path / "many", 2)


@pytest.mark.parametrize(
    "damage",
    [b"", b"<html>404</html>", b"\x80\x04N."],
    ids=["empty", "html", "pickle"],
)
def test_replaced_weights_are_refused(folder, damage):
    (folder / "seed_0" / WEIGHTS).write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"model\.safetensors is not what was written.*dvc repro"):
        load_model(folder)


@pytest.mark.parametrize("position", [0, 9, 500, -1])
def test_a_flipped_bit_is_found(folder, position):
    path = folder / "seed_0" / WEIGHTS
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="sha256 differs"):
        load_model(folder)


def test_weights_that_do_not_fit_are_listed(folder):
    """A spec and weights that are each whole, but not of one another."""
    network, _ = made(options={"width": 0.5})
    data = weights_as_bytes(network)
    (folder / "seed_0" / WEIGHTS).write_bytes(data)
    path = folder / "seed_0" / SPEC
    raw = files.read_sealed(path, "")
    raw["sha256"][WEIGHTS] = files.sha256_bytes(data)
    files.write_sealed(path, raw)
    with pytest.raises(ArtifactError, match=r"the weights do not fit compact_cnn: .*expected \("):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("arch"), "spec.arch: missing"),
        (lambda raw: raw.update(arch="resnet19"), "unknown architecture 'resnet19'"),
        (lambda raw: raw.update(extra=1), "spec.extra: unknown key"),
        (lambda raw: raw.update(edits=[{"edit": "twist", "layers": {"0.0": []}}]), "unknown kind 'twist'"),
        (lambda raw: raw.update(edits=[{"edit": "resize", "layers": {"9": {"set": {}, "shapes": {}}}}]), "layer '9'"),
    ],
)
def test_a_spec_that_describes_no_model_is_refused(folder, change, message):
    path = folder / "seed_0" / SPEC
    raw = files.read_sealed(path, "")
    change(raw)
    files.write_sealed(path, raw)
    with pytest.raises(ArtifactError, match="dvc repro") as error:
        load_model(folder)
    assert message in str(error.value)


def test_what_is_missing_is_named(tmp_path, folder):
    with pytest.raises(ArtifactError, match=r"seeds\.json is missing; run 'dvc pull' if .*nothing, or 'dvc repro'"):
        load_model(tmp_path / "nothing")
    (folder / "seed_0" / WEIGHTS).unlink()
    with pytest.raises(ArtifactError, match=r"model\.safetensors is missing"):
        load_model(folder)


def test_onnxruntimes_refusal_is_one_line():
    with pytest.raises(ArtifactError, match="onnxruntime refuses the ONNX model") as error:
        OnnxModule(b"nonsense", threads=1)
    assert len(str(error.value).splitlines()) == 1


def test_an_export_that_computes_something_else_is_refused():
    class Fickle(nn.Module):
        """Answers otherwise when it is traced than when it runs."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3 * 32 * 32, 5)

        def forward(self, images):
            offset = 1.0 if torch.compiler.is_compiling() else 0.0
            return self.head(images.flatten(1)) + offset

    with pytest.raises(ArtifactError, match=r"^train/x seed 0: the exported ONNX model is off by"):
        export_onnx(Fickle().eval(), 3, 32, 32, "train/x seed 0")


def test_a_network_that_cannot_be_exported_is_named_in_one_line():
    class Branching(nn.Module):
        """Computes by what it sees, which no file can hold."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 5)

        def forward(self, images):
            return self.head(images.flatten(1) + 1 if images.sum().item() > 0 else images.flatten(1))

    with pytest.raises(ArtifactError, match=r"^train/x seed 0 cannot be exported to ONNX \(.*data-dependent") as error:
        export_onnx(Branching().eval(), 1, 2, 2, "train/x seed 0")
    assert "\n" not in str(error.value)
