"""Every source on small real files, and on files that are broken."""

import gzip
import hashlib
import importlib.util
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netpress.base.errors import DataError
from netpress.config import Data
from netpress.sources import _cifar, _download, fashion_mnist, imagefolder

ROOT = Path(__file__).parent.parent
EMBEDDED = ROOT / "data" / "fashion-mnist"


def settings(source, root="data/x", **changes):
    values = {
        "source": source,
        "root": root,
        "resolution": 28,
        "val_share": 0.2,
        "test_share": 0.0,
        "split_seed": 0,
        "on_overlap": "drop_from_train",
        "on_bad_image": "error",
    }
    return Data(**(values | changes))


FASHION = settings("fashion-mnist")


def test_the_embedded_part_is_what_its_sums_say():
    for line in (EMBEDDED / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split()
        content = gzip.decompress((EMBEDDED / f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == digest
    source = fashion_mnist.read(EMBEDDED, FASHION)
    assert np.bincount(source.splits["train"].labels).tolist() == [1000] * 10
    assert np.bincount(source.splits["test"].labels).tolist() == [300] * 10
    assert source.splits["train"].images.shape == (10_000, 28, 28, 1)
    assert "MIT" in (EMBEDDED / "LICENSE").read_text(encoding="utf-8")
    assert sum(p.stat().st_size for p in EMBEDDED.glob("train*")) < 4.5e6


def idx(images, labels):
    count, height, width = images.shape
    return (
        struct.pack(">4I", 2051, count, height, width) + images.tobytes(),
        struct.pack(">2I", 2049, len(labels)) + bytes(labels),
    )


@pytest.fixture
def small(tmp_path):
    """A folder of IDX files: 30 training and 20 test images, packed and not."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 30), ("t10k", 20)):
        images, labels = idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), [k % 10 for k in range(count)])
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path


def test_idx_files_of_any_length_are_read_packed_or_not(small):
    source = fashion_mnist.read(small, FASHION)
    assert {name: len(s) for name, s in source.splits.items()} == {"train": 30, "test": 20}
    assert source.splits["train"].labels[:12].tolist() == [*range(10), 0, 1]


def test_rebuilding_chooses_the_same_images_again():
    spec = importlib.util.spec_from_file_location("rebuild", EMBEDDED / "rebuild.py")
    rebuild = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rebuild)
    images = np.zeros((50, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(50)
    raw = idx(images, [k % 10 for k in range(50)])
    one, two = (rebuild.subset(*raw, per_class=4, seed=0, stream=0) for _ in range(2))
    assert one == two
    assert one != rebuild.subset(*raw, per_class=4, seed=1, stream=0)
    labels = np.frombuffer(one[1], np.uint8, offset=8)
    assert np.bincount(labels).tolist() == [4] * 10
    chosen = np.frombuffer(one[0], np.uint8, offset=16).reshape(-1, 28, 28)[:, 0, 0]
    assert chosen.tolist() == sorted(chosen)
    assert (chosen % 10 == labels).all()
    assert rebuild.main(["--check"]) == 0


def replace(folder, name, content):
    for path in folder.glob(f"{name}*"):
        path.unlink()
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"", "not the IDX file expected"),
        ("train-images-idx3-ubyte", b"<html>not found</html>", "not the IDX file expected"),
        ("train-images-idx3-ubyte", struct.pack(">4I", 2051, 30, 28, 28) + b"\0" * 99, "has 115 bytes where"),
        ("train-labels-idx1-ubyte", struct.pack(">2I", 2049, 29) + b"\0" * 29, "30 images but 29 labels"),
        ("train-labels-idx1-ubyte", struct.pack(">2I", 2049, 30) + b"\0" * 29 + b"\x0b", "label 11 of image 29"),
        ("train-images-idx3-ubyte.gz", gzip.compress(b"\0" * 999)[:-20], "cannot be read"),
        ("train-images-idx3-ubyte.gz", b"<html>not found</html>", "cannot be read"),
        ("SHA256SUMS", b"0" * 64 + b"  train-labels-idx1-ubyte\n", "is not what"),
    ],
)
def test_broken_idx_files_are_named(small, name, content, message):
    replace(small, name.removesuffix(".gz"), b"") if name.endswith(".gz") else None
    (small / name.removesuffix(".gz")).unlink(missing_ok=True)
    replace(small, name, content)
    with pytest.raises(DataError, match=message) as error:
        fashion_mnist.read(small, FASHION)
    assert name.split("-")[0] in str(error.value)


def test_a_missing_idx_file_is_named(small):
    (small / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is missing"):
        fashion_mnist.read(small, FASHION)


def test_a_failed_download_names_the_way_out(tmp_path, monkeypatch):
    def offline(target):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(fashion_mnist, "_download", offline)
    folder = tmp_path / "data" / "none"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match=r"download to data/downloads failed \(no route to host\)"):
        fashion_mnist.read(folder, settings("fashion-mnist", root="data/none"))


def test_a_download_is_read_from_torchvisions_folder(small, tmp_path_factory, monkeypatch):
    def fake(target):
        shutil.copytree(small, target / "FashionMNIST" / "raw")

    monkeypatch.setattr(fashion_mnist, "_download", fake)
    folder = tmp_path_factory.mktemp("project") / "data" / "none"
    folder.mkdir(parents=True)
    source = fashion_mnist.read(folder, settings("fashion-mnist", root="data/none"))
    assert len(source.splits["train"]) == 30


def cifar_batch(count=4, **changes):
    rows = np.arange(count * 3072, dtype=np.uint32).astype(np.uint8).reshape(count, 3072)
    return {"data": rows, "labels": [k % 10 for k in range(count)], **changes}


def published(batch):
    """Pickle as CIFAR's authors did, under the name that numpy's module had then."""
    return pickle.dumps(batch, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_cifar_rows_become_pictures(tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(published(cifar_batch()))
    split = _cifar.split_of([_cifar.read_batch(path, None)] * 2, "labels", 10, "train")
    assert split.images.shape == (8, 32, 32, 3)
    rows = cifar_batch()["data"]
    assert split.images[1, 0, 5].tolist() == [rows[1, 5], rows[1, 1024 + 5], rows[1, 2048 + 5]]


def test_another_file_is_refused_by_its_md5(tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(published(cifar_batch()))
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    assert _cifar.read_batch(path, md5)["labels"] == [0, 1, 2, 3]
    with pytest.raises(DataError, match="md5 differs"):
        _cifar.read_batch(path, "0" * 32)


class Malicious:
    def __reduce__(self):
        return (exec, ("open('owned', 'w').close()",))


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(Malicious()), pickle.dumps([1]), b"", b"<html>", published(cifar_batch())[:500]],
    ids=["malicious", "list", "empty", "html", "truncated"],
)
def test_what_is_no_batch_is_refused_and_nothing_runs(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match="is not a batch of CIFAR"):
        _cifar.read_batch(tmp_path / "data_batch_1", None)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "batch", [{}, cifar_batch(labels=[0]), cifar_batch(labels=[0, 1, 2, 10]), cifar_batch(data=np.zeros((4, 9)))]
)
def test_batches_of_another_layout_are_refused(batch):
    with pytest.raises(DataError, match="train: "):
        _cifar.split_of([batch], "labels", 10, "train")


def paint(path, size=(40, 30), colour=(200, 100, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(("apple", "pear")):
        for n in range(3):
            paint(tmp_path / name / f"{n}.png", colour=(k * 200, n * 80, 10))
    return tmp_path


OWN = settings("imagefolder", resolution=32)


def test_a_folder_for_each_class(folder):
    source = imagefolder.read(folder, OWN)
    assert source.classes == ("apple", "pear")
    assert source.splits["train"].images.shape == (6, 32, 32, 3)
    assert source.splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.splits["train"].images[4, 9, 9].tolist() == [200, 80, 10]


def test_ready_splits_under_their_names(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("ready")
    for name in ("train", "validation", "test"):
        shutil.copytree(folder, root / name)
    splits = imagefolder.read(root, OWN).splits
    assert {name: len(part) for name, part in splits.items()} == {"train": 6, "val": 6, "test": 6}


def test_pictures_of_every_mode_become_rgb_squares_and_stand_upright(tmp_path):
    Image.new("L", (50, 40), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (40, 50), (9, 8, 7, 128)).save(tmp_path / "alpha.png")
    Image.new("P", (64, 32), 3).save(tmp_path / "palette.gif")
    for path in tmp_path.iterdir():
        assert imagefolder.decode(path, 32).shape == (32, 32, 3)
    half = Image.new("RGB", (64, 64))
    half.paste((255, 255, 255), (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half.save(tmp_path / "turned.png", exif=exif)
    turned = imagefolder.decode(tmp_path / "turned.png", 32)
    assert turned[0].max() == 0
    assert turned[-1].min() == 255


def test_all_bad_pictures_are_named_in_one_run(folder):
    (folder / "apple" / "empty.jpg").write_bytes(b"")
    (folder / "pear" / "page.jpg").write_bytes(b"<html>not found</html>")
    whole = folder / "pear" / "whole.jpg"
    Image.effect_noise((60, 60), 90).save(whole)
    (folder / "pear" / "cut.jpg").write_bytes(whole.read_bytes()[:700])
    with pytest.raises(DataError) as error:
        imagefolder.read(folder, OWN)
    text = str(error.value)
    assert "3 of 10 pictures cannot be used" in text
    assert "empty.jpg: empty file" in text
    assert "page.jpg: not a picture" in text
    assert "cut.jpg: image file is truncated" in text
    source = imagefolder.read(folder, settings("imagefolder", on_bad_image="skip"))
    assert len(source.splits["train"]) == 7
    assert len(source.skipped) == 3


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(imagefolder, "MOST_PIXELS", 100)
    paint(tmp_path / "big.png")
    with pytest.raises(DataError, match="40x30 pixels are too many"):
        imagefolder.decode(tmp_path / "big.png", 32)


def test_broken_trees_are_named(folder, tmp_path_factory):
    (folder / "plum").mkdir()
    with pytest.raises(DataError, match="plum holds no picture"):
        imagefolder.read(folder, OWN)
    (folder / "plum").rmdir()
    root = tmp_path_factory.mktemp("ready")
    shutil.copytree(folder, root / "train")
    shutil.copytree(folder, root / "val")
    (root / "val" / "pear").rename(root / "val" / "paer")
    with pytest.raises(DataError, match="val lacks pear and has paer, unknown to train"):
        imagefolder.read(root, OWN)
    (root / "valid").mkdir()
    with pytest.raises(DataError, match="has both val and valid"):
        imagefolder.read(root, OWN)
    shutil.rmtree(root / "valid")
    (root / "stray").mkdir()
    with pytest.raises(DataError, match="has splits and also stray"):
        imagefolder.read(root, OWN)
    shutil.rmtree(root / "train")
    with pytest.raises(DataError, match="has val but no train"):
        imagefolder.read(root, OWN)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="has 0 class folders, at least 2"):
        imagefolder.read(empty, OWN)


def test_a_link_that_leads_out_is_refused(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    paint(outside)
    (folder / "apple" / "link.png").symlink_to(outside)
    with pytest.raises(DataError, match=r"link\.png leads out of"):
        imagefolder.read(folder, OWN)


def refused(path, message):
    with pytest.raises(DataError, match=message):
        imagefolder.decode(path, 32)


def test_sixteen_bit_pictures_are_refused_where_pillow_would_cut_them_off(tmp_path):
    Image.fromarray(np.full((40, 40), 1000, np.uint16)).save(tmp_path / "deep.png")
    refused(tmp_path / "deep.png", "more than 8 bits a channel; convert it to 8")
    Image.fromarray(np.full((40, 40), 0.5, np.float32)).save(tmp_path / "real.tif")
    refused(tmp_path / "real.tif", "more than 8 bits a channel")


def test_a_very_long_picture_is_cut_before_it_is_resized(tmp_path):
    """Its shorter side at 512 pixels would make the longer one a hundred million."""
    Image.new("RGB", (200_000, 1), (1, 2, 3)).save(tmp_path / "long.png")
    assert imagefolder.decode(tmp_path / "long.png", 512)[5, 5].tolist() == [1, 2, 3]
    stripe = Image.new("RGB", (1000, 20))
    stripe.paste((255, 255, 255), (480, 0, 520, 20))
    for picture, name in ((stripe, "wide.png"), (stripe.rotate(90, expand=True), "tall.png")):
        picture.save(tmp_path / name)
        assert imagefolder.decode(tmp_path / name, 20).min() == 255


def test_a_link_to_nothing_and_a_linked_folder_are_named_with_the_bad_pictures(folder):
    (folder / "apple" / "gone.png").symlink_to(folder / "apple" / "nothing.png")
    (folder / "apple" / "more").symlink_to(folder / "pear")
    with pytest.raises(DataError, match="2 of 8 pictures cannot be used") as error:
        imagefolder.read(folder, OWN)
    assert "gone.png: No such file" in str(error.value)
    assert "more: Is a directory" in str(error.value)


def test_pictures_beside_the_class_folders_are_not_left_out_silently(folder):
    paint(folder / "stray.JPEG")
    (folder / "LICENSE").write_text("no picture")
    with pytest.raises(DataError, match=r"holds 1 pictures beside its class folders, the first is stray\.JPEG"):
        imagefolder.read(folder, OWN)


@pytest.mark.parametrize("content", [b"one two three\n", b"one\n", b"\xff\xfe\x00\n"])
def test_a_list_of_sums_that_is_none_is_named(small, content):
    (small / "SHA256SUMS").write_bytes(content)
    with pytest.raises(DataError, match="SHA256SUMS is not a list of"):
        fashion_mnist.read(small, FASHION)


def test_values_that_are_no_bytes_are_refused():
    with pytest.raises(DataError, match="not CIFAR's layout"):
        _cifar.split_of([{"data": [[300] * 3072], "labels": [1]}], "labels", 10, "train")


class Archived:
    """Stands for a torchvision dataset class whose archive has been fetched."""

    url, filename, base_folder = "https://example.invalid/batches.tar.gz", "batches.tar.gz", "batches"


def test_an_archive_is_unpacked_whole_and_nothing_of_it_is_unpickled(tmp_path):
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches" / "data_batch_1").write_bytes(pickle.dumps(Malicious()))
    target = tmp_path / "downloads"
    target.mkdir()
    with tarfile.open(target / Archived.filename, "w:gz") as archive:
        archive.add(tmp_path / "batches", "batches")
    packed = (target / Archived.filename).read_bytes()
    Archived.tgz_md5 = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    _download.download_archive(Archived, target)
    assert sorted(p.name for p in target.iterdir()) == ["batches", "batches.tar.gz"]
    assert (target / "batches" / "data_batch_1").read_bytes() == pickle.dumps(Malicious())
