"""Food-11 in its two layouts, as folders and archives, and what must be refused."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from little import make_project
from PIL import Image
from source_samples import gather, paint, settings

from netpress.base.errors import DataError
from netpress.base.files import sha256_file
from netpress.ingest.prepare import prepare
from netpress.ingest.sources import food11

FOOD = settings("food11", resolution=32)
SPLITS = {"training": 3, "validation": 2}


def colour(split, label, number):
    return (20 * label + 5, 60 * number + 7, 90 if split == "training" else 180 if split == "validation" else 250)


def course(root, unlabelled=4):
    """The course's layout: numbers from 0 to 10 and beyond, so that text order is not their order."""
    for split, count in SPLITS.items():
        for label in range(11):
            for number in range(count):
                paint(root / split / f"{label}_{9 + number}.png", (48, 40), colour(split, label, number))
    for number in range(unlabelled):
        paint(root / "testing" / f"{number * 7}.png", (40, 48), (number, 3, 200))
    return root


def class_folders(root, test=True):
    for split, count in {**SPLITS, **({"evaluation": 1} if test else {})}.items():
        for label, name in enumerate(food11.CLASSES):
            for number in range(count):
                paint(root / split / name / f"{9 + number}.png", (48, 40), colour(split, label, number))
    return root


def packed(folder, kind):
    return shutil.make_archive(str(folder.parent / "packed"), kind, folder.parent, folder.name)


def test_labels_are_the_official_ones_in_both_layouts(tmp_path):
    one, numbered, _ = gather(food11.read, course(tmp_path / "course"), FOOD)
    two, named, _ = gather(food11.read, class_folders(tmp_path / "named"), FOOD)
    assert one.classes == two.classes == food11.CLASSES
    assert (one.classes[0], one.classes[6], one.classes[10]) == ("Bread", "Noodles-Pasta", "Vegetable-Fruit")
    for split in ("train", "val"):
        assert np.array_equal(numbered[split].images, named[split].images)
        assert np.array_equal(numbered[split].labels, named[split].labels)
        assert (numbered[split].images[:, 9, 9, 0] == 20 * numbered[split].labels + 5).all()
    assert "test" not in numbered
    assert named["test"].labels.tolist() == list(range(11))


@pytest.mark.parametrize(("layout", "kind"), [(course, "zip"), (class_folders, "gztar")])
def test_archives_give_what_the_folder_gives(tmp_path, layout, kind):
    folder = layout(tmp_path / "food-11")
    _, expected, _ = gather(food11.read, folder, FOOD)
    _, found, _ = gather(food11.read, Path(packed(folder, kind)), FOOD, tmp_path / "aside")
    for split, whole in expected.items():
        assert np.array_equal(found[split].images, whole.images)


@pytest.mark.parametrize("above", ["food-11", "data/food-11"])
def test_a_folder_or_two_above_the_splits_are_gone_down_into(tmp_path, above):
    course(tmp_path / above)
    assert gather(food11.read, tmp_path, FOOD)[0].total == 11 * 5 + 4


def test_names_of_classes_are_read_as_copies_write_them(tmp_path):
    folder = class_folders(tmp_path, test=False)
    for split in SPLITS:
        (folder / split / "Dairy product").rename(folder / split / "dairy_product")
        (folder / split / "Noodles-Pasta").rename(folder / split / "Noodles Pasta")
        (folder / split / "Soup").rename(folder / split / "9")
    (folder / "training" / "README.txt").write_text("as published")
    (folder / "training" / ".DS_Store").write_text("")
    splits = gather(food11.read, folder, FOOD)[1]
    assert (splits["train"].images[:, 9, 9, 0] == 20 * splits["train"].labels + 5).all()


def project(folder, layout=course, **data):
    made = make_project(folder, data=settings("food11", "data/food", resolution=32, **data).model_dump())
    layout(made / "data/food")
    return made


def test_prepare_keeps_unlabelled_pictures_and_says_what_differs_from_the_published_set(server, tmp_path):
    made = project(tmp_path / "project")
    done = server.run(made, "prepare")
    assert done["code"] == 0, done["output"]
    assert "not the published Food-11: train 33 (published: 9,866), val 22 (published: 3,430)" in done["output"]
    manifest = json.loads((made / "data/prepared/manifest.json").read_text())
    assert manifest["unlabelled"] == 4
    assert set(manifest["counts"]) == {"train", "val"}
    images = np.load(made / "data/prepared/unlabelled_images.npy")
    assert images[:, 9, 9].tolist() == [[number, 3, 200] for number in range(4)]
    ids = (made / "data/prepared/unlabelled.csv").read_text()
    assert ids == "Id\n0\n7\n14\n21\n"
    assert manifest["sha256"]["unlabelled.csv"] == sha256_file(made / "data/prepared/unlabelled.csv")
    metrics = json.loads((made / "metrics/data.json").read_text())
    assert metrics["unlabelled"] == 4
    assert metrics["class_names"] == list(food11.CLASSES)


