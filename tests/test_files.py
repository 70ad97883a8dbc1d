"""Files are written whole or not at all, and never with NaN."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netpress.base import files
from netpress.base.errors import ArtifactError


def test_a_failed_write_keeps_the_old_file_and_leaves_no_stray(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_text(path, "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match=r"cannot write .*a\.json: No space left on device"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_is_a_file_is_an_error_in_one_line(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        files.write_text(tmp_path / "a" / "b.json", "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_nan(tmp_path, value):
    with pytest.raises(ArtifactError, match="NaN or infinite, so nothing was written"):
        files.write_json(tmp_path / "m.json", {"val_acc": value})
    assert not list(tmp_path.iterdir())


def test_json_is_sorted_utf8_with_unix_ends(tmp_path):
    files.write_json(tmp_path / "m.json", {"b": "é", "a": 0.1})
    assert (tmp_path / "m.json").read_bytes() == '{\n  "a": 0.1,\n  "b": "é"\n}\n'.encode()


def test_damaged_json_names_file_and_remedy(tmp_path):
    (tmp_path / "m.json").write_bytes(b"{")
    with pytest.raises(ArtifactError, match=r"m\.json cannot be read .*; do this"):
        files.read_json(tmp_path / "m.json", "do this")
    with pytest.raises(ArtifactError, match=r"n\.json is missing; do that"):
        files.read_json(tmp_path / "n.json", "do that")


def test_csv_keeps_every_digit(tmp_path):
    files.write_csv(tmp_path / "a.csv", [{"x": 0.1 + 0.2}, {"y": 2}], ["x", "y"])
    assert (tmp_path / "a.csv").read_bytes() == b"x,y\n0.30000000000000004,\n,2\n"
    with pytest.raises(ValueError, match="z"):
        files.write_csv(tmp_path / "a.csv", [{"z": 1}], ["x"])


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(NUMBERS | st.none() | st.booleans() | st.text(), st.lists, max_leaves=5)


@given(st.dictionaries(st.text(), VALUES))
@settings(suppress_health_check=list(HealthCheck))
def test_what_is_sealed_comes_back(tmp_path, value):
    value.pop("seal", None)
    try:
        files.write_sealed(tmp_path / "m.json", value)
    except UnicodeEncodeError:  # half of a surrogate pair is no text
        return
    assert files.read_sealed(tmp_path / "m.json", "do this") == value


def test_a_broken_seal_names_file_and_remedy(tmp_path):
    files.write_sealed(tmp_path / "m.json", {"val_acc": 0.5})
    text = (tmp_path / "m.json").read_text()
    others = [text.replace("0.5", "0.6"), text.replace(" ", ""), '{"val_acc": 0.5}', "[]", '{"seal": NaN, "a": NaN}']
    for other in others:
        (tmp_path / "m.json").write_text(other)
        with pytest.raises(ArtifactError, match=r"m\.json is not what was written \(its seal does not fit\); do this"):
            files.read_sealed(tmp_path / "m.json", "do this")


def test_a_folder_is_swapped_whole(tmp_path):
    files.write_text(tmp_path / "old/gone", "old")
    files.write_text(tmp_path / "made/sub/new", "new")
    with files.aside_folder(tmp_path / "old") as aside:
        (tmp_path / "made").rename(aside / "new")
        files.swap(aside / "new", tmp_path / "old", aside)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == ["old/sub/new"]
    files.copy_folder(tmp_path / "old", tmp_path / "copy")
    assert (tmp_path / "copy/sub/new").read_text() == "new"


def test_a_folder_that_was_moved_away_by_a_killed_run_comes_back(tmp_path):
    files.write_text(tmp_path / ".old.aside/old/kept", "old")
    with files.aside_folder(tmp_path / "old") as aside:
        assert not list(aside.iterdir())
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == ["old/kept"]
