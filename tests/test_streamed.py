"""Splits above the budget stay on the disk: the same bits as in memory, and memory that does not grow with them."""

import copy
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RECIPE, RUNTIME, striped
from hypothesis import given, settings
from hypothesis import strategies as st
from little import STAGES, copy_of, results

from netpress.base import files
from netpress.base.errors import ArtifactError, ConfigError
from netpress.core.batches import training_batches
from netpress.core.dataset import ArrayFile, load_manifest
from netpress.core.engine import Schedule, fit
from netpress.core.measure import evaluate
from netpress.core.networks import build_model
from netpress.core.splits import DeviceSplit, device_split, drawn
from netpress.core.streamed import StreamedImages
from netpress.ingest.arrays import write_array

#: Every way in which a batch asks for images.
AUGMENT = RECIPE.augment.model_copy(
    update={"flip": "alternating", "crop_padding": 2, "resized_crop": 0.5, "erasing": 0.3, "mixup": 0.4}
)
#: Stage scripts find no memory for images.
NONE = "import os; os.environ['NETPRESS_MEMORY'] = '0'"


def written(path, images):
    return ArrayFile(path, write_array(path, images.shape, "uint8", [images]))


def on_disk(split, path):
    return replace(split, images=StreamedImages(written(path, split.images.numpy()), torch.device("cpu")))


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """A split in memory, and the same on the disk."""
    split = striped(150, channels=3, classes=3)
    return split, on_disk(split, tmp_path_factory.mktemp("twins") / "images.npy")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    array = np.random.default_rng(0).integers(0, 256, (40, 3, 5, 2), np.uint8)
    return array, written(tmp_path_factory.mktemp("rows") / "rows.npy", array)


@settings(deadline=None)
@given(places=st.lists(st.integers(0, 39), max_size=60), start=st.integers(-50, 50), length=st.integers(0, 50))
def test_rows_are_those_of_the_array(rows, places, start, length):
    array, file = rows
    np.testing.assert_array_equal(file[np.array(places, np.int64)], array[np.array(places, np.int64)])
    np.testing.assert_array_equal(file[start : start + length], array[start : start + length])
    file.expect(np.array(places, np.int64))
    assert file.shape == array.shape
    assert len(file) == len(array)


def test_rows_come_whole_where_the_system_gives_them_in_parts(rows, monkeypatch):
    array, file = rows
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda where, into, offset: preadv(where, [into[0][:7]], offset))
    np.testing.assert_array_equal(file[:], array)


@pytest.mark.parametrize("change", [lambda p: os.truncate(p, 500), lambda p: p.write_bytes(p.read_bytes()[::-1])])
def test_a_file_that_is_changed_while_it_is_read_is_refused(tmp_path, change):
    path = tmp_path / "images.npy"
    file = written(path, np.zeros((40, 3, 5, 2), np.uint8))
    os.utime(path, ns=(0, 0))
    file = ArrayFile(path, files.sha256_file(path))
    change(path)
    with pytest.raises(ArtifactError, match=r"images\.npy was changed while it was being read; run 'dvc "):
        file[10:]


def test_a_file_that_takes_the_place_of_another_is_not_read(tmp_path):
    path = tmp_path / "images.npy"
    file = written(path, np.zeros((4, 2, 2, 1), np.uint8))
    written(tmp_path / "new.npy", np.ones((4, 2, 2, 1), np.uint8))
    (tmp_path / "new.npy").replace(path)
    assert not file[:].any()


def test_a_file_that_is_not_what_was_written_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone\.npy is missing; run 'dvc repro prepare'"):
        ArrayFile(tmp_path / "gone.npy", "")
    with pytest.raises(ArtifactError, match=r"cannot be read .*; run 'dvc repro prepare'"):
        ArrayFile(tmp_path, "")
    written(tmp_path / "images.npy", np.zeros((4, 2, 2, 1), np.uint8))
    with pytest.raises(ArtifactError, match="is not what was written"):
        ArrayFile(tmp_path / "images.npy", "0" * 64)


def test_batches_are_the_same_bits(twins):
    ours, streamed = (list(training_batches(split, AUGMENT, 0.1, 32, seed=3, epoch=1)) for split in twins)
    for one, other in zip(ours, streamed, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.plain(), other.plain())


def test_the_next_batch_is_read_ahead_with_its_partners(twins, monkeypatch):
    """What is announced before a batch is what the next one reads."""
    expected, read = [], []
    ask, take = ArrayFile.expect, ArrayFile.__getitem__
    monkeypatch.setattr(ArrayFile, "expect", lambda file, places: expected.append(set(places)) or ask(file, places))
    monkeypatch.setattr(ArrayFile, "__getitem__", lambda file, at: read.append(set(at)) or take(file, at))
    list(training_batches(twins[1], AUGMENT, 0.0, 32, seed=3, epoch=1))
    assert len(read) == 2 * 5  # partners and images of each batch
    announced = [expected[k] | expected[k + 1] for k in range(0, len(expected), 2)]
    taken = [read[k] | read[k + 1] for k in range(0, len(read), 2)]
    assert announced == [*taken[1:], set()]


