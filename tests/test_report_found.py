"""The ten lines at the end of a run."""

import re

import pytest
from report_samples import sample_params, study_in, write_metrics

from netpress.report.claims import judge
from netpress.report.collect import Study
from netpress.report.curves import drawn_curves
from netpress.report.found import NAMED, POINTERS, best_for_size, found, verdicts
from netpress.report.pareto import points_of


@pytest.fixture
def study(tmp_path):
    params = sample_params()
    write_metrics(tmp_path, params, seeds=3)
    return study_in(tmp_path, params)


def test_models_to_take_verdicts_and_where_to_look(study):
    lines = found(study).splitlines()
    assert 4 <= len(lines) <= NAMED + len(study.claims) + len(POINTERS)
    best = max(study.models, key=lambda m: (m.measured.val_acc, -m.measured.onnx_bytes))
    assert lines[0].startswith(f"Take {best.id}  {100 * best.measured.val_acc:.2f} ± ")
    assert all(line.startswith("Take ") and " smaller than the first: -" in line for line in lines[1:NAMED])
    for claim in study.claims.values():
        assert sum(f": {claim.text}: " in line for line in lines) == 1
    assert "metrics/summary.md" in lines[-2] and "netpress choose" in lines[-1]


def test_no_model_of_at_most_its_size_is_more_accurate_than_one_that_is_named(study):
    named = [name for name, _ in best_for_size(study)]
    points = points_of(study, [curve.model_id for curve in drawn_curves(study)])
    accuracy = {point.id: point.val_acc for point in points}
    size = {point.id: point.onnx_bytes for point in points}
    assert accuracy[named[0]] == max(accuracy.values()) and len(named) > 2
    for name in named:
        assert accuracy[name] == max(accuracy[other] for other in size if size[other] <= size[name])
    assert [size[name] for name in named] == sorted((size[name] for name in named), reverse=True)


def test_verdicts_come_with_the_figures_that_decide(study):
    told = dict(zip(study.claims, verdicts(judge(study)), strict=True))
    assert re.search(
        r"than without a teacher: [+-]\d\.\d\d points \([+-]\d+\.\d\d to [+-]\d+\.\d\d\)$", told["distillation"][1]
    )
    assert "points (90 %: " in told["int8"][1], "two one-sided tests at 5 % decide of equality"
    assert told["fewer_groups"][1].count(" points (") == 2


def test_a_pruned_model_is_named_with_its_shape_trained_from_scratch(tmp_path):
    params = sample_params()
    params.prune_sweep["resnet18_rate50"] = params.prune_sweep["resnet18_rate50"].model_copy(
        update={"control_rounds": [2]}
    )
    write_metrics(tmp_path, params, seeds=3, controls=True)
    told = dict(best_for_size(study_in(tmp_path, params)))
    assert [name for name in told if "from scratch" in told[name]] == ["prune_sweep/resnet18_rate50/round_2"]
    # The samples' controls are as good as the rounds, image by image.
    assert told["prune_sweep/resnet18_rate50/round_2"].endswith(
        "; 0.00 (-0.03 to +0.03) beside its shape trained from scratch"
    )


def test_without_models_there_is_nothing_to_say():
    assert found(Study(())) == ""
