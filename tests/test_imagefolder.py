"""Anyone's own pictures in folders, good, bad and hostile."""

import errno
import os
import shutil
import socket

import numpy as np
import pytest
from PIL import Image
from source_samples import gather, paint, settings

from netpress.base.errors import DataError
from netpress.ingest.sources import _pictures, _tree, imagefolder
from netpress.ingest.spool import spool


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(("apple", "pear")):
        for n in range(3):
            paint(tmp_path / name / f"{n}.png", colour=(k * 200, n * 80, 10))
    return tmp_path


OWN = settings("imagefolder", resolution=32)


def test_a_folder_for_each_class(folder):
    source, splits, bad = gather(imagefolder.read, folder, OWN)
    assert source.classes == ("apple", "pear")
    assert source.total == 6
    assert bad == []
    assert splits["train"].images.shape == (6, 32, 32, 3)
    assert splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits["train"].images[4, 9, 9].tolist() == [200, 80, 10]


def test_ready_splits_under_their_names(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("ready")
    for name in ("train", "validation", "test"):
        shutil.copytree(folder, root / name)
    splits = gather(imagefolder.read, root, OWN)[1]
    assert {name: len(part) for name, part in splits.items()} == {"train": 6, "val": 6, "test": 6}


def test_pictures_of_every_mode_become_rgb_squares_and_stand_upright(tmp_path):
    Image.new("L", (50, 40), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (40, 50), (9, 8, 7, 128)).save(tmp_path / "alpha.png")
    Image.new("P", (64, 32), 3).save(tmp_path / "palette.gif")
    for path in tmp_path.iterdir():
        assert _pictures.decode(path, 32, "x").shape == (32, 32, 3)
    half = Image.new("RGB", (64, 64))
    half.paste((255, 255, 255), (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half.save(tmp_path / "turned.png", exif=exif)
    turned = _pictures.decode(tmp_path / "turned.png", 32, "x")
    assert turned[0].max() == 0
    assert turned[-1].min() == 255


def test_classes_of_too_few_pictures_are_named_all_at_once_with_the_shares_that_split_them(folder):
    paint(folder / "plum" / "0.png")
    paint(folder / "quince" / "0.png")
    with pytest.raises(DataError, match=r"in data/x/plum \(1\), data/x/quince \(1\): a class needs 2 or more"):
        imagefolder.read(folder, OWN, folder)
    for name in ("plum", "quince"):
        paint(folder / name / "1.png")
    imagefolder.read(folder, OWN, folder)
    both = settings("imagefolder", resolution=32, test_share=0.1)
    expected = r"needs 3 or more, .* val \(data\.val_share\) and test \(data\.test_share\), which"
    with pytest.raises(DataError, match=expected):
        imagefolder.read(folder, both, folder)


def test_a_ready_split_needs_one_picture_of_each_class(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("ready")
    for name in ("train", "val"):
        for label in ("apple", "pear"):
            paint(root / name / label / "0.png")
    imagefolder.read(root, OWN, root)
    (root / "val" / "pear" / "0.png").unlink()
    with pytest.raises(DataError, match=r"^no picture in data/x/val/pear \(0\); add some, or remove the class"):
        imagefolder.read(root, OWN, root)


def test_hidden_folders_and_macos_leftovers_are_no_classes_and_hold_no_pictures(folder):
    for name in ("__MACOSX", ".git", "apple/.ipynb_checkpoints", "pear/__MACOSX/deep"):
        paint(folder / name / "0.png")
    (folder / "apple" / "._0.png").write_bytes(b"resource fork")
    source, splits, bad = gather(imagefolder.read, folder, OWN)
    assert (source.classes, source.total, len(splits["train"]), bad) == (("apple", "pear"), 6, 6, [])
    left = "data/x/.git, data/x/__MACOSX, data/x/apple/.ipynb_checkpoints and 1 more"
    assert source.notes == (f"left out 4 hidden or __MACOSX folders: {left}",)


def test_nothing_left_out_is_no_note(folder):
    assert imagefolder.read(folder, OWN, folder).notes == ()


TRANSPARENT = [
    ("RGBA", (200, 100, 0, 128)),
    ("RGBA", (200, 100, 0, 0)),
    ("RGBA", (200, 100, 0, 255)),
    ("LA", (80, 64)),
    ("LA", (80, 0)),
]


@pytest.mark.parametrize(("mode", "colour"), TRANSPARENT, ids=str)
def test_what_is_transparent_is_laid_on_white(tmp_path, mode, colour):
    Image.new(mode, (40, 40), colour).save(tmp_path / "half.png")
    *shown, alpha = colour if mode == "RGBA" else (colour[0], colour[0], colour[0], colour[1])
    expected = [(c * alpha + 255 * (255 - alpha)) / 255 for c in shown]
    found = _pictures.decode(tmp_path / "half.png", 32, "x").reshape(-1, 3)
    assert np.abs(found - np.array(expected)).max() <= 1


def test_a_palette_with_transparency_is_laid_on_white(tmp_path):
    palette = Image.new("P", (40, 40), 0)
    palette.paste(1, (0, 0, 40, 20))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.save(tmp_path / "index.gif", transparency=1)
    palette.save(tmp_path / "shares.png", transparency=bytes([255, 51]))
    gif = _pictures.decode(tmp_path / "index.gif", 40, "x")
    png = _pictures.decode(tmp_path / "shares.png", 40, "x")
    for picture, upper in ((gif, [255, 255, 255]), (png, [244, 224, 204])):  # (200, 100, 0) at a fifth on white
        assert np.abs(picture[5, 5].astype(int) - upper).max() <= 1
        assert picture[35, 5].tolist() == [10, 20, 30]


def test_a_colour_that_stands_for_transparent_is_laid_on_white(tmp_path):
    picture = Image.new("RGB", (40, 40), (1, 2, 3))
    picture.paste((9, 8, 7), (0, 0, 40, 20))
    picture.save(tmp_path / "key.png", transparency=(1, 2, 3))
    found = _pictures.decode(tmp_path / "key.png", 40, "x")
    assert found[35, 5].tolist() == [255, 255, 255]
    assert found[5, 5].tolist() == [9, 8, 7]


def test_all_bad_pictures_are_named_in_one_run(folder, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("work")
    (folder / "apple" / "empty.jpg").write_bytes(b"")
    (folder / "pear" / "page.jpg").write_bytes(b"<html>not found</html>")
    whole = folder / "pear" / "whole.jpg"
    Image.effect_noise((60, 60), 90).save(whole)
    (folder / "pear" / "cut.jpg").write_bytes(whole.read_bytes()[:700])
    _, splits, bad = gather(imagefolder.read, folder, OWN)
    assert len(splits["train"]) == 7
    assert len(bad) == 3
    assert "data/x/apple/empty.jpg: empty file" in bad
    assert "data/x/pear/page.jpg: not a picture" in bad
    assert bad[1].startswith("data/x/pear/cut.jpg: image file is truncated")
    (tmp_path / "aside").mkdir()
    with pytest.raises(
        DataError, match=r"3 of 10 pictures cannot be used: data/x/apple/empty\.jpg: empty file; "
    ) as error:
        spool(imagefolder.read(folder, OWN, tmp_path), OWN, tmp_path / "aside")
    assert all(line in str(error.value) for line in bad)
    skip = settings("imagefolder", on_bad_image="skip", resolution=32)
    assert spool(imagefolder.read(folder, skip, tmp_path), skip, tmp_path / "aside").skipped == 3


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(_pictures, "MOST_PIXELS", 100)
    paint(tmp_path / "big.png")
    with pytest.raises(DataError, match="40x30 pixels are too many"):
        _pictures.decode(tmp_path / "big.png", 32, "x")


def test_broken_trees_are_named(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("ready")
    shutil.copytree(folder, root / "train")
    shutil.copytree(folder, root / "val")
    (root / "val" / "pear").rename(root / "val" / "paer")
    with pytest.raises(DataError, match="val lacks pear and has paer, unknown to train"):
        imagefolder.read(root, OWN, root)
    (root / "valid").mkdir()
    with pytest.raises(DataError, match="has both val and valid"):
        imagefolder.read(root, OWN, root)
    shutil.rmtree(root / "valid")
    (root / "stray").mkdir()
    with pytest.raises(DataError, match="has splits and also stray"):
        imagefolder.read(root, OWN, root)
    shutil.rmtree(root / "train")
    with pytest.raises(DataError, match="has val but no train"):
        imagefolder.read(root, OWN, root)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="has 0 class folders, at least 2"):
        imagefolder.read(empty, OWN, empty)


def test_a_link_that_leads_out_is_refused(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    paint(outside)
    (folder / "apple" / "link.png").symlink_to(outside)
    with pytest.raises(DataError, match=r"link\.png leads out of"):
        imagefolder.read(folder, OWN, folder)


def refused(path, message):
    with pytest.raises(DataError, match=message):
        _pictures.decode(path, 32, "x")


def test_sixteen_bit_pictures_are_refused_where_pillow_would_cut_them_off(tmp_path):
    Image.fromarray(np.full((40, 40), 1000, np.uint16)).save(tmp_path / "deep.png")
    refused(tmp_path / "deep.png", "more than 8 bits a channel; convert it to 8")
    Image.fromarray(np.full((40, 40), 0.5, np.float32)).save(tmp_path / "real.tif")
    refused(tmp_path / "real.tif", "more than 8 bits a channel")


def test_a_very_long_picture_is_cut_before_it_is_resized(tmp_path):
    """Its shorter side at 512 pixels would make the longer one a hundred million."""
    Image.new("RGB", (200_000, 1), (1, 2, 3)).save(tmp_path / "long.png")
    assert _pictures.decode(tmp_path / "long.png", 512, "x")[5, 5].tolist() == [1, 2, 3]
    stripe = Image.new("RGB", (1000, 20))
    stripe.paste((255, 255, 255), (480, 0, 520, 20))
    for picture, name in ((stripe, "wide.png"), (stripe.rotate(90, expand=True), "tall.png")):
        picture.save(tmp_path / name)
        assert _pictures.decode(tmp_path / name, 20, "x").min() == 255


def test_a_link_to_nothing_and_a_linked_folder_are_named_with_the_bad_pictures(folder):
    (folder / "apple" / "gone.png").symlink_to(folder / "apple" / "nothing.png")
    (folder / "apple" / "more").symlink_to(folder / "pear")
    (folder / "apple" / "loop.png").symlink_to(folder / "apple" / "loop.png")
    _, splits, bad = gather(imagefolder.read, folder, OWN)
    assert len(splits["train"]) == 6
    assert bad == [
        "data/x/apple/gone.png: No such file or directory",
        "data/x/apple/loop.png: Too many levels of symbolic links",
        "data/x/apple/more: Is a directory that is linked; copy it instead",
    ]


def test_what_is_no_plain_file_is_never_opened(folder):
    """Opening a pipe would wait for ever."""
    os.mkfifo(folder / "apple" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(folder / "pear" / "socket.png"))
        bad = gather(imagefolder.read, folder, OWN)[2]
    why = "not a file but a pipe, socket or device"
    assert bad == [f"data/x/apple/pipe.png: {why}", f"data/x/pear/socket.png: {why}"]


def test_names_that_are_not_utf8_are_named(folder):
    shutil.copy(folder / "apple" / "0.png", os.fsencode(folder / "apple") + b"/caf\xe9.png")
    assert gather(imagefolder.read, folder, OWN)[2] == ["data/x/apple/caf\\udce9.png: the name is not UTF-8; rename it"]
    (folder / os.fsdecode(b"\xff")).mkdir()
    with pytest.raises(DataError, match=r"data/x/\\udcff: a folder's name that is not plain UTF-8"):
        imagefolder.read(folder, OWN, folder)


def test_folders_that_cannot_be_read_are_named(folder, monkeypatch):
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("pear"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(_tree.os, "scandir", refused)
    with pytest.raises(DataError, match=r"data/x/pear cannot be read \(Permission denied\)"):
        imagefolder.read(folder, OWN, folder)


def test_warnings_of_pillow_do_not_reach_the_user(folder, recwarn):
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette(bytes(range(256)) * 3)
    palette.save(folder / "apple" / "transparent.png", transparency=bytes(range(256)))
    gather(imagefolder.read, folder, OWN)
    assert not recwarn.list


def test_documents_are_no_pictures(tmp_path):
    """Pillow would start Ghostscript for this one."""
    Image.new("RGB", (40, 40)).save(tmp_path / "drawing.eps")
    refused(tmp_path / "drawing.eps", "x: not a picture")


def test_pictures_beside_the_class_folders_are_not_left_out_silently(folder):
    paint(folder / "stray.JPEG")
    (folder / "LICENSE").write_text("no picture")
    with pytest.raises(DataError, match=r"holds 1 pictures beside its class folders, the first is stray\.JPEG"):
        imagefolder.read(folder, OWN, folder)
