"""Weights trained elsewhere as a start: what fits, what is refused, and that nothing in them is run."""

import json
import pickle

import pytest
import torch
from little import DESIGN, make_project
from safetensors.torch import save_file

from netpress import config
from netpress.base.errors import ConfigError
from netpress.bench import open_bench
from netpress.graph import load_checked
from netpress.models import build_model
from netpress.pretrained import WEIGHTS, hash_of, head_of, start_from


def network(classes=11, seed=0, **options):
    torch.manual_seed(seed)
    return build_model("compact_cnn", classes, 3, width=0.25, **options)


@pytest.fixture
def root(tmp_path):
    (tmp_path / WEIGHTS).mkdir(parents=True)
    return tmp_path


def put(root, state, name="w.safetensors"):
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, root / WEIGHTS / name)
    return name


def same(one, two, names):
    return all(torch.equal(one[name], two[name]) for name in names)


def test_a_head_of_another_size_starts_afresh_and_that_is_said(root, capsys):
    other = network(200, seed=1).state_dict()
    started, fresh = network(), network().state_dict()
    start_from(started, root, put(root, other), "compact_cnn")
    state, head = started.state_dict(), head_of(started)
    assert len(head) == 2
    assert same(state, other, state.keys() - head)
    assert same(state, fresh, head)
    assert capsys.readouterr().out == f"starts from w.safetensors; {' and '.join(sorted(head))} start afresh\n"


def test_a_head_of_the_same_size_is_taken_too(root, capsys):
    other = network(seed=1).state_dict()
    started = network()
    start_from(started, root, put(root, other), "compact_cnn")
    assert same(started.state_dict(), other, other)
    assert capsys.readouterr().out == "starts from w.safetensors\n"


def test_none_leaves_the_fresh_weights(root):
    started = network()
    start_from(started, root, "none", "compact_cnn")
    assert same(started.state_dict(), network().state_dict(), started.state_dict())
    assert hash_of(root, "none", "compact_cnn") is None


def test_half_precision_is_widened_and_counters_may_be_missing(root):
    other = {k: t.half() for k, t in network(seed=1).state_dict().items() if not k.endswith("num_batches_tracked")}
    started = network()
    start_from(started, root, put(root, other), "compact_cnn")
    state = started.state_dict()
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in state.values())
    assert same(state, {k: t.float() for k, t in other.items()}, other)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_of_torch_in_the_usual_wrappers(root, wrap, prefix):
    other = network(seed=1).state_dict()
    torch.save(wrap({prefix + name: tensor for name, tensor in other.items()}), root / WEIGHTS / "w.pth")
    started = network()
    start_from(started, root, "w.pth", "compact_cnn")
    assert same(started.state_dict(), other, other)


def lacking(state):
    del state[next(iter(state))]
    return "missing "


def left_over(state):
    state["extra.weight"] = torch.zeros(3)
    return "left over extra.weight (3,)"


def misshapen(state):
    name = next(iter(state))
    state[name] = torch.zeros(1, 2)
    return f"{name} is (1, 2), expected ("


@pytest.mark.parametrize("spoil", [lacking, left_over, misshapen])
def test_what_does_not_fit_is_named(root, spoil):
    state = network(seed=1).state_dict()
    words = spoil(state)
    with pytest.raises(ConfigError) as error:
        start_from(network(), root, put(root, state), "compact_cnn")
    assert words in str(error.value)
    assert str(error.value).startswith("init = w.safetensors: its weights do not fit compact_cnn: ")
    assert "or set init: none" in str(error.value)


def test_many_faults_are_counted(root):
    with pytest.raises(ConfigError, match=r"; and \d+ more\. Name a file of this architecture"):
        start_from(network(), root, put(root, {"a": torch.zeros(1)}), "compact_cnn")


def test_other_input_channels_are_a_fault(root):
    state = build_model("compact_cnn", 11, 1, width=0.25).state_dict()
    with pytest.raises(ConfigError, match=r"is \(8, 1, 3, 3\), expected \(8, 3, 3, 3\)"):
        start_from(network(), root, put(root, state), "compact_cnn")


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_a_pickle_that_would_run_something_is_refused_and_not_run(root, tmp_path):
    mark = tmp_path / "ran"
    (root / WEIGHTS / "w.pth").write_bytes(pickle.dumps({"a": Hostile(mark)}))
    torch.save({"a": Hostile(mark)}, root / WEIGHTS / "z.pth")
    mark.unlink(missing_ok=True)
    for name in ("w.pth", "z.pth"):
        with pytest.raises(ConfigError, match=r"or holds more than tensors, which is not run"):
            start_from(network(), root, name, "compact_cnn")
        assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff" * 100])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_files_that_are_something_else_are_refused(root, name, content):
    (root / WEIGHTS / name).write_bytes(content)
    with pytest.raises(ConfigError, match="init: "):
        start_from(network(), root, name, "compact_cnn")


