"""Weights trained elsewhere as the start of a training: what is taken, what stays fresh, what is refused and how."""

import os
import re
from dataclasses import replace

import pytest
import torch
from little import DESIGN, make_project
from torch import nn

from netpress.base.errors import ArtifactError, ParamsError
from netpress.base.files import sha256_file
from netpress.core.artifacts import load_model, tensors_as_bytes
from netpress.core.context import open_context
from netpress.core.networks import build_model
from netpress.train import pretrained
from netpress.train.pretrained import WEIGHTS, load_into, read_weights, weights_file, with_start

OPTIONS = {"width": 0.5}
KEY = "train.x.init"


def network(classes=3, channels=1, seed=0, arch="compact_cnn", **options):
    torch.manual_seed(seed)
    return build_model(arch, classes, channels, **(options or OPTIONS))


def copies(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


#: The parameters of the layer that makes the logits of a compact_cnn.
HEAD = {"3.weight", "3.bias"}


def start(target, path):
    classes = target[3].out_features
    load_into(target, path, sha256_file(path), "compact_cnn", KEY, classes)
    return target.state_dict()


def as_safetensors(weights, path):
    path.write_bytes(tensors_as_bytes(weights))
    return path


def as_torch(value, path):
    torch.save(value, path)
    return path


def same(state, weights, but=()):
    return all(torch.equal(state[name], weights[name]) for name in state if name not in but)


def refusal(path, target=None):
    with pytest.raises(ArtifactError) as caught:
        start(target or network(), path)
    return str(caught.value)


def test_weights_that_fit_are_taken_whole(tmp_path, capsys):
    weights = copies(network(seed=1))
    state = start(network(seed=2), as_safetensors(weights, tmp_path / "w.safetensors"))
    assert same(state, weights)
    assert re.fullmatch(r"starts from w\.safetensors \(sha256 [0-9a-f]{8}\)\n", capsys.readouterr().out)


def test_the_head_for_other_classes_stays_as_the_seed_drew_it(tmp_path, capsys):
    weights, fresh = copies(network(classes=7, seed=1)), network(seed=2)
    drawn = copies(fresh)
    state = start(fresh, as_safetensors(weights, tmp_path / "w.safetensors"))
    assert same(state, weights, but=HEAD)
    assert all(torch.equal(state[name], drawn[name]) for name in HEAD)
    assert capsys.readouterr().out.endswith(f"; {' and '.join(sorted(HEAD))} start from scratch\n")


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_half_a_head_is_no_head(tmp_path, part):
    fresh = network(seed=2)
    weights, drawn = copies(network(seed=1)), copies(fresh)
    weights.pop(next(name for name in HEAD if name.endswith(part)))
    state = start(fresh, as_safetensors(weights, tmp_path / "w.safetensors"))
    assert same(state, weights, but=HEAD)
    assert all(torch.equal(state[name], drawn[name]) for name in HEAD)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_become_fp32(tmp_path, dtype):
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in copies(network(seed=1)).items()}
    state = start(network(seed=2), as_safetensors(weights, tmp_path / "w.safetensors"))
    assert {str(v.dtype) for v in state.values()} <= {"torch.float32", "torch.int64"}
    assert all(torch.equal(v, weights[k].to(v.dtype)) for k, v in state.items())


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_state_dicts_of_torch_and_their_wrappers(tmp_path, suffix, wrapper):
    weights = copies(network(seed=1))
    value = {wrapper: weights, "epoch": 3} if wrapper else weights
    assert same(start(network(seed=2), as_torch(value, tmp_path / f"w.{suffix}")), weights)


def test_the_prefix_of_data_parallel_is_taken_off(tmp_path):
    weights = copies(network(seed=1))
    value = nn.DataParallel(network(seed=1)).state_dict()
    assert all(name.startswith("module.") for name in value)
    assert same(start(network(seed=2), as_torch(value, tmp_path / "w.pt")), weights)
    text = refusal(as_torch(weights | {"module.extra": torch.zeros(2)}, tmp_path / "mixed.pt"))
    assert "left over module.extra (2,)" in text


def test_num_batches_tracked_may_be_missing(tmp_path):
    weights = {k: v for k, v in copies(network(seed=1)).items() if not k.endswith("num_batches_tracked")}
    assert len(weights) < len(network().state_dict())
    state = start(network(seed=2), as_safetensors(weights, tmp_path / "w.safetensors"))
    assert all(torch.equal(state[name], weights[name]) for name in weights)


