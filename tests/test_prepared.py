"""Prepared data: plain arrays, a manifest, and hashes that are checked."""

import errno

import numpy as np
import pytest
from PIL import Image
from test_sources import EMBEDDED, ROOT, paint, settings

from netpress.base import files
from netpress.base.errors import ArtifactError, ConfigError, DataError
from netpress.data import prepared as module
from netpress.data.images import resize_all, square
from netpress.data.prepared import channel_statistics, load_manifest, load_split, prepare, summary


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    data = settings("fashion-mnist", root=EMBEDDED.relative_to(ROOT).as_posix())
    return out, prepare(ROOT, data, out)


def test_arrays_are_plain_and_of_the_documented_shape(prepared):
    out, manifest = prepared
    sizes = {"train": 8000, "val": 2000, "test": 3000}
    for name, count in sizes.items():
        images, labels = np.load(out / f"{name}_images.npy"), np.load(out / f"{name}_labels.npy")
        assert images.shape == (count, 28, 28, 1)
        assert images.dtype == np.uint8
        assert labels.shape == (count,)
        assert labels.dtype == np.int64
        assert np.bincount(labels).tolist() == manifest.counts[name] == [count // 10] * 10
    assert load_manifest(out) == manifest
    assert np.array_equal(load_split(out, "val").images, np.load(out / "val_images.npy"))


def test_statistics_are_those_of_the_training_images(prepared):
    out, manifest = prepared
    pixels = np.load(out / "train_images.npy") / 255
    assert manifest.mean[0] == pytest.approx(pixels.mean(), abs=1e-6)
    assert manifest.std[0] == pytest.approx(pixels.std(), abs=1e-6)
    assert channel_statistics(np.zeros((2, 4, 4, 3), np.uint8)) == ([0.0] * 3, [1e-3] * 3)


def test_preparing_twice_gives_the_same_bytes(prepared, tmp_path):
    out, _ = prepared
    prepare(ROOT, settings("fashion-mnist", root="data/fashion-mnist"), tmp_path)
    for path in out.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert b"/" not in (out / "manifest.json").read_bytes().replace(b"T-shirt/top", b"")


def test_the_summary_counts(prepared):
    counts = summary(prepared[1])
    assert counts["train_images"] == 8000
    assert counts["classes"] == 10
    assert counts["overlaps"] == 0


@pytest.fixture
def own(tmp_path):
    for k, name in enumerate(("apple", "pear")):
        for n in range(5):
            paint(tmp_path / "mine" / name / f"{n}.png", colour=(k * 200, n * 40, 10))
    return tmp_path


def test_a_source_without_test_pictures_has_no_test_split(own):
    out = own / "out"
    manifest = prepare(own, settings("imagefolder", root="mine", test_share=0.2), out)
    assert manifest.has_split("test")
    manifest = prepare(own, settings("imagefolder", root="mine"), out)
    assert not manifest.has_split("test")
    assert not (out / "test_images.npy").exists()
    with pytest.raises(ArtifactError, match="has no test split"):
        load_split(out, "test")


def test_errors_leave_no_half_written_data(own):
    out = own / "out"
    prepare(own, settings("imagefolder", root="mine"), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (own / "mine" / "pear" / "bad.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"bad\.jpg"):
        prepare(own, settings("imagefolder", root="mine"), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.root: nowhere does not exist"):
        prepare(tmp_path, settings("imagefolder", root="nowhere"), tmp_path / "out")
    with pytest.raises(ConfigError, match="unknown data source"):
        prepare(tmp_path, settings("food", root="."), tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing; run 'dvc repro prepare'"):
        load_manifest(tmp_path)


def test_damage_is_found(own):
    out = own / "out"
    prepare(own, settings("imagefolder", root="mine"), out)
    path = out / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="sha256 differs"):
        load_split(out, "train")
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_split(out, "train")
    raw = files.read_sealed(out / "manifest.json", "")
    del raw["classes"]
    files.write_sealed(out / "manifest.json", raw)
    with pytest.raises(ArtifactError, match=r"manifest\.classes: missing"):
        load_manifest(out)


@pytest.mark.parametrize("size", [(100, 50), (50, 100), (31, 90), (20, 20), (32, 32)])
def test_squares_keep_the_centre(size):
    picture = Image.new("RGB", size)
    picture.paste((255, 0, 0), (size[0] // 2 - 3, size[1] // 2 - 3, size[0] // 2 + 3, size[1] // 2 + 3))
    out = np.asarray(square(picture, 32))
    assert out.shape == (32, 32, 3)
    assert out[15:17, 15:17, 0].min() > 200


def test_resizing_keeps_what_has_the_size_already():
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
    assert resize_all(images, 28) is images
    assert resize_all(images, 32).shape == (3, 32, 32, 1)
    assert resize_all(np.repeat(images, 3, axis=3), 20).shape == (3, 20, 20, 3)


def test_statistics_are_the_same_in_pieces(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 5, 3), dtype=np.uint8)
    whole = channel_statistics(images)
    monkeypatch.setattr(module, "PIECE", 100)
    assert channel_statistics(images) == whole


def test_what_a_killed_run_left_aside_is_removed(own):
    prepare(own, settings("imagefolder", root="mine", test_share=0.2), own / "out")
    (own / "out" / ".test_images.npy.aside").write_bytes(b"half")
    prepare(own, settings("imagefolder", root="mine", test_share=0.2), own / "out")
    assert not [p.name for p in (own / "out").iterdir() if p.name.startswith(".")]


def test_a_full_disk_is_one_line(own, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.np, "save", full)
    with pytest.raises(ArtifactError, match="No space left on device; free some space"):
        prepare(own, settings("imagefolder", root="mine", test_share=0.2), own / "out")
    assert list((own / "out").iterdir()) == []
