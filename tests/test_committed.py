"""What is committed agrees with itself: metrics, their lineage, and the tables made from them."""

import json
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from netpress.params import reader
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


@pytest.fixture(scope="module")
def data():
    return json.loads((ROOT / "metrics/data.json").read_text(encoding="utf-8"))


def rows_of(study):
    """Every model and every pruning round: (name, figures)."""
    for model in study.models:
        yield model.id, model.measured
        yield from ((f"{model.id} round {row.round}", row) for row in study.rounds(model.id))


def test_accuracies_are_counts_of_images(study, data):
    """By seed, by class and on test: so many of so many."""
    for name, row in rows_of(study):
        for accuracy in row.val_acc_by_seed:
            right = accuracy * data["val_images"]
            assert right == pytest.approx(round(right), abs=1e-6), name
        assert row.val_acc == pytest.approx(statistics.fmean(row.val_acc_by_seed)), name
    for model in study.models:
        if model.test is not None and model.test.test_acc is not None and model.measured.n_seeds == 1:
            right = model.test.test_acc * model.test.n_images
            assert right == pytest.approx(round(right), abs=1e-6), model.id


def test_every_network_has_learned(study, data):
    """Five deviations of a guess above chance, which holds on any processor for whatever has learned at all."""
    chance = 1 / data["classes"]
    bound = chance + 5 * (chance * (1 - chance) / data["val_images"]) ** 0.5
    for model in study.models:
        assert model.measured.val_acc > bound, model.id


def test_student_and_teacher_agree_as_far_as_their_accuracies_say(study):
    """Where both are right they agree; where one alone is right they do not."""
    pupils = [model for model in study.models if model.stage == "distill"]
    assert pupils
    for model in pupils:
        student, teacher = model.measured.val_acc, study.measured(model.parent).val_acc
        assert student + teacher - 1 - 1e-9 <= model.measured.teacher_agreement <= 1 - abs(student - teacher) + 1e-9


def test_models_follow_from_their_parents(study, data):
    """The lineage of every figure; `collect` has compared the hashes."""
    for model in study.models:
        measured, rounds = model.measured, study.rounds(model.id)
        parent = study.measured(model.parent) if model.parent else None
        if model.stage == "quantize":
            assert (measured.params, measured.macs) == (parent.params, parent.macs), model.id
            assert measured.onnx_bytes < parent.onnx_bytes, model.id
        if rounds:
            assert rounds[0].weights_sha256 == parent.weights_sha256
            # Equal weights differ where two logits tie but for rounding, on another processor: a few images.
            by_seed = dict(zip(parent.seeds, parent.val_acc_by_seed, strict=True))
            expected = statistics.fmean(by_seed[seed] for seed in measured.seeds)
            assert rounds[0].val_acc == pytest.approx(expected, abs=5 / data["val_images"])
            last = rounds[-1]
            assert (last.weights_sha256, last.val_acc) == (measured.weights_sha256, measured.val_acc)
            assert [row.round for row in rounds] == list(range(len(rounds)))
            for before, after in pairwise(rounds):
                assert after.params < before.params and after.epochs_total > before.epochs_total
            assert rounds[-1].params < model.item.until * rounds[0].params <= rounds[-2].params
            assert rounds[-1].epochs_total == measured.epochs


def test_eight_bits_cost_no_more_than_chance_explains(study, data):
    """Two networks of one true accuracy differ by less than five deviations of a difference of two shares."""
    for model in study.models:
        if model.stage == "quantize" and model.item.method_options.get("bits", 8) == 8:
            accuracy = study.measured(model.parent).val_acc
            bound = 5 * (2 * accuracy * (1 - accuracy) / data["val_images"]) ** 0.5
            assert model.measured.val_acc == pytest.approx(accuracy, abs=bound), model.id


def test_the_readme_holds_no_place_left_to_fill():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert "@@" not in path.read_text(encoding="utf-8"), path
