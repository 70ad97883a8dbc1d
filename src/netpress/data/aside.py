"""Writing a folder aside and putting it in place whole, and arrays in pieces."""

import hashlib
import io
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from netpress.base.errors import ArtifactError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing `path` into an `ArtifactError`."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}; free some space and run again") from None


@contextmanager
def aside_of(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder` that is gone afterwards, with all that a killed run left in it.

    Raises:
        ArtifactError: nothing can be written there.
    """
    aside = folder.with_name(f".{folder.name}.aside")
    with writing(folder):
        if (aside / "old").is_dir() and not folder.exists():  # killed between the two renames of `swap`
            (aside / "old").rename(folder)
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir(parents=True)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def swap(new: Path, folder: Path, aside: Path) -> None:
    """Put the folder `new` in the place of `folder`, which may be there or not; `aside` is on the same disk."""
    with writing(folder):
        if folder.exists():
            folder.rename(aside / "old")
        new.rename(folder)
        _sync_folder(folder.parent)


def write_array(path: Path, shape: tuple[int, ...], dtype: str, pieces: Iterable[np.ndarray]) -> str:
    """Write the pieces, joined along the first axis, as np.save would write them whole; return the file's sha256.

    Raises:
        ArtifactError: it cannot be written.
    """
    digest = hashlib.sha256()
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, header)
    with writing(path), path.open("wb") as stream:
        for content in itertools.chain([head.getbuffer()], (np.ascontiguousarray(p, dtype=dtype).data for p in pieces)):
            stream.write(content)
            digest.update(content)
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