def test_what_is_missing_left_over_or_misshaped_is_named(tmp_path):
    weights = copies(network(seed=1))
    conv, norm = [name for name, tensor in weights.items() if tensor.ndim == 4][1], "extra.weight"
    shape = tuple(weights[conv].shape)
    path = as_safetensors(weights | {norm: torch.zeros(4), conv: torch.zeros(2, 2)}, tmp_path / "w.safetensors")
    target = network(seed=2)
    before = copies(target)
    text = refusal(path, target)
    assert text.startswith(f"{KEY}: the weights of {path} do not fit compact_cnn: ")
    assert f"{conv} is (2, 2), expected {shape}; left over extra.weight (4,)" in text
    assert text.endswith(
        ". Name weights of this architecture with the same options and as many input channels, or none"
    )
    assert same(target.state_dict(), before), "nothing was loaded"
    del weights[conv]
    assert f"missing {conv} {shape}" in refusal(as_safetensors(weights, path))


def test_only_eight_faults_are_named_and_the_rest_counted(tmp_path):
    text = refusal(as_safetensors({f"a{i}": torch.zeros(1) for i in range(10)}, tmp_path / "w.safetensors"))
    own = [name for name in network().state_dict() if not name.endswith("num_batches_tracked")]
    faults = len(own) - 2 + 10
    assert text.count("missing") + text.count("left over") == pretrained.NAMED
    assert f"; and {faults - pretrained.NAMED} more. " in text


def test_a_stem_for_other_channels_is_refused(tmp_path):
    text = refusal(as_safetensors(copies(network(channels=1)), tmp_path / "w.safetensors"), network(channels=3))
    assert re.search(r"is \(\d+, 1, 3, 3\), expected \(\d+, 3, 3, 3\)", text)
    assert "as many input channels" in text


def test_for_grey_images_the_colours_of_the_first_convolution_are_added_up(tmp_path, capsys):
    weights = copies(network(channels=3, seed=1))
    first = next(name for name, tensor in weights.items() if tensor.ndim == 4)
    state = start(network(channels=1, seed=2), as_safetensors(weights, tmp_path / "w.safetensors"))
    assert same(state, weights, but={first})
    torch.testing.assert_close(state[first], weights[first].sum(1, keepdim=True))
    assert f"; {first} adds up three channels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: torch.full_like(t, float("nan")), "holds NaN or infinities"),
        (lambda t: torch.full_like(t, 1e300, dtype=torch.float64), "holds NaN or infinities"),
        (lambda t: t.to(torch.int8), "holds no plain floating-point numbers (int8)"),
        (lambda t: t.to_sparse(), "holds no plain floating-point numbers (float32)"),
        (lambda t: t.to("meta"), "holds no plain floating-point numbers (float32)"),
    ],
    ids=["nan", "too large for fp32", "int8", "sparse", "meta"],
)
def test_numbers_that_cannot_be_trained_are_refused(tmp_path, change, words):
    weights = copies(network(seed=1))
    conv = next(name for name, tensor in weights.items() if tensor.ndim == 4)
    assert f"{conv} {words}" in refusal(as_torch(weights | {conv: change(weights[conv])}, tmp_path / "w.pt"))


class Hostile:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_is_not_executed(tmp_path, name, legacy):
    path = tmp_path / name
    weights = copies(network(seed=1)) | {"extra": Hostile(tmp_path / "executed")}
    torch.save(weights, path, _use_new_zipfile_serialization=not legacy)
    text = refusal(path)
    assert str(path) in text
    assert not (tmp_path / "executed").exists()
    if name == "w.pt":
        assert "it names posix.mkdir, which is not run" in text or "it names nt.mkdir, which is not run" in text
        assert "weights_only" not in text, "torch's advice to load it all the same is not passed on"


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: data[:9], lambda data: b"", lambda data: b"<!DOCTYPE html>"],
)
def test_damaged_files_are_refused(tmp_path, name, damage):
    weights, path = copies(network(seed=1)), tmp_path / name
    (as_torch if name == "w.pt" else as_safetensors)(weights, path)
    path.write_bytes(damage(path.read_bytes()))
    text = refusal(path)
    assert str(path) in text and "\n" not in text
    assert ("fetch it again" in text) if name == "w.pt" else ("is not a safetensors file" in text)


@pytest.mark.parametrize("value", [[1, 2], torch.zeros(2), {"a": 1}, {"state_dict": {"a": "b"}}])
def test_what_is_no_state_dict_is_refused(tmp_path, value):
    assert "holds no state dict (name -> tensor)" in refusal(as_torch(value, tmp_path / "w.pt"))


