"""Archives: what is harmless is unpacked as it is, all else is refused before anything is written."""

import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import namedtuple

import pytest
from source_samples import gather, paint, settings

from netpress.base.errors import DataError
from netpress.ingest import archive_members, archives
from netpress.ingest.archives import folder_of
from netpress.ingest.prepare import prepare
from netpress.ingest.sources import imagefolder

TAR_MODES = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


@pytest.fixture
def tree(tmp_path):
    for k, name in enumerate(("apple", "pear")):
        for n in range(5):
            paint(tmp_path / "photos" / name / f"{n}.png", colour=(k * 200, n * 40, 10))
    return tmp_path / "photos"


def pack(tree, path, below=""):
    """Pack the files of `tree` under the folder `below`."""
    files = sorted(p for p in tree.rglob("*") if p.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, below + file.relative_to(tree).as_posix())
    else:
        with tarfile.open(path, TAR_MODES[path.name.split(".", 1)[1]]) as archive:
            for file in files:
                archive.add(file, below + file.relative_to(tree).as_posix())
    return path


@pytest.mark.parametrize("below", ["", "photos/", "./photos/2026/"])
@pytest.mark.parametrize("ending", ["zip", *TAR_MODES])
def test_an_archive_gives_what_its_folder_gives(tree, tmp_path, ending, below):
    pack(tree, tmp_path / f"packed.{ending}", below)
    data = settings("imagefolder", root="photos", resolution=32)
    of_folder = prepare(tmp_path, data, tmp_path / "one")
    of_archive = prepare(tmp_path, data.model_copy(update={"root": f"packed.{ending}"}), tmp_path / "two")
    assert of_archive == of_folder
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", f"packed.{ending}", "photos", "two"]


def test_the_kind_is_told_by_content(tree, tmp_path):
    path = pack(tree, tmp_path / "packed.tar.gz").rename(tmp_path / "packed.zip")
    assert sorted(p.name for p in folder_of(path, tmp_path / "aside", "packed.zip").iterdir()) == ["apple", "pear"]


def test_modes_are_plain_whatever_the_archive_says(tmp_path):
    umask = os.umask(0o077)
    try:
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for name, mode in (("x/run.png", 0o6777), ("x/shut.png", 0o000)):
                info = tarfile.TarInfo(name)
                info.mode = mode
                archive.addfile(info)
        folder = folder_of(tmp_path / "a.tar", tmp_path / "aside", "a.tar")
    finally:
        os.umask(umask)
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o644}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_bad_pictures_are_named_by_their_place_in_the_archive(tree, tmp_path):
    (tree / "apple" / "7.png").write_bytes(b"<html>")
    pack(tree, tmp_path / "packed.zip")
    data = settings("imagefolder", root="packed.zip")
    bad = gather(imagefolder.read, tmp_path / "packed.zip", data, tmp_path / "aside")[2]
    assert bad == ["packed.zip/apple/7.png: not a picture"]


def test_what_macos_adds_is_left_out(tree, tmp_path):
    path = pack(tree, tmp_path / "packed.zip", "photos/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/photos/apple/._0.png", b"x")
        archive.writestr("photos/.DS_Store", b"x")
    assert folder_of(path, tmp_path / "aside", "packed.zip").name == "photos"
    assert not (tmp_path / "aside" / "__MACOSX").exists()


def refuse(path, message):
    """The archive is refused for this reason, and nothing has been written."""
    with pytest.raises(DataError, match=message) as error:
        folder_of(path, path.parent / "aside", path.name)
    assert str(error.value).startswith(path.name)
    assert "\n" not in str(error.value)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


HOSTILE_NAMES = {
    "/etc/x.png": "leads out",
    "../x.png": "leads out",
    "a/../../x.png": "leads out",
    "C:/x.png": "leads out",
    "c:x.png": "leads out",
    "a\\..\\..\\x.png": "leads out",
    "a/\x1b[2Jx.png": r"a/\\x1b\[2Jx\.png: a name with control characters",
    "a/x\n.png": r"a/x\\n\.png: a name with control characters",
    "a/" + "x" * 256: "a name over 255 bytes",
    "a/" + "é" * 128: "a name over 255 bytes",
    "ab/" * 400 + "x": "a name over 255 bytes a part or 1000 in all",
}


@pytest.mark.parametrize("ending", ["zip", "tar"])
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_refused(tmp_path, name, ending):
    path = tmp_path / f"packed.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/good.png", b"x")
            archive.writestr(name, b"x")
    else:
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("a/good.png"))
            archive.addfile(tarfile.TarInfo(name))
    refuse(path, HOSTILE_NAMES[name])


def test_a_name_that_is_not_utf8_or_ends_in_secret_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", encoding="utf-8") as archive:
        archive.addfile(tarfile.TarInfo("a/\udce9.png"))
    refuse(tmp_path / "a.tar", r"a/\\udce9\.png: a name that is not UTF-8")
    with zipfile.ZipFile(tmp_path / "a.tar", "w") as archive:
        archive.writestr("a/nul_.png", b"x")
    content = (tmp_path / "a.tar").read_bytes().replace(b"nul_", b"nul\0")
    (tmp_path / "a.tar").write_bytes(content)
    refuse(tmp_path / "a.tar", "control characters|damaged")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.FIFOTYPE, "neither a file nor a folder"),
        (tarfile.CHRTYPE, "neither a file nor a folder"),
        (tarfile.BLKTYPE, "neither a file nor a folder"),
        (tarfile.GNUTYPE_SPARSE, "neither a file nor a folder|damaged"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, message):
    info = tarfile.TarInfo("a/x.png")
    info.type, info.linkname = kind, "a/good.png"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a/good.png"))
        archive.addfile(info)
    refuse(tmp_path / "a.tar", message)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, mode):
    info = zipfile.ZipInfo("a/x.png")
    info.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    refuse(tmp_path / "a.zip", r"a/x\.png: (a link|neither a file nor a folder)")


