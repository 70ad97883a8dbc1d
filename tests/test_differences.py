"""Differences of a table: written with their intervals, and judged together."""

import itertools

import pytest
from report_samples import right, sample_params, study_in, write, write_metrics

from netpress.report import units
from netpress.report.data_line import TABLES
from netpress.report.differences import BETTER, OPEN, WORSE, Accuracy, Differences
from netpress.report.overview import by_size
from netpress.report.pareto import behind, front
from netpress.report.write import make_report

PAIR = Accuracy("train/student_alone"), Accuracy("distill/kd_strong")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root, params = tmp_path_factory.mktemp("study"), sample_params()
    write_metrics(root, params)
    return study_in(root, params)


def test_a_difference_is_written_with_its_interval(study):
    found = Differences(study, [PAIR]).of(*PAIR)
    ends = found.difference - found.half_width(), found.difference + found.half_width()
    expected = f"+1.10 ({units.points(ends[0])} to {units.points(ends[1])})"
    assert Differences(study, [PAIR]).words(*PAIR) == expected


def test_a_difference_on_its_own_is_real_where_its_interval_is_off_zero(study):
    assert Differences(study, [PAIR]).verdict(*PAIR) == BETTER
    assert Differences(study, [PAIR[::-1]]).verdict(*PAIR[::-1]) == WORSE


def test_among_many_it_must_be_larger(study):
    """Holm: the most probable one of m differences counts below 5 % / m."""
    pairs = [(Accuracy(a.id), Accuracy(b.id)) for a, b in itertools.combinations(study.models, 2)]
    chance = [pair for pair in pairs if Differences(study, [pair]).verdict(*pair) == OPEN]
    most = int(0.05 / Differences(study, [PAIR]).of(*PAIR).p_value())
    assert 2 < most < len(chance)
    for others, expected in ((most - 1, BETTER), (most, OPEN)):
        assert Differences(study, [PAIR, *chance[:others]]).verdict(*PAIR) == expected


def test_what_is_made_of_one_training_is_pooled_apart(tmp_path):
    """Seeds move networks that are trained apart; int8 goes with its parent, whose seeds are its own."""
    params = sample_params()
    made = write_metrics(tmp_path, params, seeds=3)
    apart = [[0.90, 0.86, 0.88], [0.85, 0.91, 0.87]]
    for model_id, values in zip((PAIR[0].model_id, PAIR[1].model_id), apart, strict=True):
        write(tmp_path, model_id, made[model_id] | {"val_acc_by_seed": values, "val_acc_right": right("x", values)})
    whole, small = "train/resnet18_strong", "quantize/resnet18_int8"
    bits = made[whole]["val_acc_right"], made[whole]["val_acc_by_seed"]
    write(tmp_path, small, made[small] | {"val_acc_right": bits[0], "val_acc_by_seed": bits[1]})
    study = study_in(tmp_path, params)
    int8 = Accuracy(whole), Accuracy(small)
    alone, beside = Differences(study, [int8]), Differences(study, [int8, PAIR])
    assert beside.of(*int8) == alone.of(*int8)
    assert beside.of(*PAIR) == Differences(study, [PAIR]).of(*PAIR)
    trained = Accuracy(whole), Accuracy("train/large_cnn")  # which is pooled with others of its kind
    assert Differences(study, [trained, PAIR]).of(*trained) != Differences(study, [trained]).of(*trained)


def test_a_model_is_behind_only_by_a_real_difference(study, tmp_path):
    report = make_report(tmp_path, study)
    on_front = front(report.points)
    found = behind(study, report.points, on_front)
    assert found.keys() == {point.id for point in report.points} - {point.id for point in on_front}
    assert {is_real for _, is_real in found.values()} == {True, False}
    assert not found["lowrank/compact_groups2"][1]
    assert found["train/resnet18_weak"][1]
    for model in by_size(study):
        if model.id in found:
            better, is_real = found[model.id]
            row = next(line for line in report.texts[TABLES].splitlines() if line.startswith(f"| {model.id} "))
            assert f"| {'behind' if is_real else 'level with'} {better.id} " in row
