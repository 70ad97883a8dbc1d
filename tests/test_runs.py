"""Metrics over seeds, and settings that cannot be met."""

import platform

import pytest
import torch
from conftest import RUNTIME

from netpress.base.errors import ConfigError, TrainingError
from netpress.runs import environment_of, over_seeds, require_finite, set_up


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


def test_rounds_are_merged_one_by_one():
    rows = [row(0.5, rounds=[row(0.5), row(0.4)]), row(0.7, rounds=[row(0.7), row(0.2)])]
    merged = over_seeds(rows)
    assert [r["val_acc"] for r in merged["rounds"]] == pytest.approx([0.6, 0.3])
    assert [r["n_seeds"] for r in merged["rounds"]] == [2, 2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_an_error_and_auto_is_not(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which `set_up` sets too, for this process alone
    with pytest.raises(ConfigError, match=r"runtime\.device = 'cuda': PyTorch finds no CUDA device"):
        set_up(RUNTIME.model_copy(update={"device": "cuda"}))
    assert set_up(RUNTIME.model_copy(update={"device": "auto"})).type == "cpu"
    assert torch.get_num_threads() == RUNTIME.threads


@pytest.mark.parametrize(
    "metrics",
    [
        row(float("nan")),
        row(0.5, val_loss=float("inf")),
        row(0.5, val_acc_by_seed=[0.5, float("nan")]),
        row(0.5, rounds=[row(0.5), row(0.4, val_loss=float("-inf"))]),
    ],
)
def test_metrics_that_are_not_finite_are_refused(metrics):
    with pytest.raises(TrainingError, match=r"train/x: val_\w+ is -?(nan|inf); nothing was written. Usual causes"):
        require_finite(metrics, "train/x")
    require_finite(row(0.5, rounds=[row(0.5)], val_acc_by_seed=[0.5], parent=None), "train/x")


def test_the_environment_says_where_the_arithmetic_was_done_and_nothing_of_the_host():
    here = environment_of(RUNTIME, torch.device("cpu"))
    assert here["device"] == "cpu"
    assert here["threads"] == "2"
    assert here["torch"] == torch.__version__.split("+")[0]
    assert platform.node() not in here.values()
    assert not [value for value in here.values() if value.startswith("/")]
