"""CIFAR's batches: only the published files are unpickled."""

import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import torchvision.datasets
from source_samples import gather, settings

from netpress.base.errors import DataError
from netpress.ingest.sources import _cifar, cifar10, cifar100


def cifar_batch(count=4):
    rows = np.arange(count * 3072, dtype=np.uint32).astype(np.uint8).reshape(count, 3072)
    return {"data": rows, "labels": [k % 10 for k in range(count)]}


def md5_of(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def published(batch):
    """Pickle a dictionary under the name that numpy's module had for CIFAR's authors."""
    return pickle.dumps(batch, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def write(path, content):
    """Write a batch file and return its entry in a list of published files."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path.name, md5_of(content)


def test_cifar_rows_become_pictures(tmp_path):
    files = [write(tmp_path / "data_batch_1", published(cifar_batch()))] * 2
    parts = list(_cifar.pieces(tmp_path, files, "labels", 32))
    assert [p.images.shape for p in parts] == [(4, 32, 32, 3)] * 2
    assert parts[1].labels.tolist() == [0, 1, 2, 3]
    rows = cifar_batch()["data"]
    assert parts[0].images[1, 0, 5].tolist() == [rows[1, 5], rows[1, 1024 + 5], rows[1, 2048 + 5]]
    (small,) = _cifar.pieces(tmp_path, files[:1], "labels", 16)
    assert small.images.shape == (4, 16, 16, 3)


@pytest.mark.parametrize(
    ("source", "dataset", "labels"), [(cifar10, "CIFAR10", "labels"), (cifar100, "CIFAR100", "fine_labels")]
)
def test_both_sources_read_the_files_that_torchvision_lists(tmp_path, monkeypatch, source, dataset, labels):
    dataset = getattr(torchvision.datasets, dataset)
    folder = tmp_path / dataset.base_folder
    for name in ("train_list", "test_list"):
        count = 4 if name == "train_list" else 2
        batch = published({"data": cifar_batch(count)["data"], labels: list(range(count))})
        monkeypatch.setattr(dataset, name, [write(folder / name, batch)])
    _, md5 = write(folder / "meta", published({"fine_label_names": ["apple", "pear"]}))
    monkeypatch.setattr(dataset, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5})
    found, splits, _ = gather(source.read, tmp_path, settings(dataset.__name__.lower(), resolution=32))
    assert found.classes == (cifar10.CLASSES if source is cifar10 else ("apple", "pear"))
    assert {name: split.labels.tolist() for name, split in splits.items()} == {"train": [0, 1, 2, 3], "test": [0, 1]}


class Malicious:
    def __reduce__(self):
        return (exec, ("open('owned', 'w').close()",))


def test_another_file_is_refused_by_its_md5_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, md5 = write(tmp_path / "data_batch_1", published(cifar_batch()))
    assert _cifar.read_batch(tmp_path / name, md5)["labels"] == [0, 1, 2, 3]
    for content in (pickle.dumps(Malicious()), b"", b"<html>", published(cifar_batch())[:500]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"data_batch_1 is not the published file \(md5 differs\)"):
            _cifar.read_batch(tmp_path / name, md5)
    with pytest.raises(DataError, match="gone is missing or no file"):
        _cifar.read_batch(tmp_path / "gone", md5)
    monkeypatch.setattr(_cifar.Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(DataError, match=r"data_batch_1 cannot be read \(Permission denied\)"):
        _cifar.read_batch(tmp_path / name, md5)


def test_even_a_file_of_the_right_md5_can_ask_for_arrays_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, md5 = write(tmp_path / "data_batch_1", pickle.dumps(Malicious()))
    with pytest.raises(DataError, match=r"asks for builtins\.exec"):
        _cifar.read_batch(tmp_path / name, md5)
    assert not (tmp_path / "owned").exists()


class Published:
    """Stands for a torchvision dataset class."""

    url, filename, base_folder = "https://example.invalid/batches.tar.gz", "batches.tar.gz", "batches"


@pytest.fixture
def packed(tmp_path):
    """A published archive that holds one batch, in a folder of downloads."""
    target = tmp_path / "data" / "downloads"
    target.mkdir(parents=True)
    write(tmp_path / "batches" / "data_batch_1", published(cifar_batch()))
    with tarfile.open(target / Published.filename, "w:gz") as archive:
        archive.add(tmp_path / "batches", "batches")
    Published.tgz_md5 = md5_of((target / Published.filename).read_bytes())
    return target / Published.filename


def test_the_published_archive_is_read_as_it_is_or_as_a_download(packed, tmp_path):
    for root, place in (("batches.tar.gz", packed), ("data/none", tmp_path / "data" / "none")):
        aside = tmp_path / f"aside of {place.name}"
        folder = _cifar.open_batches(place, settings("cifar10", root=root), aside, Published)
        assert folder == aside / "batches"
        assert [p.name for p in folder.iterdir()] == ["data_batch_1"]
    assert [p.name for p in packed.parent.iterdir()] == ["batches.tar.gz"]


def test_an_archive_is_compared_with_its_sum_before_it_is_unpacked(packed, tmp_path):
    content = bytearray(packed.read_bytes())
    content[-1] ^= 1
    packed.write_bytes(content)
    with pytest.raises(DataError, match=r"batches\.tar\.gz is not the published file"):
        _cifar.open_batches(packed, settings("cifar10", root="batches.tar.gz"), tmp_path / "aside", Published)
    assert not (tmp_path / "aside").exists()
