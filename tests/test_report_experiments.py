"""A study's figures beside ours, and sentences that only say what was measured."""

import pytest
from report_samples import sample_params, study_in, write, write_metrics

from netpress.base import files
from netpress.config import Experiment
from netpress.report.evidence import observations
from netpress.report.write import write_report

EXPERIMENT = Experiment.model_validate(
    {
        "title": "Distillation as the study has it",
        "note": "Its size is printed as 655,8172.",
        "rows": [
            {"model": "train/student_alone", "label": "c", "val_acc": 0.7988, "size": "1.6 M"},
            {"model": "distill/kd_weak", "label": "d", "val_acc": 0.8205, "size": ""},
            {"model": "distill/kd_strong", "label": "e", "val_acc": None, "size": ""},
        ],
    }
)
EVIDENCE = ("train_acc", "val_ece", "val_acc_by_class", "teacher_agreement")


@pytest.fixture
def project(tmp_path):
    params = sample_params(experiments={"kd": EXPERIMENT})
    made = write_metrics(tmp_path, params, seeds=3)
    files.write_json(tmp_path / "metrics/data.json", {"class_names": ["Bread", "Soup"]})
    return tmp_path, params, made


def report(root, params):
    write_report(root, study_in(root, params))
    return (root / "metrics/summary.md").read_text()


def test_the_studys_figures_stand_beside_ours(project):
    root, params, _ = project
    text = report(root, params)
    assert "## Distillation as the study has it" in text
    row = next(line for line in text.splitlines() if line.startswith("| c "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:8] == ["c", "train/student_alone", "79.88", "88.93 ± 0.21", "+9.05", "3", "1.6 M", "412,000"]
    unpublished = next(line for line in text.splitlines() if line.startswith("| e "))
    assert "|         - | 90.07 ± 0.21 |                   - |" in unpublished
    assert "Its size is printed as 655,8172." in text
    assert "- teacher_strength, no teacher < weaker teacher < stronger teacher: **holds**." in text


def test_the_reasons_are_measurements(project):
    text = report(*project[:2])
    assert "Teacher train/resnet18_weak: 84.20 % on validation, 87.20 % on its training images" in text
    assert "distill/kd_weak names the same class as its teacher on 93.00 % of the validation images; against" in text
    assert "it gains most on Soup (+0.38 points) and least on Bread (+0.38)" in text
    assert "On training images against validation, in percent: train/student_alone 91.9 against 88.9" in text


def test_nothing_is_said_of_what_was_not_measured(project):
    root, params, made = project
    for model_id, metrics in made.items():
        write(root, model_id, {key: value for key, value in metrics.items() if key not in EVIDENCE})
    text = report(root, params)
    assert "## Distillation as the study has it" in text
    assert "What the run shows" not in text


def test_controls_and_quantization_have_their_own_sentences(project):
    root, params, made = project
    curve = made["prune/main"]
    curve["rounds"][2]["control_val_acc"] = 0.8
    write(root, "prune/main", curve)
    write(root, "quantize/student_int8", made["quantize/student_int8"] | {"val_ece": 0.05})
    found = observations(study_in(root, params), ["prune/main", "quantize/student_int8"], [])
    assert found[0].startswith("prune/main: round 2 (")
    assert "% pruned and 80.00 % trained afresh" in found[0]
    assert found[1] == (
        "quantize/student_int8: -0.10 points against its parent, calibration error 2.10 % before and 5.00 % after."
    )