@pytest.mark.parametrize("resolution", [32, 224])
def test_pictures_of_any_shape_become_squares_about_their_centre(tmp_path, resolution):
    folder = course(tmp_path / "food")
    wide = Image.new("RGB", (300, 100), (255, 0, 0))
    wide.paste((0, 0, 255), (100, 0, 200, 100))
    wide.save(folder / "training" / "0_9.png")
    _, splits, _ = gather(food11.read, folder, settings("food11", resolution=resolution))
    images = splits["train"].images
    assert images.shape[1:] == (resolution, resolution, 3)
    assert images[0, resolution // 2, 3].tolist() == [0, 0, 255]


def html(folder):
    for name in ("3_9.png", "5_9.png"):
        (folder / "training" / name).write_text("<html>not found</html>")


def without_class(folder):
    for path in (folder / "validation").glob("4_*"):
        path.unlink()


def label_eleven(folder):
    paint(folder / "training" / "11_3.png")


def odd_name(folder):
    paint(folder / "training" / "bread.png")


def odd_file(folder):
    (folder / "training" / "0_1.raw").write_bytes(b"x")


def no_training(folder):
    (folder / "training").rename(folder / "train")


def no_validation(folder):
    shutil.rmtree(folder / "validation")


def two_tests(folder):
    paint(folder / "evaluation" / "0_1.png")


def mixed(folder):
    paint(folder / "training" / "Bread" / "1.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            html,
            "2 of 59 pictures cannot be used: data/food/training/3_9.png: not a picture; data/food/training/5_9.png",
        ),
        (without_class, "data/food/validation lacks the class 4 (Fried food); each split needs all eleven"),
        (label_eleven, "data/food/training/11_3.png: label 11, allowed are 0 to 10"),
        (odd_name, "data/food/training/bread.png: the name says no label; expected <label>_<number>.jpg"),
        (odd_file, "data/food/training/0_1.raw: no picture by its name"),
        (no_training, "data/food has no folder training; Food-11 is laid out as training/0_12.jpg or"),
        (no_validation, "data/food has training but no validation"),
        (two_tests, "data/food has both testing and evaluation; keep one of them"),
        (mixed, "data/food/training has class folders and also 0_10.png; keep one of the two layouts"),
    ],
)
def test_what_cannot_be_used_is_one_clear_error_and_leaves_nothing(server, tmp_path, spoil, words):
    made = project(tmp_path / "project")
    spoil(made / "data/food")
    refused(server, made, words)


def refused(server, made, words):
    before = files_of(made)
    done = server.run(made, "prepare")
    assert done["code"] == 1
    (line,) = [line for line in done["output"].splitlines() if line.startswith("error:")]
    assert words in line
    assert "Traceback" not in done["output"]
    assert not (made / "data/prepared").exists()
    assert files_of(made) == before


def files_of(made):
    """Every file but the locks."""
    return sorted(path for path in made.rglob("*") if path.is_file() and ".netpress" not in path.parts)


@pytest.mark.parametrize(("kind", "fault"), [("zip", "truncated"), ("gztar", "names that lead out")])
def test_archives_that_are_not_safe_or_not_whole_leave_nothing(server, tmp_path, kind, fault):
    made = project(tmp_path / "project")
    archive = packed(course(tmp_path / "food-11"), kind)
    if fault == "truncated":
        with Path(archive).open("r+b") as stream:
            stream.truncate(stream.seek(0, 2) // 2)
    else:
        with tarfile.open(archive, "w:gz") as target:
            target.add(made / "params.yaml", "food-11/../../out.png")
    shutil.rmtree(made / "data/food")
    shutil.move(archive, made / "data/food")
    refused(
        server,
        made,
        "data/food is not a whole zip or tar archive"
        if fault == "truncated"
        else "a name that leads out of the archive",
    )
    assert not (tmp_path / "out.png").exists()


def test_bad_unlabelled_pictures_are_left_out_where_that_is_asked_for(tmp_path):
    folder = course(tmp_path / "food")
    (folder / "testing" / "7.png").write_text("<html>")
    data = settings("food11", "food", resolution=32, on_bad_image="skip")
    manifest = prepare(tmp_path, data, tmp_path / "prepared")
    assert (manifest.unlabelled, manifest.skipped) == (3, 1)
    assert (tmp_path / "prepared/unlabelled.csv").read_text() == "Id\n0\n14\n21\n"
    with pytest.raises(DataError, match=r"1 of 59 pictures cannot be used: food/testing/7.png: not a picture"):
        prepare(tmp_path, data.model_copy(update={"on_bad_image": "error"}), tmp_path / "prepared")