def test_a_file_that_was_changed_since_the_stage_began_is_refused(tmp_path):
    path = as_safetensors(copies(network(seed=1)), tmp_path / "w.safetensors")
    sha256 = sha256_file(path)
    as_safetensors(copies(network(seed=3)), path)
    with pytest.raises(ArtifactError, match="it was changed meanwhile: run this stage again"):
        load_into(network(), path, sha256, "compact_cnn", KEY, 3)


def test_a_missing_file_is_named_with_those_that_are_there(tmp_path):
    (tmp_path / WEIGHTS / "none").mkdir(parents=True)
    with pytest.raises(ParamsError, match=r"train\.x\.init: no file data/weights/a\.pt; known: none; put or link it"):
        weights_file(tmp_path, "a.pt", KEY)
    (tmp_path / WEIGHTS / "resnet.pth").touch()
    (tmp_path / WEIGHTS / ".hidden").touch()
    with pytest.raises(ParamsError, match=r"did you mean 'resnet\.pth'\?; known: resnet\.pth; put or link it there"):
        weights_file(tmp_path, "resnet.pt", KEY)


def test_a_link_is_followed(tmp_path):
    (tmp_path / WEIGHTS).mkdir(parents=True)
    (tmp_path / "elsewhere.pt").touch()
    (tmp_path / WEIGHTS / "w.pt").symlink_to(tmp_path / "elsewhere.pt")
    assert weights_file(tmp_path, "w.pt", KEY) == tmp_path / WEIGHTS / "w.pt"


# published weights


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch, and torchvision's weights of ResNet18, which are never fetched."""
    from torchvision.models import ResNet18_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return tmp_path / "hub/hub/checkpoints", ResNet18_Weights.IMAGENET1K_V1


def fetching(monkeypatch, weights, action):
    calls = []

    def get_state_dict(self, **options):
        calls.append(options)
        return action()

    monkeypatch.setattr(type(weights), "get_state_dict", get_state_dict)
    return calls


def test_torchvision_is_asked_once_and_checks_what_it_fetches(hub, monkeypatch):
    cache, weights = hub

    def fetch():
        cache.mkdir(parents=True)
        (cache / "resnet18-f37072fd.pth").write_bytes(b"x")

    monkeypatch.setattr(pretrained.files, "sha256_file", lambda path: "f37072fd" + "0" * 56)
    calls = fetching(monkeypatch, weights, fetch)
    for _ in range(2):
        path = pretrained._from_torchvision("ResNet18_Weights.IMAGENET1K_V1", "train.x")
    assert path == cache / "resnet18-f37072fd.pth"
    assert calls == [{"progress": False, "check_hash": True, "weights_only": True}]


def test_without_network_the_error_names_the_ways_out(hub, monkeypatch):
    cache, weights = hub

    def fetch():
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    fetching(monkeypatch, weights, fetch)
    with pytest.raises(ArtifactError) as caught:
        pretrained._from_torchvision("ResNet18_Weights.IMAGENET1K_V1", "train.x")
    text = str(caught.value)
    assert text.startswith("train.x.options: https://download.pytorch.org/models/resnet18-f37072fd.pth cannot")
    assert "Temporary failure in name resolution" in text
    assert f"Put that file into {cache}, or into data/weights and name it in init, or set weights: none" in text


def test_another_file_in_the_cache_is_not_read(hub, monkeypatch):
    """torchvision takes what lies there as it is, and would unpickle it."""
    cache, weights = hub
    cache.mkdir(parents=True)
    torch.save(Hostile(cache / "executed"), cache / "resnet18-f37072fd.pth")
    calls = fetching(monkeypatch, weights, dict)
    with pytest.raises(ArtifactError, match=r"resnet18-f37072fd\.pth is not the file that was published.*delete it"):
        pretrained._from_torchvision("ResNet18_Weights.IMAGENET1K_V1", "train.x")
    assert calls == [] and not (cache / "executed").exists()


def test_torchvisions_names_and_shapes_are_ours(tmp_path):
    from torchvision.models import resnet18

    weights = resnet18(weights=None).state_dict()
    path = as_torch(weights, tmp_path / "w.pth")
    target = network(11, 3, arch="resnet18", width=1.0)
    load_into(target, path, sha256_file(path), "resnet18", KEY, 11)
    assert same(target.state_dict(), weights, but={"fc.weight", "fc.bias"})


def test_names_of_torchvisions_densenet_file_are_those_of_its_network(tmp_path):
    names = {
        "features.denseblock1.denselayer1.norm.1.weight": "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock1.denselayer12.conv.2.weight": "features.denseblock1.denselayer12.conv2.weight",
        "features.norm0.weight": "features.norm0.weight",
    }
    path = as_torch({old: torch.zeros(1) for old in names}, tmp_path / "w.pth")
    assert set(read_weights(path.read_bytes(), path)) == set(names.values())