def test_encrypted_members_and_unknown_packing_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/x.png", b"x")
    plain = bytearray((tmp_path / "a.zip").read_bytes())
    at = plain.index(b"PK\x01\x02")
    for offset, value, message in ((8, 1, "encrypted"), (10, 97, "packed by method 97")):
        changed = plain.copy()
        changed[at + offset] = value
        (tmp_path / "a.zip").write_bytes(changed)
        refuse(tmp_path / "a.zip", rf"a/x\.png: {message}")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names",
    [("a/x.png", "a/x.png"), ("a/x.png", "a/X.png"), ("a/x.png", "A/y.png"), ("a/x", "a/x/y"), ("a/é", "a/e\u0301")],
)
def test_names_that_clash_are_refused(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    refuse(tmp_path / "a.zip", "two members have this name|differs from another but by case")


@pytest.mark.parametrize("ending", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_bombs_are_refused(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST_RATIO", 100)
    paint(tmp_path / "work" / "a" / "x.png")
    (tmp_path / "work" / "a" / "zeros.png").write_bytes(bytes(20_000_000))
    (tmp_path / "only").mkdir()
    refuse(
        pack(tmp_path / "work", tmp_path / "only" / f"b.{ending}"), r"zeros\.png: .* over 100 times its size, as bombs"
    )


def test_totals_are_capped(tree, tmp_path, monkeypatch):
    (tmp_path / "only").mkdir()
    path = pack(tree, tmp_path / "only" / "a.tar")
    with monkeypatch.context() as patch:
        patch.setattr(archives, "LARGEST_TOTAL", 500)
        refuse(path, "unpacks to over 0 GB")
    with monkeypatch.context() as patch:
        patch.setattr(archives, "MOST_MEMBERS", 9)
        refuse(path, "more than 9 members")
    with monkeypatch.context() as patch:
        usage = namedtuple("usage", "total used free")
        patch.setattr(archives.shutil, "disk_usage", lambda _: usage(9, 9, 500))
        refuse(path, "more than the 0.0 GB that are free")


def test_headers_that_ask_for_much_memory_are_refused(tmp_path):
    """A long name in a packed tar: gigabytes of name in kilobytes of file."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, archive_members.LARGEST_HEADER + 1
    content = info.tobuf(tarfile.GNU_FORMAT) + bytes(info.size + 511 & ~511) + bytes(1024)
    packer = zlib.compressobj(wbits=31)
    (tmp_path / "a.tar.gz").write_bytes(packer.compress(content) + packer.flush())
    refuse(tmp_path / "a.tar.gz", "is damaged .a header is larger than any should be")


def test_sizes_that_lie_are_found_while_unpacking(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/x.png", b"x" * 5000)
    plain = (tmp_path / "a.zip").read_bytes()
    at = plain.index(b"PK\x01\x02") + 24
    for size in (10, 9000):
        (tmp_path / "a.zip").write_bytes(plain[:at] + struct.pack("<I", size) + plain[at + 4 :])
        with pytest.raises(DataError, match=r"^a\.zip"):
            folder_of(tmp_path / "a.zip", tmp_path / f"aside{size}", "a.zip")
        written = [p.stat().st_size for p in (tmp_path / f"aside{size}").rglob("*.png")]
        assert sum(written) <= 5000


@pytest.mark.parametrize("ending", ["zip", *TAR_MODES])
def test_cut_off_archives_are_refused(tree, tmp_path, ending):
    whole = pack(tree, tmp_path / f"whole.{ending}").read_bytes()
    (tmp_path / "only").mkdir()
    path = tmp_path / "only" / f"cut.{ending}"
    for share in (0.1, 0.3, 0.45):
        path.write_bytes(whole[: int(len(whole) * share)])
        refuse(path, "is damaged")


def test_a_tar_with_a_broken_header_does_not_end_there_silently(tree, tmp_path):
    content = bytearray(pack(tree, tmp_path / "whole.tar").read_bytes())
    content[content.index(b"pear/2.png")] ^= 4
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.tar").write_bytes(content)
    refuse(tmp_path / "only" / "a.tar", "is damaged .(bad checksum|it ends in the midst of its members)")


def test_joined_tars_do_not_lose_the_second(tree, tmp_path):
    content = pack(tree, tmp_path / "whole.tar").read_bytes()
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.tar").write_bytes(content * 2)
    refuse(tmp_path / "only" / "a.tar", "goes on behind its end")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n", bytes(4096)])
def test_what_is_no_archive_is_named(tmp_path, content):
    (tmp_path / "page.zip").write_bytes(content)
    refuse(tmp_path / "page.zip", "page.zip is neither a folder nor a zip or tar archive")


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    refuse(tmp_path / "pipe.zip", "neither a folder nor a file")


def test_an_archive_without_pictures_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with pytest.raises(DataError, match=r"a\.zip has 0 class folders"):
        prepare(tmp_path, settings("imagefolder", root="a.zip"), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_members_are_read_in_bounded_steps():
    stream = archive_members.Bounded(io.BytesIO(b"x" * 100), 50)
    assert stream.read(50) == b"x" * 50
    stream.seek(0)
    for size in (51, -1, 2**40):
        stream.seek(0)
        with pytest.raises(ValueError, match="larger than any"):
            stream.read(size)
