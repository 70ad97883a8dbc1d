"""Archives: what is harmless is unpacked as it is, all else is refused before anything is written."""

import errno
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib

import pytest
from source_samples import gather, paint, settings

from netpress.base.errors import ArtifactError, DataError
from netpress.ingest import archives
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


def refuse(path, message):
    """The archive is refused for this reason, in one line; return what has been unpacked aside."""
    aside = path.parent / "aside"
    with pytest.raises(DataError, match=message) as error:
        folder_of(path, aside, path.name)
    assert str(error.value).startswith(path.name)
    assert str(error.value).isprintable()
    assert sorted(p.name for p in path.parent.iterdir()) == sorted({"aside", path.name}), "written elsewhere"
    unpacked = [p for p in aside.rglob("*") if not p.is_dir()]
    assert all(p.is_file() and not p.is_symlink() for p in unpacked)
    shutil.rmtree(aside)  # as `prepare` does
    return [p.relative_to(aside).as_posix() for p in unpacked]


@pytest.mark.parametrize("ending", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "../\x1b[2J.png"])
def test_names_that_lead_out_are_refused(tmp_path, name, ending):
    path = tmp_path / f"packed.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/good.png", b"x")
            archive.writestr(name, b"x")
    else:
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("a/good.png"))
            archive.addfile(tarfile.TarInfo(name))
    assert refuse(path, "x.png|2J.png: a name that leads out of the archive") == ["a/good.png"]


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_absolute_names_stay_below_the_folder(tmp_path, ending):
    name = f"{tmp_path}/outside.png"
    if ending == "zip":
        with zipfile.ZipFile(tmp_path / "packed", "w") as archive:
            archive.writestr(name, b"x")
    else:
        with tarfile.open(tmp_path / "packed", "w") as archive:
            info = tarfile.TarInfo("x")
            info.name = name
            archive.addfile(info)
    folder_of(tmp_path / "packed", tmp_path / "aside", "packed")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["aside", "packed"]
    assert (tmp_path / "aside" / name[1:]).is_file()


@pytest.mark.parametrize("names", [["a/" + "x" * 300], ["a", "a/x.png"], ["a/x.png", "a"]])
def test_names_that_cannot_be_used_are_refused(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    refuse(tmp_path / "a.zip", "a name that cannot be used|two members have this name")


def test_a_full_disk_is_no_fault_of_the_archive(tree, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extract", full)
    with pytest.raises(ArtifactError, match="No space left on device; free some space"):
        folder_of(pack(tree, tmp_path / "a.zip"), tmp_path / "aside", "a.zip")


KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)


@pytest.mark.parametrize("kind", KINDS)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("a/x.png")
    info.type, info.linkname = kind, "a/good.png"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a/good.png"))
        archive.addfile(info)
    assert refuse(tmp_path / "a.tar", r"a/x\.png: a link or device") == ["a/good.png"]


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, mode):
    info = zipfile.ZipInfo("a/x.png")
    info.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert refuse(tmp_path / "a.zip", r"a/x\.png: a link or device") == []


def test_encrypted_members_and_unknown_packing_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/x.png", b"x")
    plain = bytearray((tmp_path / "a.zip").read_bytes())
    at = plain.index(b"PK\x01\x02")
    for offset, value, message in ((8, 1, "encrypted"), (10, 97, "compression method")):
        changed = plain.copy()
        changed[at + offset] = value
        (tmp_path / "a.zip").write_bytes(changed)
        refuse(tmp_path / "a.zip", message)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/x.png", b"x")
        archive.writestr("a/x.png", b"y")
    refuse(tmp_path / "a.zip", r"a/x\.png: two members have this name")


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


def test_headers_that_ask_for_much_memory_are_refused(tmp_path):
    """A long name in a packed tar: gigabytes of name in kilobytes of file."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, archives.LARGEST_HEADER + 1
    first = tarfile.TarInfo("a/x.png").tobuf()
    content = first + info.tobuf(tarfile.GNU_FORMAT) + bytes(info.size + 511 & ~511) + bytes(1024)
    packer = zlib.compressobj(wbits=31)
    (tmp_path / "a.tar.gz").write_bytes(packer.compress(content) + packer.flush())
    refuse(tmp_path / "a.tar.gz", r"is not a whole zip or tar archive \(a header is larger than any should be\)")


def test_a_size_that_lies_writes_no_more_than_it_says(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/x.png", b"x" * 5000)
    plain = (tmp_path / "a.zip").read_bytes()
    at = plain.index(b"PK\x01\x02") + 24
    (tmp_path / "a.zip").write_bytes(plain[:at] + struct.pack("<I", 10) + plain[at + 4 :])
    with pytest.raises(DataError, match=r"^a\.zip is not a whole zip or tar archive \(Bad CRC-32"):
        folder_of(tmp_path / "a.zip", tmp_path / "aside", "a.zip")
    assert sum(p.stat().st_size for p in (tmp_path / "aside").rglob("*.png")) <= 10


@pytest.mark.parametrize("ending", ["zip", *TAR_MODES])
def test_cut_off_archives_are_refused(tree, tmp_path, ending):
    whole = pack(tree, tmp_path / f"whole.{ending}").read_bytes()
    (tmp_path / "only").mkdir()
    path = tmp_path / "only" / f"cut.{ending}"
    for share in (0.1, 0.3, 0.45):
        path.write_bytes(whole[: int(len(whole) * share)])
        refuse(path, "is not a whole zip or tar archive")


def test_a_tar_with_a_broken_header_does_not_end_there_silently(tree, tmp_path):
    content = bytearray(pack(tree, tmp_path / "whole.tar").read_bytes())
    content[content.index(b"pear/2.png")] ^= 4
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.tar").write_bytes(content)
    refuse(tmp_path / "only" / "a.tar", r"is not a whole zip or tar archive \(bad checksum\)")


def test_joined_tars_do_not_lose_the_second(tree, tmp_path):
    content = pack(tree, tmp_path / "whole.tar").read_bytes()
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.tar").write_bytes(content * 2)
    refuse(tmp_path / "only" / "a.tar", "goes on behind its end")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_archive_is_named(tmp_path, content):
    (tmp_path / "page.zip").write_bytes(content)
    refuse(tmp_path / "page.zip", "page.zip is not a whole zip or tar archive")


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(DataError, match="neither a folder nor a file"):
        folder_of(tmp_path / "pipe.zip", tmp_path / "aside", "pipe.zip")


def test_an_archive_without_pictures_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with pytest.raises(DataError, match=r"a\.zip has 0 class folders"):
        prepare(tmp_path, settings("imagefolder", root="a.zip"), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