def test_timms_weights_are_fetched_as_the_training_begins(prepared, monkeypatch, capsys):
    """Its own network, of other classes and of colours, stands in for the hub."""
    import timm

    create, asked = timm.create_model, []

    def stand_in(name, pretrained=False, **settings):
        asked.append(pretrained)
        torch.manual_seed(7)
        return create(name, **settings)

    monkeypatch.setattr(timm, "create_model", stand_in)
    context = open_context(prepared, "train", "teacher")
    changes = {"arch": "timm", "options": {"name": "test_resnet", "pretrained": True}, "init": "none"}
    item = context.item.model_copy(update=changes)
    started = with_start(replace(context, config=context.config.model_copy(update={"item": item})))
    assert asked == [True] and started.start.init == "timm test_resnet" and len(started.start.sha256) == 64
    target = build_model("timm", 10, 1, name="test_resnet", pretrained=True)
    assert asked == [True, False]
    started.start.load_into(target)
    torch.manual_seed(7)
    weights = create("test_resnet").state_dict()
    assert torch.equal(target.state_dict()["conv1.0.weight"], weights["conv1.0.weight"].sum(1, keepdim=True))
    assert "starts from timm test_resnet (sha256 " in capsys.readouterr().out


def test_what_timm_cannot_fetch_is_one_line(monkeypatch):
    import timm

    from netpress.models import timm as arch

    def fail(*args, **settings):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(
        ArtifactError, match=r"timm's weights of test_vit cannot be fetched \(no route to host\); set pre"
    ):
        arch.fetch(arch.Options(name="test_vit", pretrained=True))


# params.yaml and the stage


@pytest.fixture(scope="module")
def prepared(server, tmp_path_factory):
    """A little project whose teacher starts from a file of weights for other classes."""
    item = DESIGN | {"options": OPTIONS, "init": "w.pt", "epochs": 1}
    folder = make_project(tmp_path_factory.mktemp("starts") / "project", train={"teacher": item})
    weights = {"state_dict": {f"module.{k}": v for k, v in copies(network(classes=4, seed=1)).items()}}
    as_torch(weights, folder / WEIGHTS / "w.pt")
    server.finish(folder, "prepare")
    return folder


def test_the_fingerprint_is_that_of_the_files_content(prepared):
    path = prepared / WEIGHTS / "w.pt"
    kept = path.read_bytes()

    def fingerprint():
        return with_start(open_context(prepared, "train", "teacher")).fingerprint(0)

    try:
        first = fingerprint()
        as_torch({"other": torch.zeros(1)}, path)
        assert fingerprint() != first
        path.write_bytes(kept)
        assert fingerprint() == first
        assert open_context(prepared, "train", "teacher").fingerprint(0) != first
    finally:
        path.write_bytes(kept)


def test_the_stage_starts_from_the_file_and_says_so_in_the_spec(server, prepared):
    output = server.finish(prepared, "train", "teacher")
    assert re.search(r"starts from w\.pt \(sha256 [0-9a-f]{8}\); \d+\.bias and \d+\.weight start from scratch", output)
    spec = load_model(prepared / "models/train/teacher")[1]
    assert (spec.init, spec.init_sha256) == ("w.pt", sha256_file(prepared / WEIGHTS / "w.pt"))
    server.finish(prepared, "distill", "kd")
    spec = load_model(prepared / "models/distill/kd")[1]
    assert (spec.init, spec.init_sha256) == (None, None)


def test_the_stage_ends_with_one_line_where_the_file_is_missing(server, prepared):
    path = prepared / WEIGHTS / "w.pt"
    kept = path.rename(path.with_name("w.pth"))
    try:
        failed = server.run(prepared, "train", "teacher")
    finally:
        kept.rename(path)
    assert failed["code"] == 1
    line = ": train.teacher.init: no file data/weights/w.pt, did you mean 'w.pth'?; known: w.pth; put or link it"
    assert (
        failed["output"].startswith("error: params.yaml, line ")
        and line in failed["output"]
        and "Traceback" not in failed["output"]
    )


def test_a_start_from_none_says_nothing(prepared, tmp_path):
    bench = open_context(prepared, "train", "teacher")
    item = bench.item.model_copy(update={"init": "none"})
    bench = type(bench)(**(vars(bench) | {"config": bench.config.model_copy(update={"item": item})}))
    assert with_start(bench) is bench and bench.start is None
