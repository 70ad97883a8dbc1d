"""Damaged and hostile input to `prepare`: it succeeds or says which file is wrong, and nothing else happens.

Every case is drawn from its number. A share runs in the ordinary suite, thousands under the marker `exhaustive`.
"""

import gzip
import io
import json
import os
import resource
import socket
import stat
import struct
import tarfile
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from source_samples import idx, settings

from netpress.base.errors import ArtifactError, ConfigError, DataError
from netpress.core.dataset import load_split
from netpress.ingest.prepare import prepare

ORDINARY, ALL = 200, 2000
SECONDS = 10.0
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
CLASSES = ("apple", "pear")


def picture(rng, kind):
    """One small picture as bytes."""
    image = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((40, 30), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def damage(rng, content):
    """Flip bits, cut, or write a run of bytes over the content."""
    content = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(1, len(content))))
        way = rng.integers(0, 4)
        if way == 0 and content:
            content[at] ^= 1 << int(rng.integers(0, 8))
        elif way == 1:
            del content[at:]
        elif way == 2:
            content[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), b"<html>\r\n"])
        else:
            head = int(rng.integers(0, min(len(content), 64) + 1))  # headers are where it hurts
            content[head : head + 1] = rng.bytes(1)
    return bytes(content)


def plain_tree(rng, folder):
    """A folder of twelve good pictures of all formats."""
    for k in range(12):
        kind = FORMATS[k % len(FORMATS)]
        path = folder / CLASSES[k % 2] / f"{k}.{kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(rng, kind))
    return folder


def damaged_pictures(rng, project):
    files = sorted(p for p in plain_tree(rng, project / "input").rglob("*") if p.is_file())
    for path in rng.choice(files, int(rng.integers(1, 4)), replace=False):
        path.write_bytes(damage(rng, path.read_bytes()))


def hostile_tree(rng, project):
    folder = plain_tree(rng, project / "input") / CLASSES[int(rng.integers(0, 2))]
    for way in rng.choice(10, int(rng.integers(1, 3)), replace=False):
        place = folder / f"new{way}.png"
        if way == 0:
            place.symlink_to(place)
        elif way == 1:
            place.symlink_to(project / "secret" / "secret.png")
        elif way == 2:
            os.mkfifo(place)
        elif way == 3:
            with socket.socket(socket.AF_UNIX) as listener:
                os.chdir(folder)  # the name of a socket must be short
                listener.bind(place.name)
        elif way == 4:
            (folder / os.fsdecode(b"\xff\xfe.png")).write_bytes(picture(rng, "PNG"))
        elif way == 5:
            (folder / "a\nb\x1b[2J.png").write_bytes(b"")
        elif way == 6:
            (project / "input" / "empty").mkdir()
        elif way == 7:
            place.mkdir()
            (place / "up").symlink_to("..")
        elif way == 8:
            (project / "input" / "loose.png").write_bytes(picture(rng, "PNG"))
        else:
            (project / "input" / "train").symlink_to("..")


HOSTILE_NAMES = (
    "../out.png",
    "../../../escaped.png",
    "a\\..\\b.png",
    "C:x.png",
    "apple/\x07.png",
    "apple/" + "x" * 300,
)


def hostile_member(rng, archive, project):
    """Add one member that has no place in an archive of pictures."""
    name = str(rng.choice([*HOSTILE_NAMES, f"{project}/absolute.png", "apple/new.png", "APPLE/0.jpeg", "apple/0.jpeg"]))
    size = int(rng.choice([10, 30_000_000])) if rng.random() < 0.3 else 10
    if isinstance(archive, zipfile.ZipFile):
        info = zipfile.ZipInfo(name)
        kind = int(rng.choice([stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, 0]))
        info.external_attr, info.compress_type = (kind | 0o644) << 16, zipfile.ZIP_DEFLATED
        archive.writestr(info, bytes(size))
    else:
        member = tarfile.TarInfo(name)
        member.type = bytes(rng.choice([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]))
        member.linkname = "../../secret/secret.png"
        member.size = size if member.isreg() else 0
        archive.addfile(member, io.BytesIO(bytes(size)))


MODES = {"tar": "w", "tar.gz": "w:gz"}


def archive_of(rng, project):
    tree = plain_tree(rng, project / "tree")
    ending = str(rng.choice(["zip", "tar", "tar.gz"]))
    hostile = rng.random() < 0.5
    path = project / "input"  # the kind is told by content
    with zipfile.ZipFile(path, "w") if ending == "zip" else tarfile.open(path, MODES[ending]) as archive:
        add = archive.write if ending == "zip" else archive.add
        for file in sorted(p for p in tree.rglob("*") if p.is_file()):
            add(file, file.relative_to(tree).as_posix())
        if hostile:
            hostile_member(rng, archive, project)
    if not hostile:
        content = path.read_bytes()
        if ending == "zip" and rng.random() < 0.3:  # a size that lies
            at = content.index(b"PK\x01\x02") + int(rng.choice([20, 24, 42]))
            content = content[:at] + struct.pack("<I", int(rng.integers(0, 2**32))) + content[at + 4 :]
        else:
            content = damage(rng, content)
        path.write_bytes(content)


