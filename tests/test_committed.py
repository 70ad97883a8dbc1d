"""What is committed agrees with itself: metrics, their lineage, and the tables made from them."""

from pathlib import Path

import pytest

from netpress import reader
from netpress.report.collect import collect
from netpress.report.write import SUMMARY, make_report

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def study():
    params = reader.load(ROOT / "params.yaml")
    return collect(ROOT, params.items(), params.final, params.claims, params.experiments)


def test_the_committed_params_are_the_default_profile():
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "profiles/default.yaml").read_bytes()


def test_the_committed_tables_follow_from_the_committed_metrics(study):
    report = make_report(ROOT, study)
    for path, text in report.texts.items():
        assert (ROOT / path).read_text(encoding="utf-8") == text
    assert len([m for stage in report.numbers[SUMMARY].values() for m in stage]) >= 16


def test_the_numbers_make_sense(study):
    """On this run: teachers above their students, students above chance by far, int8 close to fp32."""
    accuracy = {model.id: model.measured.val_acc for model in study.models}
    for model in study.models:
        if model.stage == "distill" and "weak" not in model.id:
            assert accuracy[model.parent] >= accuracy[model.id] - 0.01
        if model.stage == "quantize" and model.method == "int8_static":
            assert abs(accuracy[model.parent] - accuracy[model.id]) <= 0.01
        if model.stage in ("train", "distill", "lowrank", "factorize"):
            assert accuracy[model.id] > 0.8


def test_the_readme_holds_no_place_left_to_fill():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert "@@" not in path.read_text(encoding="utf-8"), path
