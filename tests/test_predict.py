"""The course's table of predictions, and any pictures."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path

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
    assert main(["predict", model, "--course", str(tmp_path / "out.csv")]) == 0
    found = rows(tmp_path / "out.csv")
    assert [row["Id"] for row in found] == ["0", "7", "14", "21"]
    assert list(found[0]) == ["Id", "label"]
    assert all(0 <= int(row["label"]) <= 10 for row in found)
    assert f"wrote 4 predictions of {model}" in capsys.readouterr().out


def test_pictures_folders_archives_and_the_data_give_the_same(here, tmp_path, capsys):
    shutil.copytree(here / "data/food/testing", tmp_path / "pictures/deep")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "pictures")
    one_by_one = [str(path) for path in (tmp_path / "pictures/deep").iterdir()]
    tables = []
    for number, places in enumerate([[], [str(tmp_path / "pictures")], [packed], one_by_one]):
        file = tmp_path / f"{number}.csv"
        assert main(["predict", "train/teacher", *places, "--course", str(file)]) == 0
        tables.append(rows(file))
    assert tables == 4 * tables[:1]
    numbers = {row["Id"]: int(row["label"]) for row in tables[0]}
    capsys.readouterr()
    assert main(["predict", "train/teacher", str(tmp_path / "pictures"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for row in told:
        assert row["classes"][0]["class"] == CLASSES[numbers[Path(row["picture"]).stem]]
    assert len(told) == len(numbers)


def test_the_likeliest_classes_come_first_in_every_form(here, tmp_path, capsys):
    model = str(here / "models/train/teacher")
    picture = str(next((here / "data/food/testing").iterdir()))
    assert main(["predict", model, picture, "--json", "--top", "11"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    shares = [found["probability"] for found in told["classes"]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=1e-4)
    assert {found["class"] for found in told["classes"]} == {*CLASSES}
    assert main(["predict", model, picture, "--top", "2", "--csv", str(tmp_path / "out.csv")]) == 0
    (row,) = rows(tmp_path / "out.csv")
    assert [*row] == ["picture", "class_1", "probability_1", "class_2", "probability_2"]
    best = told["classes"][:2]
    assert [row["class_1"], row["class_2"]] == [found["class"] for found in best]
    capsys.readouterr()
    assert main(["predict", f"{model}/seed_0", picture]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith(f"{picture}  {best[0]['class']} {best[0]['probability']:.1%}  {best[1]['class']} ")


def test_a_file_is_overwritten_only_with_force(here, tmp_path, capsys):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    assert main(["predict", "train/teacher", "--course", str(out)]) == 1
    assert "exists; name another file, or add --force" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["predict", "train/teacher", "--course", str(out), "--force"]) == 0
    assert len(rows(out)) == 4


def test_of_pictures_that_cannot_be_used_the_others_are_done(here, tmp_path, capsys):
    paint(tmp_path / "pictures/1.png")
    paint(tmp_path / "pictures/3.png")
    (tmp_path / "pictures/2.png").write_text("<html>")
    assert main(["predict", "train/teacher", str(tmp_path / "pictures"), "--csv", str(tmp_path / "out.csv")]) == 1
    error = capsys.readouterr().err
    assert "1 of 3 pictures cannot be used" in error and "pictures/2.png" in error and "The others are done" in error
    assert [Path(row["picture"]).name for row in rows(tmp_path / "out.csv")] == ["1.png", "3.png"]


def test_of_places_without_pictures_the_others_are_done(here, tmp_path, capsys):
    paint(tmp_path / "1.png")
    (tmp_path / "empty").mkdir()
    named = [str(tmp_path / name) for name in ("gone", "1.png", "empty")]
    assert main(["predict", "train/teacher", *named]) == 1
    told = capsys.readouterr()
    assert told.out.startswith(f"{tmp_path}/1.png  ") and len(told.out.splitlines()) == 1
    assert f"2 of 3 pictures cannot be used: {named[0]} does not exist; name " in told.err
    assert f"{named[2]} holds no picture (.jpg, " in told.err and "The others are done" in told.err


def test_mistakes_are_one_line(here, tmp_path, capsys):
    paint(tmp_path / "twice/a/1.png")
    paint(tmp_path / "twice/b/1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.txt").write_text("no picture")
    for model, place, words in [
        ("train/techer", "twice", "no model 'train/techer', did you mean 'train/teacher'?"),
        ("train/teacher", "gone", "gone does not exist"),
        ("train/teacher", "empty", "empty holds no picture"),
        ("train/teacher", "words.txt", "words.txt"),
        ("train/teacher", "twice", "two pictures have the name 1"),
    ]:
        assert main(["predict", model, str(tmp_path / place), "--course", str(tmp_path / "out.csv")]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert "Traceback" not in error
        assert not (tmp_path / "out.csv").exists()
    assert main(["predict", "train/teacher"]) == 1
    assert "name a picture, a folder or an archive" in capsys.readouterr().err


def test_a_source_without_unlabelled_pictures_says_so(server, tmp_path, monkeypatch, capsys):
    made = food_project(tmp_path / "project", layout=partial(course, unlabelled=0))
    for stage, args in [("prepare", []), ("train", ["teacher"])]:
        server.finish(made, stage, *args)
    assert not (made / "data/prepared/unlabelled.csv").exists()
    monkeypatch.chdir(made)
    assert main(["predict", "train/teacher", "--course", str(tmp_path / "out.csv")]) == 1
    assert "food11 has no images without labels; name pictures" in capsys.readouterr().err
