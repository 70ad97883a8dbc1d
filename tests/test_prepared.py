"""Prepared data: plain arrays, a manifest, and hashes that are checked."""

import csv
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_samples import EMBEDDED, ROOT, paint, settings

from netpress.base import files
from netpress.base.errors import ArtifactError, ConfigError, DataError
from netpress.core.dataset import load_manifest, load_split
from netpress.ingest import pieces
from netpress.ingest.images import resize_all, square
from netpress.ingest.near_duplicates import difference_hashes
from netpress.ingest.prepare import channel_statistics, doubts, prepare, summary
from netpress.process import progress


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
    assert np.array_equal(load_split(out, "val", load_manifest(out)).images, np.load(out / "val_images.npy"))


def test_a_split_is_read_into_memory_once(prepared):
    """Beside its pixels nothing that grows with them."""
    folder, manifest = prepared
    load_split(folder, "val", manifest)  # imports and the like
    tracemalloc.start()
    split = load_split(folder, "train", manifest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = split.images.nbytes + split.labels.nbytes
    assert size <= peak < 1.1 * size
    np.testing.assert_array_equal(split.images, np.load(folder / "train_images.npy"))
    split.images[0] += 1  # so that torch takes the memory over without a warning


def test_statistics_are_those_of_the_training_images(prepared):
    out, manifest = prepared
    pixels = np.load(out / "train_images.npy") / 255
    assert manifest.mean[0] == pytest.approx(pixels.mean(), abs=1e-6)
    assert manifest.std[0] == pytest.approx(pixels.std(), abs=1e-6)
    black = np.zeros((3, 256), np.int64)
    black[:, 0] = 32
    assert channel_statistics(black) == ([0.0] * 3, [1e-3] * 3)
    assert channel_statistics(np.ones((1, 256), np.int64)) == ([0.5], [pytest.approx(0.289805)])


#: Of the embedded data; every committed result stands on them.
SHA256 = {
    "test_images.npy": "6d21651e5cb66e4807e5b7c5de0b77d505646bfd271931e6eb1730692cb2ef91",
    "test_labels.npy": "b1dd5af592c67ff8574f9cc81066b74b531c04ca813e97af8666c725d91330a5",
    "train_images.npy": "a8b3e51e5f3bc4ea6253fe1cec4009ffc81fdae3c244882c7309c357f8e86068",
    "train_labels.npy": "6f70a2c36039f60bac7bd15df59cb945127a712f1eb6ab83af94efced37f42e2",
    "val_images.npy": "1425e28b0ef28fab83f526fcc33b4ccbd5e5face81df51781916b30f82d1ad1c",
    "val_labels.npy": "80f359b1b775dc876f161121fe9aacc4a5a74b732cdc938a108b728fc579d2e1",
}


def test_the_embedded_data_keep_their_bytes(prepared):
    out, manifest = prepared
    assert manifest.sha256.items() > SHA256.items()
    assert {name: files.sha256_file(out / name) for name in SHA256} == SHA256
    assert (manifest.duplicates, manifest.overlaps, manifest.notes) == (0, 0, [])


def test_pieces_of_any_size_give_the_same_bytes(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 28 * 28 * 777)
    manifest = prepare(ROOT, settings("fashion-mnist", root="data/fashion-mnist"), tmp_path / "out")
    assert manifest == prepared[1]


def test_near_duplicates_are_listed_with_their_places(prepared):
    out, manifest = prepared
    rows = list(csv.DictReader((out / "near_duplicates.csv").open(encoding="utf-8")))
    assert len(rows) == 100
    assert 50 < manifest.near_duplicates < 200
    row = rows[0]
    pair = [np.load(out / f"{row[key]}_images.npy")[[int(row[at])]] for key, at in PLACES]
    differs = difference_hashes(pair[0]) ^ difference_hashes(pair[1])
    assert np.bitwise_count(differs).sum() == int(row["distance"]) <= 7
    assert not np.array_equal(*pair)


PLACES = (("split", "index"), ("later_split", "later_index"))


def test_preparing_twice_gives_the_same_bytes(prepared, tmp_path):
    out, _ = prepared
    prepare(ROOT, settings("fashion-mnist", root="data/fashion-mnist"), tmp_path)
    for path in out.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert b"/" not in (out / "manifest.json").read_bytes().replace(b"T-shirt/top", b"")


def test_few_validation_images_are_a_doubt(prepared):
    manifest = prepared[1]
    assert doubts(manifest) == []
    few = manifest.model_copy(update={"counts": manifest.counts | {"val": [20, 20]}})
    (line,) = doubts(few)
    assert "40 validation images: an accuracy of 50 % is uncertain by 15 points" in line
    assert "data.val_share" in line


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
        load_split(out, "test", manifest)


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
    manifest = prepare(own, settings("imagefolder", root="mine"), out)
    path = out / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="its sha256 differs"):
        load_split(out, "train", manifest)
    path.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        load_split(out, "train", manifest)
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


