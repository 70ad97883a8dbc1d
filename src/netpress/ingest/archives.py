"""Archives of pictures, unpacked only when every member is harmless.

Nothing is written before the whole directory was read and found in order; sizes are counted again while unpacking,
since declared ones can lie.
"""

import hashlib
import shutil
import unicodedata
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from netpress.base.errors import DataError
from netpress.base.files import writing
from netpress.ingest.archive_members import Member, open_archive, printable

#: Most members, and most bytes when unpacked.
MOST_MEMBERS = 1_000_000
LARGEST_TOTAL = 50 * 10**9
#: A larger ratio of unpacked to packed bytes is refused above `SMALL` bytes unpacked.
LARGEST_RATIO = 1000
SMALL = 10**7
#: Bytes copied at once.
BLOCK = 2**20
#: Folders of this name are what macOS adds to a zip; their members are not unpacked.
FINDER = "__MACOSX"


def folder_of(place: Path, aside: Path, shown: str) -> Path:
    """Return `place` if it is a folder; if it is an archive, unpack it into `aside` and return what it holds.

    An archive's only folder at the top is gone down into, at most twice. Kinds are told by content, not by name.

    Args:
        place: a folder, .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz.
        aside: a folder that is made here, and that the caller removes.
        shown: what messages call `place`.

    Raises:
        DataError: it is no archive, damaged, or holds what is not allowed; names archive and member.
        ArtifactError: the disk is full.
    """
    if place.is_dir():
        return place
    if not place.is_file():
        raise DataError(f"{shown} is neither a folder nor a file; name a folder or an archive in data.root")
    _check(place, aside, shown)
    with writing(aside):
        aside.mkdir()
        aside.chmod(0o755)
    with open_archive(place, shown) as members:
        for member in members:
            if member.parts[:1] != (FINDER,):
                _unpack(member, aside, shown)
    folder = aside
    for _ in range(2):
        inside = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
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


def _check(place: Path, aside: Path, shown: str) -> None:
    """Look at every member without writing anything."""
    packed, free = place.stat().st_size, shutil.disk_usage(aside.parent).free
    total = 0
    files: list[int] = []  # digests: a million names would take a hundred megabytes
    folders: dict[str, str] = {}
    with open_archive(place, shown) as members:
        for count, member in enumerate(members, 1):
            where = f"{shown}: {printable(member.name)}"
            if count > MOST_MEMBERS:
                raise DataError(f"{shown} has more than {MOST_MEMBERS:,} members; split it, or unpack it yourself")
            total += member.size
            _require_bounded(total, packed, free, where)
            depths = len(member.parts) - (0 if member.read is None else 1)
            for depth in range(1, depths + 1):
                folder = "/".join(member.parts[:depth])
                if folders.setdefault(_folded(folder), folder) != folder:
                    raise DataError(f"{where}: its folder differs from another but by case; rename one of them")
            if member.read is not None:
                files.append(_digest(_folded("/".join(member.parts))))
    values, counts = np.unique(np.array(files, np.uint64), return_counts=True)
    taken = np.array([_digest(folder) for folder in folders], np.uint64)
    clashing = set(values[(counts > 1) | np.isin(values, taken)].tolist())
    if clashing:
        with open_archive(place, shown) as members:
            name = next(m.name for m in members if m.read and _digest(_folded("/".join(m.parts))) in clashing)
        raise DataError(f"{shown}: {printable(name)}: two members have this name, perhaps but for case; rename one")


def _require_bounded(total: int, packed: int, free: int, where: str) -> None:
    if total > LARGEST_TOTAL:
        raise DataError(f"{where}: the archive unpacks to over {LARGEST_TOTAL / 1e9:,.0f} GB; unpack it yourself")
    if total > SMALL and total > LARGEST_RATIO * packed:
        raise DataError(f"{where}: the archive unpacks to over {LARGEST_RATIO} times its size, as bombs do; refused")
    if total > free:
        raise DataError(f"{where}: the archive unpacks to more than the {free / 1e9:,.1f} GB that are free; free some")


def _folded(name: str) -> str:
    """Return what file systems that do not tell case or forms of Unicode apart make of a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def _unpack(member: Member, target: Path, shown: str) -> None:
    path = target.joinpath(*member.parts)
    with writing(path):
        _make_folders(target, member.parts if member.read is None else member.parts[:-1])
    if member.read is None:
        return
    written = 0
    with member.read() as source, ExitStack() as stack:
        with writing(path):
            out = stack.enter_context(path.open("xb"))
        while written <= member.size and (block := source.read(BLOCK)):
            written += len(block)
            with writing(path):
                out.write(block)
        with writing(path):
            out.flush()
    if written != member.size:
        raise DataError(f"{shown}: {printable(member.name)}: it does not have the size it declares; fetch it again")
    with writing(path):
        path.chmod(0o644)


def _make_folders(target: Path, parts: tuple[str, ...]) -> None:
    folder = target
    for part in parts:
        folder = folder / part
        if not folder.is_dir():
            folder.mkdir()
            folder.chmod(0o755)
