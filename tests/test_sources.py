"""Every source on small real files, and on files that are broken."""

import errno
import gzip
import hashlib
import importlib.util
import os
import pickle
import shutil
import socket
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netpress.base.errors import DataError
from netpress.config import Data
from netpress.data import pieces
from netpress.data.splits import Split
from netpress.data.spool import spool
from netpress.sources import _cifar, _tree, fashion_mnist, imagefolder

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


def gather(read, place, data, aside=None):
    """Read a source whole: split -> images and labels; and the lines of all bad pictures."""
    source = read(place, data, aside or place / "no archive")
    whole = {name: list(pieces) for name, pieces in source.splits.items()}
    splits = {
        name: Split(*(np.concatenate([getattr(p, part) for p in pieces]) for part in ("images", "labels")))
        for name, pieces in whole.items()
    }
    return source, splits, [line for pieces in whole.values() for piece in pieces for line in piece.bad]


def test_the_embedded_part_is_what_its_sums_say():
    for line in (EMBEDDED / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split()
        content = gzip.decompress((EMBEDDED / f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == digest
    source, splits, _ = gather(fashion_mnist.read, EMBEDDED, FASHION)
    assert source.total == 13_000
    assert np.bincount(splits["train"].labels).tolist() == [1000] * 10
    assert np.bincount(splits["test"].labels).tolist() == [300] * 10
    assert splits["train"].images.shape == (10_000, 28, 28, 1)
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
    _, splits, _ = gather(fashion_mnist.read, small, FASHION)
    assert {name: len(s) for name, s in splits.items()} == {"train": 30, "test": 20}
    assert splits["train"].labels[:12].tolist() == [*range(10), 0, 1]


def test_pieces_are_bounded_and_join_to_the_same_images(small, monkeypatch):
    whole = gather(fashion_mnist.read, small, FASHION)[1]["train"]
    monkeypatch.setattr(pieces, "PIECE", 7 * 28 * 28)
    source = fashion_mnist.read(small, FASHION, small)
    parts = list(source.splits["train"])
    assert [len(p.labels) for p in parts] == [7, 7, 7, 7, 2]
    assert np.array_equal(np.concatenate([p.images for p in parts]), whole.images)
    larger = list(fashion_mnist.read(small, settings("fashion-mnist", resolution=56), small).splits["train"])
    assert [len(p.labels) for p in larger][:2] == [1, 1]
    assert larger[0].images.shape == (1, 56, 56, 1)


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
        gather(fashion_mnist.read, small, FASHION)
    assert name.split("-")[0] in str(error.value)


def test_a_missing_idx_file_is_named(small):
    (small / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is missing"):
        fashion_mnist.read(small, FASHION, small)


def test_a_failed_download_names_the_way_out(tmp_path, monkeypatch):
    def offline(target):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(fashion_mnist, "_download", offline)
    folder = tmp_path / "data" / "none"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match=r"download to data/downloads failed \(no route to host\)"):
        fashion_mnist.read(folder, settings("fashion-mnist", root="data/none"), folder)


def test_a_download_is_read_from_torchvisions_folder(small, tmp_path_factory, monkeypatch):
    def fake(target):
        shutil.copytree(small, target / "FashionMNIST" / "raw")
        return target

    monkeypatch.setattr(fashion_mnist, "_download", fake)
    folder = tmp_path_factory.mktemp("project") / "data" / "none"
    folder.mkdir(parents=True)
    _, splits, _ = gather(fashion_mnist.read, folder, settings("fashion-mnist", root="data/none"))
    assert len(splits["train"]) == 30


def cifar_batch(count=4, **changes):
    rows = np.arange(count * 3072, dtype=np.uint32).astype(np.uint8).reshape(count, 3072)
    return {"data": rows, "labels": [k % 10 for k in range(count)], **changes}


def published(batch):
    """Pickle as CIFAR's authors did, under the name that numpy's module had then."""
    return pickle.dumps(batch, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_cifar_rows_become_pictures(tmp_path):
    path = tmp_path / "data_batch_1"
    path.write_bytes(published(cifar_batch()))
    parts = list(_cifar.pieces([(path, None)] * 2, "labels", 10, 32))
    assert [p.images.shape for p in parts] == [(4, 32, 32, 3)] * 2
    assert parts[1].labels.tolist() == [0, 1, 2, 3]
    rows = cifar_batch()["data"]
    assert parts[0].images[1, 0, 5].tolist() == [rows[1, 5], rows[1, 1024 + 5], rows[1, 2048 + 5]]
    (small,) = _cifar.pieces([(path, None)], "labels", 10, 16)
    assert small.images.shape == (4, 16, 16, 3)


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
    "batch",
    [
        {},
        cifar_batch(labels=[0]),
        cifar_batch(labels=[0, 1, 2, 10]),
        cifar_batch(labels=[0, 1, 2, True]),
        cifar_batch(data=np.zeros((4, 9))),
        cifar_batch(data=np.zeros((4, 9), np.uint8)),
        {"data": [[300] * 3072], "labels": [1]},
    ],
)
def test_batches_of_another_layout_are_refused(batch):
    with pytest.raises(DataError, match=r"^batch: "):
        _cifar.images_of(batch, "labels", 10, "batch")


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
    source, splits, bad = gather(imagefolder.read, folder, OWN)
    assert source.classes == ("apple", "pear")
    assert source.total == 6
    assert bad == []
    assert splits["train"].images.shape == (6, 32, 32, 3)
    assert splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits["train"].images[4, 9, 9].tolist() == [200, 80, 10]


def test_ready_splits_under_their_names(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("ready")
    for name in ("train", "validation", "test"):
        shutil.copytree(folder, root / name)
    splits = gather(imagefolder.read, root, OWN)[1]
    assert {name: len(part) for name, part in splits.items()} == {"train": 6, "val": 6, "test": 6}


def test_pictures_of_every_mode_become_rgb_squares_and_stand_upright(tmp_path):
    Image.new("L", (50, 40), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (40, 50), (9, 8, 7, 128)).save(tmp_path / "alpha.png")
    Image.new("P", (64, 32), 3).save(tmp_path / "palette.gif")
    for path in tmp_path.iterdir():
        assert imagefolder.decode(path, 32, "x").shape == (32, 32, 3)
    half = Image.new("RGB", (64, 64))
    half.paste((255, 255, 255), (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half.save(tmp_path / "turned.png", exif=exif)
    turned = imagefolder.decode(tmp_path / "turned.png", 32, "x")
    assert turned[0].max() == 0
    assert turned[-1].min() == 255


def test_all_bad_pictures_are_named_in_one_run(folder, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("work")
    (folder / "apple" / "empty.jpg").write_bytes(b"")
    (folder / "pear" / "page.jpg").write_bytes(b"<html>not found</html>")
    whole = folder / "pear" / "whole.jpg"
    Image.effect_noise((60, 60), 90).save(whole)
    (folder / "pear" / "cut.jpg").write_bytes(whole.read_bytes()[:700])
    _, splits, bad = gather(imagefolder.read, folder, OWN)
    assert len(splits["train"]) == 7
    assert len(bad) == 3
    assert "data/x/apple/empty.jpg: empty file" in bad
    assert "data/x/pear/page.jpg: not a picture" in bad
    assert bad[1].startswith("data/x/pear/cut.jpg: image file is truncated")
    (tmp_path / "aside").mkdir()
    with pytest.raises(
        DataError, match=r"3 of 10 pictures cannot be used: data/x/apple/empty\.jpg: empty file; "
    ) as error:
        spool(imagefolder.read(folder, OWN, tmp_path), OWN, tmp_path / "aside")
    assert all(line in str(error.value) for line in bad)
    skip = settings("imagefolder", on_bad_image="skip", resolution=32)
    assert spool(imagefolder.read(folder, skip, tmp_path), skip, tmp_path / "aside").skipped == 3


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(imagefolder, "MOST_PIXELS", 100)
    paint(tmp_path / "big.png")
    with pytest.raises(DataError, match="40x30 pixels are too many"):
        imagefolder.decode(tmp_path / "big.png", 32, "x")


def test_broken_trees_are_named(folder, tmp_path_factory):
    (folder / "plum").mkdir()
    with pytest.raises(DataError, match="plum holds no picture"):
        imagefolder.read(folder, OWN, folder)
    (folder / "plum").rmdir()
    root = tmp_path_factory.mktemp("ready")
    shutil.copytree(folder, root / "train")
    shutil.copytree(folder, root / "val")
    (root / "val" / "pear").rename(root / "val" / "paer")
    with pytest.raises(DataError, match="val lacks pear and has paer, unknown to train"):
        imagefolder.read(root, OWN, root)
    (root / "valid").mkdir()
    with pytest.raises(DataError, match="has both val and valid"):
        imagefolder.read(root, OWN, root)
    shutil.rmtree(root / "valid")
    (root / "stray").mkdir()
    with pytest.raises(DataError, match="has splits and also stray"):
        imagefolder.read(root, OWN, root)
    shutil.rmtree(root / "train")
    with pytest.raises(DataError, match="has val but no train"):
        imagefolder.read(root, OWN, root)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="has 0 class folders, at least 2"):
        imagefolder.read(empty, OWN, empty)


def test_a_link_that_leads_out_is_refused(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    paint(outside)
    (folder / "apple" / "link.png").symlink_to(outside)
    with pytest.raises(DataError, match=r"link\.png leads out of"):
        imagefolder.read(folder, OWN, folder)


def refused(path, message):
    with pytest.raises(DataError, match=message):
        imagefolder.decode(path, 32, "x")


def test_sixteen_bit_pictures_are_refused_where_pillow_would_cut_them_off(tmp_path):
    Image.fromarray(np.full((40, 40), 1000, np.uint16)).save(tmp_path / "deep.png")
    refused(tmp_path / "deep.png", "more than 8 bits a channel; convert it to 8")
    Image.fromarray(np.full((40, 40), 0.5, np.float32)).save(tmp_path / "real.tif")
    refused(tmp_path / "real.tif", "more than 8 bits a channel")


def test_a_very_long_picture_is_cut_before_it_is_resized(tmp_path):
    """Its shorter side at 512 pixels would make the longer one a hundred million."""
    Image.new("RGB", (200_000, 1), (1, 2, 3)).save(tmp_path / "long.png")
    assert imagefolder.decode(tmp_path / "long.png", 512, "x")[5, 5].tolist() == [1, 2, 3]
    stripe = Image.new("RGB", (1000, 20))
    stripe.paste((255, 255, 255), (480, 0, 520, 20))
    for picture, name in ((stripe, "wide.png"), (stripe.rotate(90, expand=True), "tall.png")):
        picture.save(tmp_path / name)
        assert imagefolder.decode(tmp_path / name, 20, "x").min() == 255


def test_a_link_to_nothing_and_a_linked_folder_are_named_with_the_bad_pictures(folder):
    (folder / "apple" / "gone.png").symlink_to(folder / "apple" / "nothing.png")
    (folder / "apple" / "more").symlink_to(folder / "pear")
    (folder / "apple" / "loop.png").symlink_to(folder / "apple" / "loop.png")
    _, splits, bad = gather(imagefolder.read, folder, OWN)
    assert len(splits["train"]) == 6
    assert bad == [
        "data/x/apple/gone.png: No such file or directory",
        "data/x/apple/loop.png: Too many levels of symbolic links",
        "data/x/apple/more: Is a directory that is linked; copy it instead",
    ]


def test_what_is_no_plain_file_is_never_opened(folder):
    """Opening a pipe would wait for ever."""
    os.mkfifo(folder / "apple" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(folder / "pear" / "socket.png"))
        bad = gather(imagefolder.read, folder, OWN)[2]
    why = "not a file but a pipe, socket or device"
    assert bad == [f"data/x/apple/pipe.png: {why}", f"data/x/pear/socket.png: {why}"]


def test_names_that_are_not_utf8_are_named(folder):
    shutil.copy(folder / "apple" / "0.png", os.fsencode(folder / "apple") + b"/caf\xe9.png")
    assert gather(imagefolder.read, folder, OWN)[2] == ["data/x/apple/caf\\udce9.png: the name is not UTF-8; rename it"]
    (folder / os.fsdecode(b"\xff")).mkdir()
    with pytest.raises(DataError, match=r"data/x/\\udcff: a folder's name that is not plain UTF-8"):
        imagefolder.read(folder, OWN, folder)


def test_folders_that_cannot_be_read_are_named(folder, monkeypatch):
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("pear"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(_tree.os, "scandir", refused)
    with pytest.raises(DataError, match=r"data/x/pear cannot be read \(Permission denied\)"):
        imagefolder.read(folder, OWN, folder)


def test_warnings_of_pillow_do_not_reach_the_user(folder, recwarn):
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette(bytes(range(256)) * 3)
    palette.save(folder / "apple" / "transparent.png", transparency=bytes(range(256)))
    gather(imagefolder.read, folder, OWN)
    assert not recwarn.list


def test_documents_are_no_pictures(tmp_path):
    """Pillow would start Ghostscript for this one."""
    Image.new("RGB", (40, 40)).save(tmp_path / "drawing.eps")
    refused(tmp_path / "drawing.eps", "x: not a picture")


def test_pictures_beside_the_class_folders_are_not_left_out_silently(folder):
    paint(folder / "stray.JPEG")
    (folder / "LICENSE").write_text("no picture")
    with pytest.raises(DataError, match=r"holds 1 pictures beside its class folders, the first is stray\.JPEG"):
        imagefolder.read(folder, OWN, folder)


@pytest.mark.parametrize("content", [b"one two three\n", b"one\n", b"\xff\xfe\x00\n"])
def test_a_list_of_sums_that_is_none_is_named(small, content):
    (small / "SHA256SUMS").write_bytes(content)
    with pytest.raises(DataError, match="SHA256SUMS is not a list of"):
        fashion_mnist.read(small, FASHION, small)


class Published:
    """Stands for a torchvision dataset class."""

    url, filename, base_folder = "https://example.invalid/batches.tar.gz", "batches.tar.gz", "batches"


@pytest.fixture
def packed(tmp_path):
    """A published archive that holds one batch, in a folder of downloads."""
    target = tmp_path / "data" / "downloads"
    target.mkdir(parents=True)
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches" / "data_batch_1").write_bytes(published(cifar_batch()))
    with tarfile.open(target / Published.filename, "w:gz") as archive:
        archive.add(tmp_path / "batches", "batches")
    content = (target / Published.filename).read_bytes()
    Published.tgz_md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return target / Published.filename


def test_the_published_archive_is_read_as_it_is_or_as_a_download(packed, tmp_path):
    for root, place in (("batches.tar.gz", packed), ("data/none", tmp_path / "data" / "none")):
        aside = tmp_path / f"aside of {place.name}"
        folder = _cifar.open_batches(place, settings("cifar10", root=root), aside, Published)
        assert folder == aside / "batches"
        assert _cifar.read_batch(folder / "data_batch_1", None)["labels"] == [0, 1, 2, 3]
    assert [p.name for p in packed.parent.iterdir()] == ["batches.tar.gz"]


def test_an_archive_is_compared_with_its_sum_before_it_is_unpacked(packed, tmp_path):
    content = bytearray(packed.read_bytes())
    content[-1] ^= 1
    packed.write_bytes(content)
    with pytest.raises(DataError, match=r"batches\.tar\.gz is not the published file"):
        _cifar.open_batches(packed, settings("cifar10", root="batches.tar.gz"), tmp_path / "aside", Published)
    assert not (tmp_path / "aside").exists()


def hostile_array(shape, raw, kind="u1"):
    """A pickled dictionary of one array that may say more than it holds."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    dtype = b"cnumpy\ndtype\n(U" + bytes([len(kind)]) + kind.encode() + b"K\x00K\x01tR"
    dimensions = pickle.dumps(shape, protocol=2)[2:-1]
    text = b"T" + struct.pack("<i", len(raw)) + raw
    return b"\x80\x02}U\x04data" + array + b"(K\x01" + dimensions + dtype + b"\x89" + text + b"tbs."


@pytest.mark.parametrize(
    "content",
    [
        hostile_array((10**12,), b"xy"),
        hostile_array((2,), b"xy", kind="O"),
        hostile_array((-2,), b"xy"),
        b"\x80\x02K\x01r\xff\xff\xff\x7f.",
        b"\x80\x02)" + b"\x85" * 100_000 + b"K\x01}s.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fxx.",
        b"\x80\x02c_codecs\nencode\nU\x01xU\x03hex\x86R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}U\x05_nameK\x01s\x86b.",
    ],
    ids=["huge", "objects", "negative", "far memo", "deep", "long", "codec", "changes a stand-in"],
)
def test_hostile_pickles_take_no_memory_and_change_nothing(tmp_path, content):
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match="batch is not a batch of CIFAR"):
        _cifar.read_batch(tmp_path / "batch", None)
    (tmp_path / "batch").write_bytes(hostile_array((1, 2), b"xy"))
    assert _cifar.read_batch(tmp_path / "batch", None)["data"].tolist() == [[120, 121]]


@pytest.mark.parametrize("packing", [bytes, gzip.compress])
def test_a_header_that_promises_terabytes_is_refused_before_memory_is_asked_for(small, packing):
    name = "train-images-idx3-ubyte" + (".gz" if packing is gzip.compress else "")
    replace(small, "train-images-idx3-ubyte", b"")
    (small / "train-images-idx3-ubyte").unlink()
    (small / name).write_bytes(packing(struct.pack(">4I", 2051, 2**31, 2**12, 2**12) + b"\0" * 99))
    with pytest.raises(DataError, match=f"{name} (has 115 bytes where|says that it holds 2147483648x4096x4096 bytes)"):
        fashion_mnist.read(small, FASHION, small)


def test_idx_files_are_not_read_through_links_that_lead_out(small, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "labels"
    (small / "train-labels-idx1-ubyte").rename(outside)
    (small / "train-labels-idx1-ubyte").symlink_to(outside)
    with pytest.raises(DataError, match="train-labels-idx1-ubyte leads out of"):
        fashion_mnist.read(small, FASHION, small)
