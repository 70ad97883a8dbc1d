"""Differences of a table: written with their intervals, and judged together."""

import itertools

import pytest
from report_samples import sample_params, study_in, write_metrics

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
