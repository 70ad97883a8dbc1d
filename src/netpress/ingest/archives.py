"""Archives of pictures, unpacked by the standard library with its filter, and bounded in members and bytes."""

import errno
import hashlib
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

from netpress.base.errors import DataError, NetpressError
from netpress.base.files import writing

#: Most members, and most bytes when unpacked.
MOST_MEMBERS = 1_000_000
LARGEST_TOTAL = 50 * 10**9
#: A larger ratio of unpacked to packed bytes is refused above `SMALL` bytes unpacked.
LARGEST_RATIO = 1000
SMALL = 10**7
#: Bytes of a tar's header for a long name and the like, which tarfile reads whole.
LARGEST_HEADER = 2**20
#: What the system says of a name that is too long, or that stands for a file and a folder.
UNUSABLE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
#: Folders of this name are what macOS adds to a zip.
FINDER = "__MACOSX"

#: A member's name, kind and size as tarfile says them, and what unpacks it.
Member = tuple[tarfile.TarInfo, Callable[[], object]]


def folder_of(place: Path, aside: Path, shown: str) -> Path:
    """Return `place` if it is a folder; if it is an archive, unpack it into `aside` and return what it holds.

    An archive's only folder at the top is gone down into, at most twice. Kinds are told by content, not by name.

    Args:
        place: a folder, .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz.
        aside: a folder that is made here, and that the caller removes, also after an error.
        shown: what messages call `place`.

    Raises:
        DataError: it is no archive, damaged, or holds what is not allowed; names archive and member.
        ArtifactError: the disk is full.
    """
    if place.is_dir():
        return place
    if not place.is_file():
        raise DataError(f"{shown} is neither a folder nor a file; name a folder or an archive in data.root")
    with writing(aside):
        aside.mkdir()
    try:
        _unpack(place, aside, shown)
    except NetpressError:
        raise
    except Exception as error:  # damaged archives raise whatever they like
        if isinstance(error, OSError) and error.errno is not None:  # the system's words, not gzip's
            with writing(aside):
                raise
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise DataError(f"{shown} is not a whole zip or tar archive ({printable(reason)}); fetch it again") from None
    folder = aside
    for _ in range(2):
        inside = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name != FINDER]
        if len(inside) != 1 or not inside[0].is_dir():
            break
        folder = inside[0]
    return folder


def require_md5(place: Path, expected: str, shown: str) -> None:
    """Raise `DataError` unless the file is the published one, whose md5 is `expected`."""
    try:
        with place.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{shown} cannot be read ({error.strerror}); fetch it again") from None
    if found != expected:
        raise DataError(f"{shown} is not the published file (md5 differs); fetch it again")


def printable(text: str) -> str:
    """Return text for a message, with control characters and broken bytes as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _unpack(place: Path, aside: Path, shown: str) -> None:
    packed, total = place.stat().st_size, 0
    for count, (info, extract) in enumerate(_members(place, aside, shown), 1):
        where = f"{shown}: {printable(info.name[:200])}"
        total += info.size
        if count > MOST_MEMBERS:
            raise DataError(f"{shown} has more than {MOST_MEMBERS:,} members; split it, or unpack it yourself")
        if total > LARGEST_TOTAL:
            raise DataError(f"{where}: the archive unpacks to over {LARGEST_TOTAL / 1e9:,.0f} GB; unpack it yourself")
        if total > SMALL and total > LARGEST_RATIO * packed:
            raise DataError(f"{where}: the archive unpacks to over {LARGEST_RATIO} times its size, as bombs do")
        if not (info.isreg() or info.isdir()) or info.issparse():
            raise DataError(f"{where}: a link or device; archives of pictures hold plain files and folders only")
        try:
            target = aside / tarfile.data_filter(info, str(aside)).name
        except tarfile.FilterError:
            raise DataError(f"{where}: a name that leads out of the archive; pack the files again") from None
        try:
            # Names that differ by case alone are one name where the file system says so.
            if info.isreg() and target.exists():
                raise DataError(f"{where}: two members have this name; rename one of them")
            extract()
        except OSError as error:
            if error.errno not in UNUSABLE:
                raise
            raise DataError(f"{where}: a name that cannot be used ({error.strerror}); rename it") from None


def _members(place: Path, aside: Path, shown: str) -> Iterator[Member]:
    with place.open("rb") as stream:
        is_zip = stream.read(2) == b"PK"
    return _zip_members(place, aside) if is_zip else _tar_members(place, aside, shown)


def _zip_members(place: Path, aside: Path) -> Iterator[Member]:
    with zipfile.ZipFile(place) as archive:
        for member in archive.infolist():
            info = tarfile.TarInfo(member.filename)
            info.size = member.file_size
            if member.is_dir():
                info.type = tarfile.DIRTYPE
            elif stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                info.type = tarfile.SYMTYPE  # or a device: neither is unpacked
            yield info, partial(archive.extract, member, aside)


def _tar_members(place: Path, aside: Path, shown: str) -> Iterator[Member]:
    with tarfile.open(place, tarinfo=_Header, encoding="utf-8") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
            yield info, partial(archive.extract, info, aside, filter="data")
        stream: Any = archive.fileobj
        if any(block.strip(b"\0") for block in iter(partial(stream.read, 2**20), b"")):
            raise DataError(f"{shown} goes on behind its end, as joined archives do; pack it again")


class _Header(tarfile.TarInfo):
    """A header that is whole and small: tarfile takes a broken one for the end, and reads a long one into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
        if info.size < 0 or info.type == tarfile.GNUTYPE_SPARSE or (not info.isreg() and info.size > LARGEST_HEADER):
            raise tarfile.ReadError("a header is larger than any should be")
        return info
