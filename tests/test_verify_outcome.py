"""Verdicts on made-up locks and metrics, the time left, and environments compared."""

import hashlib
import json

import pytest

from netpress.verify.dvc_lock import Entry
from netpress.verify.equivalence import MARGIN
from netpress.verify.outcome import (
    Output,
    StageOutcome,
    Verdict,
    compare_metrics,
    first_diverged,
    judge,
    worst,
)
from netpress.verify.surroundings import compare, result_of

EXACT, CLOSE, OPEN, DRIFTED = Verdict
METRICS = {
    "arch": "plain_cnn",
    "method": None,
    "parent": None,
    "params": 17610,
    "macs": 193_900,
    "epochs": 8,
    "n_seeds": 1,
    "seeds": [0],
    "val_acc": 0.86,
    "val_images": 40_000,
    "weights_sha256": "a" * 64,
}


def md5(data):
    return hashlib.md5(data).hexdigest()


def entry(**outs):
    return Entry("cmd", {}, {}, {name.replace("__", "/"): value for name, value in outs.items()})


def verdict_of(made, committed=METRICS, margin=MARGIN):
    return compare_metrics(committed, made, margin)


def test_equal_metrics_are_bit_exact():
    assert verdict_of(dict(METRICS)) == (EXACT, "")


def test_other_weights_of_equal_accuracy_are_equivalent():
    verdict, detail = verdict_of(METRICS | {"weights_sha256": "b" * 64})
    assert verdict == CLOSE
    assert detail == "other bytes, same val_acc"


@pytest.mark.parametrize(
    ("val_acc", "expected"),
    [(0.865, CLOSE), (0.855, CLOSE), (0.867, OPEN), (0.853, OPEN), (0.8745, DRIFTED), (0.8455, DRIFTED)],
)
def test_accuracies_alone_are_judged_by_the_interval_of_the_images_and_the_margin(val_acc, expected):
    verdict, detail = verdict_of(METRICS | {"val_acc": val_acc})
    assert verdict == expected
    assert f"val_acc: 0.8600 became {val_acc:.4f}; which images are right is not recorded on both sides" in detail


def test_accuracies_of_an_unknown_number_of_images_tell_nothing():
    unknown = {key: value for key, value in METRICS.items() if key != "val_images"}
    assert verdict_of(unknown | {"val_acc": 0.8601}, unknown) == (
        OPEN,
        "val_acc: 0.8600 became 0.8601, of how many images is not recorded",
    )
    assert "not recorded on both sides" in verdict_of(METRICS | {"val_acc": 0.8601}, unknown)[1]


def test_the_test_split_is_judged_by_its_own_number_of_images():
    committed = {"n_images": 3000, "test_acc": 0.85}
    assert verdict_of(committed | {"test_acc": 0.8515}, committed)[0] == OPEN
    committed["n_images"] = 30_000
    assert verdict_of(committed | {"test_acc": 0.8515}, committed)[0] == CLOSE


@pytest.mark.parametrize(("key", "now"), [("val_images", 39_999), ("val_images_sha256", "b" * 64)])
def test_accuracies_on_other_images_have_drifted(key, now):
    committed = METRICS | {"val_images_sha256": "a" * 64}
    verdict, detail = verdict_of(committed | {key: now}, committed)
    assert verdict == DRIFTED
    assert detail == f"measured on other images: {key} {committed[key]} became {now}"


@pytest.mark.parametrize("key", ["arch", "method", "parent", "params", "macs", "epochs", "n_seeds", "seeds"])
def test_another_size_or_kind_has_drifted_whatever_the_accuracy(key):
    verdict, detail = verdict_of(METRICS | {key: "other"})
    assert verdict == DRIFTED
    assert f"{key} {METRICS[key]} became other" in detail


def test_every_round_of_a_curve_is_judged():
    committed = METRICS | {
        "rounds": [{"round": 0, "params": 9, "val_acc": 0.9}, {"round": 1, "params": 5, "val_acc": 0.8}]
    }
    made = json.loads(json.dumps(committed))
    made["rounds"][1]["val_acc"] = 0.75
    assert verdict_of(made, committed) == (
        DRIFTED,
        "round 1: val_acc: 0.8000 became 0.7500; which images are right is not recorded on both sides; "
        "difference -5.00 points (-5.48 to -4.52)",
    )
    made["rounds"][1]["val_acc"] = 0.795
    assert verdict_of(made, committed)[0] == CLOSE
    made["rounds"].pop()
    assert verdict_of(made, committed) == (DRIFTED, "2 rounds became 1")


@pytest.mark.parametrize("made", [None, [], "x", 3, METRICS | {"val_acc": None}, METRICS | {"rounds": [1, 2]}])
def test_what_is_no_metrics_file_has_not_the_same_figures(made):
    verdict, _ = verdict_of(made)
    assert verdict == (CLOSE if made == METRICS | {"rounds": [1, 2]} else DRIFTED)