def test_what_a_killed_run_left_aside_is_removed(own):
    prepare(own, settings("imagefolder", root="mine", test_share=0.2), own / "out")
    (own / ".out.aside" / "new").mkdir(parents=True)
    (own / ".out.aside" / "pixels").write_bytes(b"half")
    prepare(own, settings("imagefolder", root="mine", test_share=0.2), own / "out")
    assert sorted(p.name for p in own.iterdir()) == ["mine", "out"]


def test_a_run_killed_between_the_two_renames_loses_nothing(own):
    prepare(own, settings("imagefolder", root="mine"), own / "out")
    before = {path.name: path.read_bytes() for path in (own / "out").iterdir()}
    (own / ".out.aside").mkdir()
    (own / "out").rename(own / ".out.aside" / "old")
    (own / "mine" / "pear" / "bad.jpg").write_bytes(b"")
    with pytest.raises(DataError):
        prepare(own, settings("imagefolder", root="mine"), own / "out")
    assert {path.name: path.read_bytes() for path in (own / "out").iterdir()} == before


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 6])
def test_a_full_disk_is_one_line_and_keeps_the_old_data(own, monkeypatch, after):
    prepare(own, settings("imagefolder", root="mine"), own / "out")
    before = {path.name: path.read_bytes() for path in (own / "out").iterdir()}
    opened = []

    def full(path, *args, **kwargs):
        stream = real(path, *args, **kwargs)
        if "w" in str(args) + str(kwargs) and ".out.aside" in str(path):
            opened.append(path)
            if len(opened) > after:
                stream.close()
                return Path("/dev/full").open("wb" if "b" in str(args) else "w")
        return stream

    real = Path.open
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ArtifactError, match="No space left on device; free some space"):
        prepare(own, settings("imagefolder", root="mine"), own / "out")
    assert {path.name: path.read_bytes() for path in (own / "out").iterdir()} == before
    assert sorted(p.name for p in own.iterdir()) == ["mine", "out"]


def test_the_first_files_of_what_was_found_are_named(own):
    shutil.copy(own / "mine" / "apple" / "1.png", own / "mine" / "apple" / "9.png")
    shutil.copy(own / "mine" / "apple" / "2.png", own / "mine" / "pear" / "8.png")
    manifest = prepare(own, settings("imagefolder", root="mine"), own / "out")
    assert (manifest.duplicates, manifest.conflicts) == (2, 1)
    assert manifest.notes == [
        "2 images of train repeat others of it (apple/9.png is apple/1.png, pear/8.png is apple/2.png)",
        "1 pictures of train stand under several labels (apple/2.png)",
    ]


def test_nothing_usable_is_named(own):
    for path in (own / "mine").rglob("*.png"):
        path.write_bytes(b"none")
    with pytest.raises(DataError, match=r"data\.root: mine holds no image that can be used"):
        prepare(own, settings("imagefolder", root="mine", on_bad_image="skip"), own / "out")


def test_long_reading_says_now_and_then_how_far_it_is(capsys, monkeypatch):
    times = iter([0.0, 4.0, 11.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    bar = progress.ImageProgress("reading", 400)
    for _ in range(3):
        bar.add(100)
    bar.close()
    assert capsys.readouterr().err == "reading  200/400 images  ETA 0:11\n"
