"""The course's table of predictions, and any pictures."""

import csv
import shutil
from functools import partial

import pytest
from source_samples import paint
from test_food11 import course
from test_food11 import project as food_project

from netpress.__main__ import main
from netpress.ingest.sources.food11 import CLASSES


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    """A little Food-11 project with one trained and one quantized network."""
    made = food_project(tmp_path_factory.mktemp("predict") / "project")
    for stage, args in [("prepare", []), ("train", ["teacher"]), ("prune", ["main"]), ("quantize", ["int8"])]:
        server.finish(made, stage, *args)
    return made


@pytest.fixture
def here(trained, monkeypatch):
    monkeypatch.chdir(trained / "data")
    return trained


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("model", ["train/teacher", "prune/main/round_1", "quantize/int8"])
def test_the_courses_table_names_every_unlabelled_picture(here, tmp_path, model, capsys):
    assert main(["predict", model, str(tmp_path / "out.csv")]) == 0
    found = rows(tmp_path / "out.csv")
    assert [row["Id"] for row in found] == ["0", "7", "14", "21"]
    assert list(found[0]) == ["Id", "label"]
    assert all(0 <= int(row["label"]) <= 10 for row in found)
    assert f"wrote 4 predictions of {model}" in capsys.readouterr().out


def test_any_pictures_and_the_names_of_classes(here, tmp_path):
    shutil.copytree(here / "data/food/testing", tmp_path / "pictures/deep")
    for flags, file in [([], "a.csv"), (["--images", str(tmp_path / "pictures")], "b.csv"), (["--names"], "c.csv")]:
        assert main(["predict", "train/teacher", str(tmp_path / file), *flags]) == 0
    assert rows(tmp_path / "a.csv") == rows(tmp_path / "b.csv")
    numbers = [int(row["label"]) for row in rows(tmp_path / "a.csv")]
    assert [row["label"] for row in rows(tmp_path / "c.csv")] == [CLASSES[number] for number in numbers]


def test_a_file_is_overwritten_only_with_force(here, tmp_path, capsys):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    assert main(["predict", "train/teacher", str(out)]) == 1
    assert "exists; name another file, or add --force" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["predict", "train/teacher", str(out), "--force"]) == 0
    assert len(rows(out)) == 4


def test_mistakes_are_one_line(here, tmp_path, capsys):
    paint(tmp_path / "twice/a/1.png")
    paint(tmp_path / "twice/b/1.png")
    paint(tmp_path / "bad/1.png")
    (tmp_path / "bad/2.png").write_text("<html>")
    (tmp_path / "empty").mkdir()
    for model, place, words in [
        ("train/techer", None, "models/train/techer"),
        ("train/teacher", "gone", "gone does not exist"),
        ("train/teacher", "empty", "empty holds no picture"),
        ("train/teacher", "twice", "two pictures have the name 1"),
        ("train/teacher", "bad", "1 of 2 pictures cannot be used:"),
    ]:
        flags = ["--images", str(tmp_path / place)] if place else []
        assert main(["predict", model, str(tmp_path / "out.csv"), *flags]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert "Traceback" not in error
        assert not (tmp_path / "out.csv").exists()


def test_a_source_without_unlabelled_pictures_says_so(server, tmp_path, monkeypatch, capsys):
    made = food_project(tmp_path / "project", layout=partial(course, unlabelled=0))
    for stage, args in [("prepare", []), ("train", ["teacher"])]:
        server.finish(made, stage, *args)
    assert not (made / "data/prepared/unlabelled.csv").exists()
    monkeypatch.chdir(made)
    assert main(["predict", "train/teacher", str(tmp_path / "out.csv")]) == 1
    assert "food11 has no images without labels; name pictures with --images" in capsys.readouterr().err
