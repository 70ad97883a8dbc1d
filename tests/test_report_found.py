"""The ten lines at the end of a run."""

import pytest
from report_samples import sample_params, study_in, write_metrics

from netpress.report.collect import Study
from netpress.report.found import found


@pytest.fixture
def study(tmp_path):
    params = sample_params()
    write_metrics(tmp_path, params, seeds=3)
    return study_in(tmp_path, params)


def test_models_to_take_verdicts_and_where_to_look(study):
    lines = found(study).splitlines()
    assert 4 <= len(lines) <= 10
    best = max(study.models, key=lambda m: (m.measured.val_acc, -m.measured.onnx_bytes))
    assert lines[0].startswith(f"Most accurate: {best.id}  {100 * best.measured.val_acc:.2f} %, ")
    assert len([line for line in lines if line.endswith(" points")]) >= 2
    for line in lines[1:]:
        if line.endswith(" points"):
            named = line.partition(": ")[2].split("  ")[0]
            assert study.measured(named).onnx_bytes < best.measured.onnx_bytes
    for claim in study.claims.values():
        assert sum(line.endswith(f": {claim.text}") for line in lines) == 1
    assert "metrics/summary.md" in lines[-2] and "netpress choose" in lines[-1]


def test_of_the_models_of_a_tenth_of_its_bytes_none_is_more_accurate(study):
    best = max(study.models, key=lambda m: (m.measured.val_acc, -m.measured.onnx_bytes))
    small = [m for m in study.models if m.measured.onnx_bytes <= best.measured.onnx_bytes / 10]
    line = next(
        line for line in found(study).splitlines() if line.startswith("Most accurate in a tenth of its bytes: ")
    )
    named = study.measured(line.partition(": ")[2].split("  ")[0])
    assert named.val_acc >= max(m.measured.val_acc for m in small)
    assert named.onnx_bytes <= best.measured.onnx_bytes / 10


def test_without_models_there_is_nothing_to_say():
    assert found(Study(())) == ""
