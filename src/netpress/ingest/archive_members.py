"""The members of zip and tar archives, one by one, with nothing taken on trust.

Links, devices and names that lead out of the folder have no place among pictures: they are refused, not mended.
"""

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from netpress.base.errors import DataError, NetpressError

#: Bytes of a zip's directory at most, which is held in memory, and of any header of a tar.
LARGEST_DIRECTORY = 2**27
LARGEST_HEADER = 2**22
#: Bytes of a name between two slashes, as file systems allow, and of the whole name.
LONGEST_PART, LONGEST_NAME = 255, 1000
#: First bytes of a packed tar, and what unpacks it.
PACKINGS: tuple[tuple[bytes, Callable[[IO[bytes]], Any]], ...] = (
    (b"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=raw)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
)
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
ENCRYPTED = 0x1


@dataclass(frozen=True)
class Member:
    """One member: its name, the parts of its place, the bytes it declares; `read` opens it, None for a folder."""

    name: str
    parts: tuple[str, ...]
    size: int
    read: Callable[[], IO[bytes]] | None


@contextmanager
def open_archive(place: Path, shown: str) -> Iterator[Iterator[Member]]:
    """Give the members of an archive in their order; each can be read until the next one is asked for.

    Raises:
        DataError: it is no archive, damaged, or has a member that is not allowed; begins with `shown`.
    """
    try:
        with place.open("rb") as raw, ExitStack() as stack:
            head = raw.read(512)
            raw.seek(0)
            if head.startswith(ZIP_STARTS):
                archive = zipfile.ZipFile(Bounded(raw, LARGEST_DIRECTORY))
                yield _zip_members(stack.enter_context(archive), shown)
                return
            unpack = next((opener for magic, opener in PACKINGS if head.startswith(magic)), None)
            if unpack is None and head[257:262] != b"ustar":
                raise DataError(
                    f"{shown} is neither a folder nor a zip or tar archive, whatever its name; fetch it again"
                )
            stream = Bounded(stack.enter_context(unpack(raw)) if unpack else raw, LARGEST_HEADER)
            yield _tar_members(stream, shown)
    except NetpressError:
        raise
    except Exception as error:  # damaged archives raise whatever they like
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"{shown} cannot be read ({error.strerror}); mend that and run again") from None
        raise DataError(f"{shown} is damaged ({str(error) or type(error).__name__}); fetch it again") from None


class Bounded:
    """A stream that hands out a bounded number of bytes at once, since a hostile header can ask for any."""

    def __init__(self, stream: IO[bytes], largest: int) -> None:
        self._stream, self._largest = stream, largest
        self.last = b""  # what was read last
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or all; more than the bound is a ValueError."""
        self.last = self._stream.read(min(size, self._largest + 1) if size >= 0 else self._largest + 1)
        if len(self.last) > self._largest:
            raise ValueError("a header is larger than any should be")
        return self.last


def _zip_members(archive: zipfile.ZipFile, shown: str) -> Iterator[Member]:
    for info in archive.infolist():
        name = info.orig_filename  # `filename` ends at a NUL
        parts = _parts(name, shown)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(shown, name, "a link" if kind == stat.S_IFLNK else "neither a file nor a folder")
        if info.flag_bits & ENCRYPTED:
            raise _refused(shown, name, "encrypted")
        if info.compress_type not in ZIP_METHODS:
            raise _refused(shown, name, f"packed by method {info.compress_type}, which is not known here")
        is_folder = name.endswith("/")
        yield Member(name, parts, info.file_size, None if is_folder else lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_members(stream: Bounded, shown: str) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8") as archive:  # type: ignore[call-overload]
        while (info := archive.next()) is not None:
            archive.members.clear()  # tarfile would keep them all
            parts = _parts(info.name, shown)
            if info.islnk() or info.issym():
                raise _refused(shown, info.name, "a link")
            if not (info.isreg() or info.isdir()) or info.issparse():
                raise _refused(shown, info.name, "neither a file nor a folder")
            if info.size < 0:
                raise _refused(shown, info.name, "of a size below zero")
            yield Member(info.name, parts, info.size, None if info.isdir() else _opener(archive, info))
    # tarfile takes a broken header for the end, and members would be left out without a word.
    if stream.last != bytes(tarfile.BLOCKSIZE):
        raise DataError(f"{shown} is damaged (it ends in the midst of its members); fetch it again")
    if stream.read().strip(b"\0"):
        raise DataError(f"{shown} goes on behind its end, as joined archives do; pack it anew")


def _opener(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def read() -> IO[bytes]:
        stream = archive.extractfile(info)
        if stream is None:
            raise ValueError(f"{info.name} has no content")
        return stream

    return read


def _parts(name: str, shown: str) -> tuple[str, ...]:
    """Split a name at its slashes, and refuse it unless it means one place inside, on every system."""
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise _refused(shown, name, "a name that is not UTF-8") from None
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise _refused(shown, name, "a name with control characters")
    if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name) or ".." in parts:
        raise _refused(shown, name, "a name that leads out of the archive")
    if size > LONGEST_NAME or any(len(part.encode("utf-8")) > LONGEST_PART for part in parts):
        raise _refused(shown, name[:80] + "...", f"a name over {LONGEST_PART} bytes a part or {LONGEST_NAME} in all")
    if not parts and not name.endswith(("/", ".")):
        raise _refused(shown, name, "an empty name")
    return parts


def printable(text: str) -> str:
    """Return text for a message, with control characters and broken bytes as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _refused(shown: str, name: str, why: str) -> DataError:
    return DataError(f"{shown}: {printable(name)}: {why}; archives of pictures hold plain files and folders only")
