"""Metrics over seeds."""

import pytest

from netpress.core.seeds import over_seeds


def row(acc, **more):
    return {
        "val_acc": acc,
        "val_acc_best": acc + 0.01,
        "val_loss": 1 - acc,
        "params": 7,
        "weights_sha256": f"w{acc}",
    } | more


def test_one_seed_has_no_deviation():
    merged = over_seeds([row(0.5)])
    assert merged["val_acc"] == 0.5
    assert merged["n_seeds"] == 1
    assert "val_acc_std" not in merged


def test_several_seeds_give_means_and_the_shipped_seeds_weights():
    merged = over_seeds([row(0.5), row(0.7), row(0.6)])
    assert merged["val_acc"] == pytest.approx(0.6)
    assert merged["val_acc_std"] == pytest.approx(0.1)
    assert merged["val_acc_by_seed"] == [0.5, 0.7, 0.6]
    assert merged["weights_sha256"] == "w0.5"
    assert merged["params"] == 7


def test_controls_are_averaged_where_there_are_some():
    rounds = [[row(0.5), row(0.4, control_val_acc=accuracy)] for accuracy in (0.6, 0.7)]
    merged = over_seeds([row(0.5, rounds=rounds[0]), row(0.7, rounds=rounds[1])])
    assert "control_val_acc" not in merged["rounds"][0]
    assert merged["rounds"][1]["control_val_acc"] == pytest.approx(0.65)
    assert merged["rounds"][1]["control_val_acc_std"] == pytest.approx(0.0707, abs=1e-4)
    assert merged["rounds"][1]["control_val_acc_by_seed"] == [0.6, 0.7]


def test_rounds_are_merged_one_by_one():
    rows = [row(0.5, rounds=[row(0.5), row(0.4)]), row(0.7, rounds=[row(0.7), row(0.2)])]
    merged = over_seeds(rows)
    assert [r["val_acc"] for r in merged["rounds"]] == pytest.approx([0.6, 0.3])
    assert [r["n_seeds"] for r in merged["rounds"]] == [2, 2]
