"""The numbers in the tables of comparisons, worked out from the metrics by hand."""

import pytest
from report_samples import TRAINED, sample_params, write, write_metrics

from netpress.report.collect import collect
from netpress.report.comparisons import change_table, control_of, design_table, distillation_table, pruning_table
from netpress.report.curves import drawn_curves


@pytest.fixture
def made(tmp_path):
    """The metrics by model id, and the study of them."""
    params = sample_params()
    metrics = write_metrics(tmp_path, params)
    return metrics, collect(tmp_path, params.items(), params.final)


def rows(text):
    """Cells of a table's rows by the text of its first columns."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def points(difference):
    return "0.00" if abs(difference) < 5e-5 else f"{100 * difference:+.2f}"


def percent(share):
    return f"{100 * share:.2f}"


def test_a_students_row_has_its_teachers_accuracy_its_own_and_the_gain_over_the_control(made):
    metrics, study = made
    found = {row[2]: row for row in rows(distillation_table(study))}
    for student, teacher, alone in (
        ("distill/kd_weak", "train/resnet18_weak", "train/student_alone"),
        ("distill/kd_strong", "train/resnet18_strong", "train/student_alone"),
        ("distill/plain_kd", "train/large_cnn", "train/plain_cnn"),
    ):
        accuracy = {name: metrics[name]["val_acc"] for name in (student, teacher, alone)}
        gain = points(accuracy[student] - accuracy[alone])
        assert found[student][1:5] == [teacher, student, percent(accuracy[teacher]), percent(accuracy[student])]
        assert found[student][5].split(" (")[0] == gain
        assert found[alone][4] == percent(accuracy[alone])


def test_the_control_trained_as_the_student_was_comes_first(tmp_path, monkeypatch):
    params = sample_params()
    longer = params.train["student_alone"].model_copy(update={"epochs": 99})
    order = {"longer": longer} | params.train  # the fair one stands behind it
    params = params.model_copy(update={"train": order})
    monkeypatch.setitem(TRAINED, "train/longer", TRAINED["train/student_alone"])
    write_metrics(tmp_path, params)
    study = collect(tmp_path, params.items())
    assert control_of(study, study.by_id["distill/kd_strong"]).id == "train/student_alone"


def test_designs_are_held_against_the_best_of_their_kind(made):
    metrics, study = made
    found = {row[0]: row for row in rows(design_table(study))}
    kinds = {
        "lowrank/compact_plain": "lowrank/compact_plain",
        "lowrank/compact_groups2": "lowrank/compact_plain",
        "lowrank/compact_depthwise": "lowrank/compact_plain",
        "lowrank/large_depthwise": "lowrank/large_depthwise",
    }
    for name, best in kinds.items():
        assert found[name][2] == percent(metrics[name]["val_acc"])
        apart = points(metrics[name]["val_acc"] - metrics[best]["val_acc"])
        assert found[name][3].split(" (")[0] == ("-" if name == best else apart)


@pytest.mark.parametrize("stage", ["quantize", "factorize"])
def test_a_change_is_after_less_before(made, stage):
    metrics, study = made
    for row in rows(change_table(study, stage)):
        before, after = metrics[row[2]], metrics[row[0]]
        assert row[3:5] == [percent(before["val_acc"]), percent(after["val_acc"])]
        assert row[5].split(" (")[0] == points(after["val_acc"] - before["val_acc"])
        assert row[8] == f"{before['onnx_bytes'] / after['onnx_bytes']:.2f}x"


def test_a_curves_rows_are_shares_of_its_start(made, tmp_path):
    """Parameters and multiply-adds apart: the samples make them proportional, the real ones are not."""
    metrics, _ = made
    for row in metrics["prune/main"]["rounds"]:
        row["macs"] = int(row["macs"] * 0.9 ** row["round"])
    write(tmp_path, "prune/main", metrics["prune/main"])
    study = collect(tmp_path, sample_params().items())
    found = [row for row in rows(pruning_table(study, drawn_curves(study), [])) if row[0].startswith("main (rate 0.3)")]
    start = metrics["prune/main"]["rounds"][0]
    assert len(found) == len(metrics["prune/main"]["rounds"]) > 3
    for cells, row in zip(found, metrics["prune/main"]["rounds"], strict=True):
        assert cells[1] == str(row["round"])
        assert cells[2] == f"{100 * 0.7 ** row['round']:.1f} %"
        assert cells[3] == f"{100 * row['channels_share']:.1f} %"
        assert cells[4:7] == [f"{100 * row[key] / start[key]:.1f} %" for key in ("params", "macs", "onnx_bytes")]
        assert cells[8] == percent(row["val_acc"])
        assert cells[9].split(" (")[0] == (points(row["val_acc"] - start["val_acc"]) if row["round"] else "-")