def outputs(expected, found, committed=None, made=None, models=EXACT):
    committed, made = committed or {}, made or {}
    return {o.path: o for o in judge(entry(**expected), entry(**found), committed.get, made.get, MARGIN, models)}


def test_a_models_folder_goes_with_its_metrics():
    old = json.dumps(METRICS).encode()
    for val_acc, verdict in [(0.865, CLOSE), (0.5, DRIFTED)]:
        new = json.dumps(METRICS | {"val_acc": val_acc}).encode()
        found = outputs(
            {"models__train__x": "1", "metrics__train__x.json": md5(old)},
            {"models__train__x": "2", "metrics__train__x.json": md5(new)},
            {"metrics/train/x.json": old},
            {"metrics/train/x.json": new},
        )
        assert {o.verdict for o in found.values()} == {verdict}
        assert "val_acc" in found["models/train/x"].detail


def test_other_files_beside_equal_figures_are_equivalent():
    data = json.dumps(METRICS).encode()
    metrics = {"metrics/train/x.json": data}
    expected = {"models__train__x": "1", "metrics__train__x.json": md5(data)}
    found = outputs(expected, expected | {"models__train__x": "2"}, metrics, metrics)
    assert found["models/train/x"].verdict == CLOSE
    assert found["metrics/train/x.json"].verdict == EXACT


def test_data_are_bit_exact_or_drifted():
    found = outputs(
        {"data__prepared": "1", "metrics__data.json": "2"}, {"data__prepared": "3", "metrics__data.json": "4"}
    )
    assert {o.verdict for o in found.values()} == {DRIFTED}


def test_a_committed_metric_that_is_not_the_locks_has_drifted_although_the_run_gives_the_locks():
    data = json.dumps(METRICS).encode()
    edited = json.dumps(METRICS | {"val_acc": 0.861}).encode()
    lock = {"metrics__train__x.json": md5(data)}
    (output,) = outputs(lock, lock, {"metrics/train/x.json": edited}, {"metrics/train/x.json": data}).values()
    assert output.verdict == DRIFTED
    assert "is not the one in the committed dvc.lock" in output.detail


def test_outputs_that_come_or_go_have_drifted():
    found = outputs({"metrics__old.json": "1"}, {"metrics__new.json": "1"})
    assert {(o.path, o.verdict) for o in found.values()} == {
        ("metrics/old.json", DRIFTED),
        ("metrics/new.json", DRIFTED),
    }


@pytest.mark.parametrize(("models", "expected"), [(EXACT, DRIFTED), (CLOSE, CLOSE), (OPEN, OPEN), (DRIFTED, DRIFTED)])
def test_tables_follow_the_models(models, expected):
    found = outputs({"plots__accuracy_size.png": "1"}, {"plots__accuracy_size.png": "2"}, models=models)
    assert found["plots/accuracy_size.png"].verdict == expected


def test_a_stage_is_as_good_as_its_worst_output_and_fails_with_its_error():
    some = (Output("a", EXACT, "1", "1"), Output("b", CLOSE, "1", "2"))
    assert StageOutcome("x", some).verdict == CLOSE
    assert StageOutcome("x", (), error="error: no").verdict == DRIFTED
    assert worst([]) == EXACT
    good = StageOutcome("a", some[:1])
    assert first_diverged([good]) is None
    assert first_diverged([good, StageOutcome("b", some), StageOutcome("c", (), error="e")]).stage == "b"


def test_exit_codes_tell_the_verdicts_apart():
    assert [v.exit_code for v in (EXACT, CLOSE, OPEN, DRIFTED)] == [0, 3, 4, 1]
    assert [v.words for v in Verdict] == ["bit-exact", "equivalent", "cannot tell", "drifted"]


def test_environments_are_compared_by_key_and_unrecorded_ones_named():
    old, new = {"cpu": "A", "torch": "2"}, {"cpu": "B", "torch": "2", "OMP_NUM_THREADS": "1"}
    found = compare(
        {"train/x": old, "train/y": None, "train/z": old}, {"train/x": new, "train/y": new, "train/z": None}
    )
    assert found.differences == {"cpu": ("A", "B"), "OMP_NUM_THREADS": ("-", "1")}
    assert found.unknown == ("train/y", "train/z")


@pytest.mark.parametrize(
    ("stage", "result"),
    [
        ("prepare", "data"),
        ("train@x", "train/x"),
        ("prune", "prune/main"),
        ("test@prune/main/round_2", "prune/main"),
        ("test@distill/kd", "distill/kd"),
        ("aggregate", None),
    ],
)
def test_stages_are_matched_with_recorded_results(stage, result):
    assert result_of(stage) == result