def idx_files(rng, project):
    folder = project / "input"
    folder.mkdir()
    for prefix, count in (("train", 40), ("t10k", 20)):
        contents = idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), [k % 10 for k in range(count)])
        for kind, content in zip(("images-idx3", "labels-idx1"), contents, strict=True):
            packed = rng.random() < 0.5
            if rng.random() < 0.4:
                content = damage(rng, content)
            content = gzip.compress(content) if packed else content
            if rng.random() < 0.15:
                content = damage(rng, content)
            (folder / f"{prefix}-{kind}-ubyte{'.gz' if packed else ''}").write_bytes(content)


def files_below(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run_prepare(seed, project, make, source):
    """One case through `prepare`; return whether the data were accepted."""
    rng = np.random.default_rng([seed, len(source)])
    (project / "secret").mkdir()
    (project / "secret" / "secret.png").write_bytes(picture(rng, "PNG"))
    make(rng, project)
    before = {p.name for p in project.iterdir()}
    old = {"manifest.json": b"{}", "train_images.npy": b"old"}
    (project / "out").mkdir()
    for name, content in old.items():
        (project / "out" / name).write_bytes(content)
    skip = "skip" if rng.random() < 0.3 else "error"
    data = settings(source, root="input", on_bad_image=skip, val_share=0.3, on_overlap="drop_from_train")
    try:
        manifest = prepare(project, data, project / "out")
    except (DataError, ConfigError, ArtifactError) as error:
        text = str(error)
        assert any(word in text for word in ("input", *CLASSES, "train", "val", "test")), text
        assert text.isprintable(), repr(text)
        assert "secret/" not in text.replace("../../secret", "")
        assert files_below(project / "out") == old, "the old set has changed"
        accepted = False
    else:
        for name in ("train", "val", "test"):
            if manifest.has_split(name):
                assert len(load_split(project / "out", name, manifest)) == sum(manifest.counts[name])
        assert "train_images.npy" in json.loads((project / "out" / "manifest.json").read_bytes())["sha256"]
        accepted = True
    assert {p.name for p in project.iterdir()} == before | {"out"}, "something was left behind"
    return accepted


CASES = (
    ("pictures", lambda seed, project: run_prepare(seed, project, damaged_pictures, "imagefolder")),
    ("trees", lambda seed, project: run_prepare(seed, project, hostile_tree, "imagefolder")),
    ("archives", lambda seed, project: run_prepare(seed, project, archive_of, "imagefolder")),
    ("idx", lambda seed, project: run_prepare(seed, project, idx_files, "fashion-mnist")),
)


def run_cases(numbers, folder, monkeypatch):
    """Run the cases of these numbers; return kind -> [accepted, refused] and the longest time."""
    found = {kind: [0, 0] for kind, _ in CASES}
    longest = 0.0
    for seed in numbers:
        kind, case = CASES[seed % len(CASES)]
        project = folder / f"case{seed}"
        project.mkdir()
        monkeypatch.chdir(project)
        start = time.monotonic()
        try:
            accepted = case(seed, project)
        except Exception as error:
            raise AssertionError(f"case {seed} ({kind})") from error
        seconds = time.monotonic() - start
        assert seconds < SECONDS, f"case {seed} ({kind}) took {seconds:.1f} s"
        longest = max(longest, seconds)
        found[kind][not accepted] += 1
    assert all(p.name.startswith("case") for p in folder.iterdir()), "something was written outside"
    return found, longest


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_share_of_the_cases(tmp_path, monkeypatch):
    found, _ = run_cases(range(ORDINARY), tmp_path, monkeypatch)
    for kind, (accepted, refused) in found.items():
        assert accepted > 0, f"{kind}: nothing is accepted, so the cases say little"
        assert refused > 0, f"{kind}: nothing is refused, so the cases say little"


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_all_cases(tmp_path, monkeypatch, capsys):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, longest = run_cases(range(ORDINARY, ORDINARY + ALL), tmp_path, monkeypatch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with capsys.disabled():
        print(
            f"\n(accepted, refused): {found}; longest {longest:.2f} s; peak {peak // 1024} MB, {before // 1024} before"
        )
    assert sum(map(sum, found.values())) == ALL
    assert peak - before < 2**20, "over 1 GB more"
