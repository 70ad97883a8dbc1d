"""CIFAR's batches, as they are and as they should not be: nothing of them is executed."""

import hashlib
import pickle
import struct
import tarfile

import numpy as np
import pytest
from source_samples import cifar_batch, published, settings

from netpress.base.errors import DataError
from netpress.ingest.sources import _cifar


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
