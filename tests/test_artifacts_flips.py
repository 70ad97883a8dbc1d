"""Any byte of any artifact that is changed is found when it is read; the error names the file and what to do."""

import functools

import pytest
import torch
from conftest import RECIPE
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from little import make_project
from test_artifacts import contents, made

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.base.model_files import HISTORY, ONNX, SEEDS, SPEC, WEIGHTS
from netpress.core import artifacts, checkpoint
from netpress.core import resume as store
from netpress.core.dataset import load_manifest, load_split
from netpress.core.optimizer import make_optimizer
from netpress.ingest.prepare import prepare
from netpress.params import reader
from netpress.report.collect import TestMetrics, read_metrics

METRICS = {"test_acc": 0.875, "n_images": 3000, "weights_sha256": "0" * 64}


def write_model(folder):
    network, spec = made()
    artifacts.save_model(folder / "seed_0", spec, contents(network))
    artifacts.write_seeds(folder, [0])


def write_data(folder):
    root = make_project(folder / "project")
    prepare(root, reader.for_data(root / "params.yaml"), folder / "prepared")


def read_data(folder):
    manifest = load_manifest(folder / "prepared")
    for name in ("train", "val", "test"):
        load_split(folder / "prepared", name, manifest)


#: Kind -> (write everything into a folder, files of the kind, read everything).
KINDS = {
    "model": (
        write_model,
        [f"seed_0/{WEIGHTS}", f"seed_0/{ONNX}", f"seed_0/{HISTORY}", f"seed_0/{SPEC}", SEEDS],
        artifacts.load_model,
    ),
    "data": (
        write_data,
        [f"prepared/{name}_{part}.npy" for name in ("train", "val", "test") for part in ("images", "labels")]
        + ["prepared/manifest.json"],
        read_data,
    ),
    "metrics": (
        lambda folder: artifacts.write_metrics(folder, "test/train/x", METRICS),
        ["metrics/test/train/x.json"],
        lambda folder: read_metrics(folder, "test/train/x", TestMetrics),
    ),
}
CASES = [(kind, name) for kind, (_, names, _) in KINDS.items() for name in names]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    @functools.cache
    def write(kind):
        folder = tmp_path_factory.mktemp(kind)
        KINDS[kind][0](folder)
        KINDS[kind][2](folder)  # whole, it is read without complaint
        return folder

    return write


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[name for _, name in CASES])
def test_a_flipped_bit_is_found_wherever_it_is(written, kind, name):
    folder = written(kind)
    path = folder / name
    whole = path.read_bytes()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(place=st.integers(0, len(whole) - 1), bit=st.integers(0, 7))
    @example(place=0, bit=0)
    @example(place=len(whole) - 1, bit=0)
    @example(place=len(whole) // 2, bit=7)
    def flip(place, bit):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"run 'dvc repro") as error:
            KINDS[kind][2](folder)
        assert path.name in str(error.value)

    try:
        flip()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[name for _, name in CASES])
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>404</html>", b"\x80\x04N.", b"[" * 100_000])
def test_another_files_content_and_a_truncated_one_are_found(written, kind, name, content):
    folder = written(kind)
    path = folder / name
    whole = path.read_bytes()
    try:
        for damaged in (content, whole[: len(whole) // 2], whole + b"\n"):
            path.write_bytes(damaged)
            with pytest.raises(ArtifactError, match=r"run 'dvc repro"):
                KINDS[kind][2](folder)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", [SPEC, SEEDS])
def test_every_single_byte_of_a_small_file_counts(written, name):
    folder = written("model")
    path = folder / ("seed_0/" * (name == SPEC) + name)
    whole = path.read_bytes()
    try:
        for place in range(len(whole)):
            for replacement in (b" ", b"0", b"", whole[place : place + 1] * 2):
                if replacement != whole[place : place + 1]:
                    path.write_bytes(whole[:place] + replacement + whole[place + 1 :])
                    with pytest.raises(ArtifactError):
                        files.read_sealed(path, "")
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("pickled", [False, True])
def test_nothing_of_a_pickle_is_executed(tmp_path, written, pickled):
    """Neither in the place of weights, nor with a spec that vouches for it."""

    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    folder = written("model")
    spec = files.read_sealed(folder / "seed_0" / SPEC, "")
    torch.save({"weights": Hostile()}, tmp_path / WEIGHTS)
    data = (tmp_path / WEIGHTS).read_bytes()
    target = tmp_path / "model/seed_0"
    files.write_bytes(target / WEIGHTS, data)
    spec["sha256"] = {WEIGHTS: files.sha256_bytes(data) if pickled else spec["sha256"][WEIGHTS]}
    files.write_sealed(target / SPEC, spec)
    artifacts.write_seeds(target.parent, [0])
    message = "is not a safetensors file" if pickled else "is not what was written"
    with pytest.raises(ArtifactError, match=message):
        artifacts.load_model(target.parent)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["fit.json", "fit_2.safetensors"])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_checkpoint_is_left_aside(tmp_path, monkeypatch, capsys, name, place, bit):
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    network, _ = made()
    optimizer = make_optimizer(network, RECIPE, torch.nn.ModuleDict(), "3")
    history = [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.05}]
    checkpoint.Checkpoint(tmp_path / "fit").save_if_due(network, optimizer, history)
    assert checkpoint.Checkpoint(tmp_path / "fit").load(network, optimizer) == history
    damaged = bytearray((tmp_path / name).read_bytes())
    damaged[int(place * len(damaged))] ^= 1 << bit
    (tmp_path / name).write_bytes(damaged)
    capsys.readouterr()
    assert checkpoint.Checkpoint(tmp_path / "fit").load(network, optimizer) == []
    told = capsys.readouterr().err
    assert name in told
    assert told.endswith("training starts from the beginning\n")


@pytest.mark.parametrize("name", ["models/model", "steps/part.json"])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_step_is_made_anew(tmp_path_factory, capsys, name, place, bit):
    folder = tmp_path_factory.mktemp("step")
    work = store.Workspace(folder, "train/x seed 0")
    calls = []

    def make():
        calls.append(1)
        files.write_text(work.models / "model", "weights")
        return {"val_acc": 0.5}

    for _ in range(2):
        assert work.once("part", work.models, make) == {"val_acc": 0.5}
    assert len(calls) == 1
    damaged = bytearray((folder / name).read_bytes())
    damaged[int(place * len(damaged))] ^= 1 << bit
    (folder / name).write_bytes(damaged)
    assert work.once("part", work.models, make) == {"val_acc": 0.5}
    assert len(calls) == 2
    assert (folder / "models/model").read_text() == "weights"
