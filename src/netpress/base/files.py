"""Reading and writing files so that nothing is left half-written and hashes do not depend on the host."""

import csv
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from netpress.base.errors import ArtifactError

B = TypeVar("B", bytes, bytearray)


def sha256_bytes(data: bytes | bytearray) -> str:
    """Return the sha256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file in hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing `path` into an `ArtifactError` that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space" if full else "fix it"
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}; {remedy} and run again") from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` aside, flush it to disk and rename it to `path`; the old file stays whole until then.

    Raises:
        ArtifactError: the disk is full, or the place cannot be written to.
    """
    aside = aside_of(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def aside_of(path: Path) -> Path:
    """Return where `path` is written before it is renamed: one name, so that the next run takes a stray's place."""
    return path.with_name(f".{path.name}.aside")


def copy_folder(source: Path, target: Path) -> None:
    """Copy every file below `source` to `target`, each by `write_bytes`."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            write_bytes(target / path.relative_to(source), path.read_bytes())


@contextmanager
def aside_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder` that is gone afterwards, with all that a killed run left in it.

    Raises:
        ArtifactError: nothing can be written there.
    """
    aside = aside_of(folder)
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
    """Put the folder `new` in the place of `folder`, which may be there or not; `aside` is of `aside_folder`."""
    with writing(folder):
        if folder.exists():
            folder.rename(aside / "old")
        new.rename(folder)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; lines end in \\n on every system."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys; NaN and infinities are refused."""
    write_text(path, _json_text(path, value))


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON as `write_json` does, with the key `seal`: the sha256 of the text without it."""
    write_text(path, _sealed_text(path, value))


def read_json(path: Path, remedy: str) -> Any:
    """Read JSON; a missing or damaged file is an `ArtifactError` that names `remedy`."""
    return _parsed(_read(path, remedy), path, remedy)


def read_sealed(path: Path, remedy: str) -> dict[str, Any]:
    """Read what `write_sealed` wrote, without the seal.

    Raises:
        ArtifactError: the file is missing, or any byte of it is not what was written; names `remedy`.
    """
    data = _read(path, remedy)
    value = _parsed(data, path, remedy)
    if isinstance(value, dict) and value.pop("seal", None):
        try:
            if data == _sealed_text(path, value).encode("utf-8"):
                return value
        except (ArtifactError, UnicodeEncodeError):
            pass  # NaN, or half of a surrogate pair: nothing that was written
    raise ArtifactError(f"{path} is not what was written (its seal does not fit); {remedy}")


def _read(path: Path, remedy: str) -> bytes:
    return _reading(Path.read_bytes, path, remedy)


def _reading(read: Callable[[Path], B], path: Path, remedy: str) -> B:
    try:
        return read(path)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; {remedy}") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); {remedy}") from None


def _parsed(data: bytes, path: Path, remedy: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); {remedy}") from None


def read_checked(path: Path, sha256: str, remedy: str) -> bytes:
    """Read a file whose hash is known.

    Raises:
        ArtifactError: it is missing, or not the file with this hash; names `remedy`.
    """
    return _checked(_read(path, remedy), path, sha256, remedy)


def read_checked_buffer(path: Path, sha256: str, remedy: str) -> bytearray:
    """Read as `read_checked`, into a buffer in which a large array can lie without being copied."""
    return _checked(_reading(_read_buffer, path, remedy), path, sha256, remedy)


def _read_buffer(path: Path) -> bytearray:
    data = bytearray(path.stat().st_size)
    with path.open("rb") as stream:
        del data[stream.readinto(data) :]
    return data


def _checked(data: B, path: Path, sha256: str, remedy: str) -> B:
    if sha256_bytes(data) != sha256:
        raise ArtifactError(f"{path} is not what was written (its sha256 differs from the one recorded); {remedy}")
    return data


def _json_text(path: Path, value: Any) -> str:
    try:
        return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    except ValueError:
        raise ArtifactError(f"{path}: a value is NaN or infinite, so nothing was written") from None


def _sealed_text(path: Path, value: Mapping[str, Any]) -> str:
    seal = sha256_bytes(_json_text(path, value).encode("utf-8"))
    return _json_text(path, {**value, "seal": seal})


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return `rows` as CSV with a header of `columns`; absent values are empty, floats keep all their digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n", restval="", extrasaction="raise")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write `csv_text(rows, columns)`."""
    write_text(path, csv_text(rows, columns))
