"""Reading and writing files so that nothing is left half-written and hashes do not depend on the host."""

import csv
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netpress.base.errors import ArtifactError


def sha256_bytes(data: bytes) -> str:
    """Return the sha256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file in hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` aside, flush it to disk and rename it to `path`; the old file stays whole until then."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror}") from None
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        aside.chmod(0o644)
        aside.replace(path)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror}; free some space and run again") from None
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; lines end in \\n on every system."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys; NaN and infinities are refused."""
    try:
        text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    except ValueError:
        raise ArtifactError(f"{path}: a value is NaN or infinite, so nothing was written") from None
    write_text(path, text + "\n")


def read_json(path: Path, remedy: str) -> Any:
    """Read JSON; a missing or damaged file is an `ArtifactError` that names `remedy`."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; {remedy}") from None
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); {remedy}") from None


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
