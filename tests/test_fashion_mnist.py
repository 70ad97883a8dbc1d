"""Fashion-MNIST's IDX files, whole and broken."""

import gzip
import hashlib
import importlib.util
import shutil
import struct

import numpy as np
import pytest
from source_samples import EMBEDDED, gather, idx, settings

from netpress.base.errors import DataError
from netpress.ingest import pieces
from netpress.ingest.sources import fashion_mnist

FASHION = settings("fashion-mnist")


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
        ("train-images-idx3-ubyte", b"", "is not the IDX file expected"),
        ("train-images-idx3-ubyte", b"<html>not found</html>", "not the IDX file expected"),
        ("train-images-idx3-ubyte", struct.pack(">4I", 2051, 30, 28, 28) + b"\0" * 99, "or not whole"),
        ("train-images-idx3-ubyte", struct.pack(">4I", 2051, 2**31, 2**12, 2**12) + b"\0" * 99, "or not whole"),
        ("train-images-idx3-ubyte", struct.pack(">4I", 2051, 30, 0, 28), "or not whole"),
        ("train-images-idx3-ubyte", struct.pack(">4I", 2051, 1, 28, 28) + b"\0" * 785, "or not whole"),
        ("train-labels-idx1-ubyte", struct.pack(">2I", 2049, 29) + b"\0" * 29, "30 images but 29 labels"),
        (
            "train-labels-idx1-ubyte",
            struct.pack(">2I", 2049, 30) + b"\0" * 29 + b"\x0b",
            "the label 11 for image 29",
        ),
        ("train-images-idx3-ubyte.gz", gzip.compress(b"\0" * 999, mtime=0)[:-20], "cannot be read"),
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


@pytest.mark.parametrize("content", [b"one two three\n", b"one\n", b"\xff\xfe\x00\n"])
def test_a_list_of_sums_that_is_none_is_named(small, content):
    (small / "SHA256SUMS").write_bytes(content)
    with pytest.raises(DataError, match="SHA256SUMS is not a list of"):
        fashion_mnist.read(small, FASHION, small)