def test_a_truncated_file_is_refused(root):
    name = put(root, network(seed=1).state_dict())
    path = root / WEIGHTS / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"w\.safetensors is not a safetensors file .*; fetch it again"):
        start_from(network(), root, name, "compact_cnn")


def test_a_list_of_numbers_is_no_state_dict(root):
    torch.save([1, 2, 3], root / WEIGHTS / "w.pth")
    with pytest.raises(ConfigError, match=r"holds no state dict \(name -> tensor\); save network\.state_dict\(\)"):
        start_from(network(), root, "w.pth", "compact_cnn")


def test_a_missing_file_names_the_nearest(root):
    put(root, {"a": torch.zeros(1)}, "resnet18.safetensors")
    with pytest.raises(
        ConfigError, match=r"no file data/weights/resnet81\.safetensors, did you mean 'resnet18\.safetensors'\?"
    ):
        hash_of(root, "resnet81.safetensors", "compact_cnn")


class Published:
    """Stands for torchvision's entry, whose file cannot be fetched in a test."""

    url = "https://download.pytorch.org/models/resnet18-f37072fd.pth"

    def __init__(self, state):
        self.state = state

    def get_state_dict(self, progress, check_hash):
        assert check_hash
        if self.state is None:
            raise OSError("Name or service not known")
        return self.state


def resnet(classes=11, seed=0):
    torch.manual_seed(seed)
    return build_model("resnet18", classes, 3)


def test_torchvisions_weights_are_taken_under_their_own_names(root, monkeypatch):
    published = resnet(1000, seed=1).state_dict()
    monkeypatch.setattr("netpress.pretrained._torchvision_weights", lambda arch: Published(published))
    started = resnet()
    start_from(started, root, "imagenet", "resnet18")
    body = started.state_dict().keys() - {"fc.weight", "fc.bias"}
    assert same(started.state_dict(), published, body)


def test_torchvision_knows_the_weights_by_the_name_that_the_architecture_gives(root):
    assert hash_of(root, "imagenet", "resnet18") == "resnet18-f37072fd.pth"


def test_without_a_network_the_way_out_is_said(root, monkeypatch):
    monkeypatch.setattr("netpress.pretrained._torchvision_weights", lambda arch: Published(None))
    with pytest.raises(ConfigError) as error:
        start_from(resnet(), root, "imagenet", "resnet18")
    for words in ("resnet18-f37072fd.pth cannot be fetched", "Put the file into", "data/weights", "set init: none"):
        assert words in str(error.value)


def test_imagenet_for_another_architecture_is_refused_before_any_work(tmp_path):
    item = DESIGN | {"options": {"width": 0.5}, "init": "imagenet"}
    made = make_project(tmp_path / "project", train={"teacher": item})
    with pytest.raises(ConfigError, match=r"teacher\.init = imagenet: torchvision has weights for resnet18 and not"):
        load_checked(made / "params.yaml")


def test_a_stage_starts_from_the_file_and_records_it(server, tmp_path):
    item = DESIGN | {"options": {"width": 0.5}, "init": "w.safetensors"}
    made = make_project(tmp_path / "project", train={"teacher": item})
    server.finish(made, "prepare")
    failed = server.run(made, "train", "teacher")
    assert failed["code"] == 1
    assert "init = w.safetensors: no file data/weights/w.safetensors" in failed["output"]
    state = build_model("compact_cnn", 10, 1, width=0.5).state_dict()
    put(made, state)
    assert "starts from w.safetensors" in server.finish(made, "train", "teacher")
    spec = json.loads((made / "models/train/teacher/seed_0/spec.json").read_text())
    assert (spec["init"], spec["init_sha256"]) == ("w.safetensors", hash_of(made, "w.safetensors", "compact_cnn"))
    first = open_bench(made, "train", "teacher").fingerprint(0)
    put(made, {name: tensor * 2 for name, tensor in state.items()})
    assert open_bench(made, "train", "teacher").fingerprint(0) != first
    assert config.for_variant(made / "params.yaml", "train", "teacher").item.init == "w.safetensors"