def test_training_gives_the_same_weights_and_history(twins):
    recipe = RECIPE.model_copy(update={"augment": AUGMENT, "resize_from": 0.5})
    start, found = build_model("compact_cnn", 3, 3, width=0.125), []
    for split in twins:
        network = copy.deepcopy(start)
        history = fit(network, split, split, Schedule(recipe, epochs=2, seed=1), RUNTIME, "streamed")
        found.append((network.state_dict(), history))
    assert found[0][1] == found[1][1]
    assert all(torch.equal(found[0][0][name], tensor) for name, tensor in found[1][0].items())


def test_measures_and_draws_are_the_same(twins):
    network = build_model("compact_cnn", 3, 3, width=0.125)
    one, other = (evaluate(network, split) for split in twins)
    assert one.loss == other.loss
    assert torch.equal(one.confidence, other.confidence)
    assert other.detail(twins[1]) == one.detail(twins[0])
    ours, streamed = (drawn(split, 20, 0, "calibration") for split in twins)
    assert torch.equal(ours.images, streamed.images)
    assert isinstance(streamed.images, torch.Tensor)


@pytest.fixture
def streamed_run(server, little_run, tmp_path):
    """The little project, everything made again from splits that stay on the disk; and what each stage said."""
    again = copy_of(little_run, tmp_path / "streamed")
    said = {}
    for stage, arguments in STAGES[2:-1]:
        if stage != "test":
            shutil.rmtree(again / ".netpress/runs", ignore_errors=True)
            shutil.rmtree(again / "models" / stage / arguments[0], ignore_errors=True)
        done = server.run(again, stage, *arguments, patch=NONE)
        assert done["code"] == 0, done["output"]
        said[stage] = done["output"]
    return again, said


def test_every_stage_makes_the_same_files_from_splits_on_the_disk(streamed_run, little_run):
    again, said = streamed_run
    assert results(again) == results(little_run)
    for stage, text in said.items():
        for split in ("test",) if stage == "test" else ("train", "val"):
            line = f"{split}: 0.{'1' if split in ('val', 'test') else '4'}"
            assert text.count(line) == 1, text
            assert "more than the 0.0 MB of memory for them (NETPRESS_MEMORY): they stay on the disk" in text


def test_the_budget_decides_where_images_are(little_run, monkeypatch, capsys):
    manifest = load_manifest(little_run / "data/prepared")
    size = sum(manifest.counts["train"]) * 28 * 28
    for budget, kind in ((size, torch.Tensor), (size - 1, StreamedImages)):
        monkeypatch.setenv("NETPRESS_MEMORY", str(budget))
        split = device_split(little_run, "train", manifest, torch.device("cpu"), RUNTIME)
        assert isinstance(split.images, kind)
        assert ("stay on the disk" in capsys.readouterr().out) == (kind is StreamedImages)
    monkeypatch.setenv("NETPRESS_MEMORY", "lots")
    with pytest.raises(ConfigError, match="NETPRESS_MEMORY = 'lots' is no size"):
        device_split(little_run, "train", manifest, torch.device("cpu"), RUNTIME)


#: Goes through a file of images once as training does, and prints by how much the process's peak has grown.
PASS = """
import re, sys, numpy as np, torch
from pathlib import Path
from netpress.base.files import sha256_file
from netpress.core.dataset import ArrayFile
from netpress.core.streamed import StreamedImages
path = Path(sys.argv[1])
def peak():  # of this program alone: getrusage's is also of the one that started it
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
StreamedImages(ArrayFile(path, sha256_file(path)), torch.device("cpu"))[:64]
before = peak()
images = StreamedImages(ArrayFile(path, sha256_file(path)), torch.device("cpu"))
for places in np.array_split(np.random.default_rng(0).permutation(images.shape[0]), images.shape[0] // 64):
    images.expect(places)
    images[torch.from_numpy(places)].float().sum()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """Of 276 MB: a batch, and what torch takes when it first computes."""
    path, count = tmp_path / "images.npy", 10_000
    piece = np.random.default_rng(0).integers(0, 256, (500, 96, 96, 3), np.uint8)
    write_array(path, (count, 96, 96, 3), "uint8", [piece] * (count // 500))
    done = subprocess.run([sys.executable, "-c", PASS, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 0.4 * path.stat().st_size


def test_a_split_knows_whether_it_is_read_ahead():
    split = DeviceSplit(torch.zeros(4, 2, 2, 1, dtype=torch.uint8), torch.zeros(4), 2, (0.0,), (1.0,), False)
    split.expect(np.arange(4))  # of a split in memory nothing is to be read
