"""The record of environments, and the note that tables carry when they mix them."""

import re
from pathlib import Path

import pytest
from report_samples import sample_params, write_metrics

from netpress.base.errors import ArtifactError
from netpress.process import environment
from netpress.process.environment import Records
from netpress.report.collect import collect
from netpress.report.environments import FILE, note, write_note
from netpress.report.write import write_report

ONE, OTHER = {"cpu": "A", "torch": "2.15.0"}, {"cpu": "B", "torch": "2.15.0"}


def recorded(root, results):
    """Record `results`, result -> (sha256, environment)."""
    for result, (sha256, where) in results.items():
        environment.record(root, result, sha256, where)


def test_a_record_counts_for_its_content_alone(tmp_path):
    environment.record(tmp_path, "train/x", "1" * 64, ONE)
    records = environment.load(tmp_path)
    name = records.of("train/x", "1" * 64)
    assert records.environments[name] == ONE
    assert records.of("train/x", "2" * 64) is None
    assert records.of("train/y", "1" * 64) is None


def test_equal_environments_are_stored_once_and_unused_ones_go(tmp_path):
    recorded(tmp_path, {"a": ("1", ONE), "b": ("2", dict(reversed(ONE.items()))), "c": ("3", OTHER)})
    assert len(environment.load(tmp_path).environments) == 2
    environment.forget_others(tmp_path, {"a", "b"})
    records = environment.load(tmp_path)
    assert list(records.environments.values()) == [ONE]
    assert set(records.results) == {"a", "b"}


def test_the_same_record_gives_the_same_bytes(tmp_path):
    texts = []
    for name, order in [("x", ["a", "b"]), ("y", ["b", "a"])]:
        for result in order:
            environment.record(tmp_path / name, result, "1", ONE)
        texts.append((tmp_path / name / environment.FILE).read_bytes())
    assert texts[0] == texts[1]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"results": 3}', '{"other": {}}'])
def test_a_damaged_record_names_file_and_remedy(tmp_path, text):
    (tmp_path / "metrics").mkdir()
    (tmp_path / environment.FILE).write_text(text)
    with pytest.raises(ArtifactError, match=r"environments\.json .*restore it from Git"):
        environment.load(tmp_path)


def test_current_describes_versions_and_flags_and_no_host(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HOME_OF_NOBODY", "x")
    found = environment.current(device="cpu", threads=2)
    assert found["OMP_NUM_THREADS"] == "3"
    assert (found["device"], found["threads"]) == ("cpu", "2")
    assert re.match(r"\d+\.\d+", found["torch"])
    assert "HOME_OF_NOBODY" not in found
    assert str(Path.cwd()) not in "".join(found.values())
    assert found == environment.current(threads=2, device="cpu")


def test_differences_name_both_values():
    assert environment.differences(ONE, OTHER) == {"cpu": ("A", "B")}
    assert environment.differences(ONE, {"cpu": "A"}) == {"torch": ("2.15.0", "-")}
    assert environment.differences(ONE, dict(ONE)) == {}


@pytest.fixture
def study(tmp_path):
    params = sample_params()
    write_metrics(tmp_path, params)
    return collect(tmp_path, params.items(), params.final)


def everywhere(study, where):
    return {m.id: (m.measured.weights_sha256, where) for m in study.models}


def test_one_environment_or_none_says_nothing(tmp_path, study):
    assert note(study, Records()) == ""
    recorded(tmp_path, everywhere(study, ONE))
    assert write_note(tmp_path, study) == ""
    assert not (tmp_path / FILE).exists()


def test_two_environments_are_told_apart_beside_the_tables_and_not_in_them(tmp_path, study):
    write_report(tmp_path, study)
    before = {path: path.read_bytes() for path in (tmp_path / "metrics").rglob("*.*")}
    large = study.by_id["train/large_cnn"].measured.weights_sha256
    recorded(tmp_path, everywhere(study, ONE) | {"train/large_cnn": (large, OTHER)})
    write_report(tmp_path, study)
    assert {path: path.read_bytes() for path in before} == before
    text = write_note(tmp_path, study)
    assert (tmp_path / FILE).read_text(encoding="utf-8") == text
    assert text.splitlines()[1:] == [f"- {len(study.models) - 1} models: `cpu: A`", "- 1 model: `cpu: B`"]
    recorded(tmp_path, everywhere(study, ONE))
    write_note(tmp_path, study)
    assert not (tmp_path / FILE).exists()


def test_models_whose_record_is_of_other_weights_count_as_not_recorded(tmp_path, study):
    recorded(tmp_path, everywhere(study, ONE) | {"train/large_cnn": ("0" * 64, ONE)})
    lines = note(study, environment.load(tmp_path)).splitlines()
    assert lines[1:] == [f"- {len(study.models) - 1} models: in one environment", "- 1 model: not recorded"]
