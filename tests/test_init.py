"""`netpress init`: what it finds in a folder of pictures, what it proposes, and what it writes."""

import shutil
from pathlib import Path

import pytest
from little import make_project
from PIL import Image
from source_samples import paint

from netpress.__main__ import main
from netpress.execute import budget
from netpress.ingest.survey import survey
from netpress.params.reader import load

ROOT = Path(__file__).parent.parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = make_project(tmp_path / "project")
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copy(folder / "profiles/default.yaml", folder / "params.yaml")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(budget, "macs_a_second", lambda: 2e9)
    return folder


def photo(path, label, number, size=(90, 70)):
    """One of many that all differ, a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (40 * label % 256, number % 256, 7 * number % 256)).save(path, "JPEG")


def folder_of(place, count, classes=("apple", "pear"), size=(90, 70)):
    for label, name in enumerate(classes):
        for number in range(count):
            photo(place / name / f"{number:04}.jpg", label, number, size)
    return place


def test_what_is_found_is_told_and_what_is_proposed_is_written(here, capsys):
    folder_of(here / "data/pictures", 40)
    (here / "data/pictures/apple/0000.jpg").write_text("<html>")
    shutil.copy(here / "data/pictures/apple/0001.jpg", here / "data/pictures/apple/again.jpg")
    shutil.copy(here / "data/pictures/apple/0002.jpg", here / "data/pictures/pear/same.jpg")
    assert main(["init", "data/pictures"]) == 0
    told = capsys.readouterr().out
    for words in (
        "data/pictures (train): 81 pictures, 2 classes",
        "apple 40, pear 41",
        "shorter side: 70 to 70 pixels",
        "1 cannot be used and will be skipped:",
        "data/pictures/apple/0000.jpg: not a picture",
        "2 pictures are there more than once:",
        "data/pictures/apple/0001.jpg = data/pictures/apple/again.jpg",
        "1 of these in more than one class",
        "proposed: 64x64 pixels; 20 % for val;",
        " models in about",
        "wrote params.yaml",
    ):
        assert words in told, told
    data = load(here / "params.yaml").data
    assert (data.source, data.root, data.resolution) == ("imagefolder", "data/pictures", 64)
    assert (data.val_share, data.test_share, data.on_bad_image) == (0.2, 0.0, "skip")
    assert "# pixels, 16 to 512" in (here / "params.yaml").read_text(encoding="utf-8")


def test_less_time_means_fewer_pixels_then_fewer_epochs_and_what_is_too_little_is_said(here, capsys):
    folder_of(here / "data/pictures", 20)
    found = []
    for minutes in ("600", "30", "5", "1"):
        assert main(["init", "data/pictures", "--minutes", minutes, "--force"]) == 0
        params = load(here / "params.yaml")
        found.append((params.data.resolution, params.recipes["quick"].min_steps))
    assert found == sorted(found, reverse=True) and len({*found}) > 2
    assert "more than the 1 minutes asked for" in capsys.readouterr().out
    assert main(["init", "data/pictures", "--resolution", "100", "--force"]) == 0
    assert load(here / "params.yaml").data.resolution == 100


def test_ready_splits_are_kept_and_many_pictures_are_tested_on(here, capsys):
    for split in ("train", "valid", "test"):
        folder_of(here / f"data/ready/{split}", 3)
    assert main(["init", "data/ready"]) == 0
    assert "the splits that are there" in capsys.readouterr().out
    data = load(here / "params.yaml").data
    assert (data.val_share, data.test_share) == (0.2, 0.0), "the first is not used beside a folder of its own"
    folder_of(here / "data/many", 150, size=(24, 24))
    assert main(["init", "data/many", "--force"]) == 0
    data = load(here / "params.yaml").data
    assert (data.resolution, data.val_share, data.test_share) == (32, 0.2, 0.1)


def test_a_folder_outside_the_project_is_named_by_its_whole_path(here, tmp_path):
    folder_of(tmp_path / "elsewhere", 4)
    assert main(["init", str(tmp_path / "elsewhere")]) == 0
    assert load(here / "params.yaml").data.root == str(tmp_path / "elsewhere")


def test_nothing_is_written_where_nothing_is_asked_or_something_is_wrong(here, capsys):
    before = (here / "params.yaml").read_text()
    folder_of(here / "data/pictures", 4)
    assert main(["init", "data/pictures", "--dry-run"]) == 0
    assert "wrote" not in capsys.readouterr().out
    paint(here / "data/one/apple/1.png")
    (here / "data/bad/a").mkdir(parents=True)
    (here / "data/bad/b").mkdir()
    (here / "data/bad/a/1.jpg").write_text("x")
    folder_of(here / "data/few", 1)
    for place, words in [
        ("data/gone", "data/gone is no folder"),
        ("data/one", "data/one has 1 class folders, at least 2 are needed"),
        ("data/bad", "data/bad holds no picture that can be used (.jpg, "),
        ("data/few", "too few pictures to split in apple (1), pear (1): a class needs 2 or more"),
    ]:
        assert main(["init", place]) == 1
        assert words in capsys.readouterr().err
    assert (here / "params.yaml").read_text() == before
    (here / "params.yaml").write_text(before.replace("resolution: 28", "resolution: 32"))
    assert main(["init", "data/pictures"]) == 1
    assert "add --force to overwrite it" in capsys.readouterr().err


def test_odd_pictures_are_looked_at_as_prepare_takes_them(tmp_path):
    odd = tmp_path / "odd"
    folder_of(odd, 2)
    Image.new("CMYK", (50, 40)).save(odd / "apple/cmyk.jpg")
    Image.new("RGBA", (50, 30), (1, 2, 3, 4)).save(odd / "apple/alpha.png")
    Image.new("P", (20, 60)).save(odd / "pear/moving.gif")
    Image.new("I;16", (20, 60)).save(odd / "pear/deep.png")
    (odd / "pear/cut.jpg").write_bytes((odd / "pear/0000.jpg").read_bytes()[:200])
    steps = []
    seen = survey(odd, "odd", lambda done, total: steps.append((done, total)))
    assert steps[-1] == (9, 9)
    assert {Path(picture.shown).name for picture in seen.bad} == {"deep.png", "cut.jpg"}
    assert {Path(p.shown).name: p.side for p in seen.good} == {
        "0000.jpg": 70,
        "0001.jpg": 70,
        "cmyk.jpg": 40,
        "alpha.png": 30,
        "moving.gif": 20,
    }


def test_a_machines_speed_is_measured_and_more_cores_take_less_time():
    speed = budget.macs_a_second(least=0.05)
    assert 1e7 < speed < 1e13
    params = load(ROOT / "profiles/default.yaml")
    one, two = (budget.seconds(params, 10, 8000, 2e9, cores) for cores in (1, 2))
    assert one == pytest.approx(2 * two)
    assert budget.seconds(params, 10, 16000, 2e9, 1) > 1.5 * one
