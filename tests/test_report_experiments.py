"""A study's figures beside ours, and sentences that only say what was measured."""

import pytest
from report_samples import sample_params, study_in, write, write_metrics

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.params.whole import Experiment
from netpress.report.observations import observations
from netpress.report.write import write_report

pytestmark = pytest.mark.usefixtures("tables_alone")

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


#: What `prepare` says of the data, beside the names of the classes.
FACTS = {"source": "x", "classes": 2, "resolution": 28, "channels": 1, "train_images": 9, "val_images": 9}
FACTS |= {"manifest_sha256": "0" * 64}


@pytest.fixture
def project(tmp_path):
    params = sample_params(experiments={"kd": EXPERIMENT})
    made = write_metrics(tmp_path, params, seeds=3)
    files.write_json(tmp_path / "metrics/data.json", FACTS | {"class_names": ["Bread", "Soup"]})
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
    assert cells[:8] == ["c", "train/student_alone", "79.88", "88.95 ± 0.21", "+9.07", "3", "1.6 M", "412,000"]
    row = next(line for line in text.splitlines() if line.startswith("| e "))
    assert [cell.strip() for cell in row.strip("|").split("|")][2:5] == ["-", "90.05 ± 0.21", "-"]
    assert "Its size is printed as 655,8172." in text
    said = "- teacher_strength, the stronger teacher's student is better than the weaker one's: **holds**."
    assert said in text


def test_rows_without_published_figures_stand_against_the_first(tmp_path):
    rows = [row.model_copy(update={"val_acc": None, "size": ""}) for row in EXPERIMENT.rows]
    params = sample_params(experiments={"kd": EXPERIMENT.model_copy(update={"rows": rows})})
    write_metrics(tmp_path, params)
    files.write_json(tmp_path / "metrics/data.json", FACTS | {"class_names": ["Bread", "Soup"]})
    lines = report(tmp_path, params).splitlines()
    table = lines[lines.index("## Distillation as the study has it") + 2 :]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[:5]]
    assert cells[0] == ["Row", "Model", "Ours (%)", "Against the first (points)", "n", "Params", "MACs", *cells[0][7:]]
    assert [row[3].split(" (")[0] for row in cells[2:]] == ["-", "+0.35", "+1.10"]


def test_the_reasons_are_measurements(project):
    text = report(*project[:2])
    assert "Teachers: train/resnet18_weak has 84.20 % on validation, 87.20 % on its training images" in text
    assert "distill/kd_weak names the same class as train/resnet18_weak on 93.00 % of the validation images" in text
    assert "and, against train/student_alone, gains most on Soup (+0.38 points) and least on Bread (+0.38)" in text
    assert text.count("\n- ") == 5  # two claims and three sentences
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
    assert "% pruned and 80.00 % trained from scratch" in found[0]
    assert found[1] == (
        "quantize/student_int8: -0.10 (-0.55 to +0.35) points against its parent, calibration error 2.10 % before and "
        "5.00 % after."
    )


def test_a_student_is_held_against_the_network_that_was_trained_as_it_was(project):
    root, params, made = project
    weak = params.distill["kd_weak"].model_copy(update={"epochs": 9})
    longer = params.train["student_alone"].model_copy(update={"epochs": 9})
    changed = params.model_copy(update={"distill": params.distill | {"kd_weak": weak}})
    ids = ["distill/kd_weak", "distill/kd_strong"]
    assert (
        "against train/student_alone (another recipe or number of epochs), gains"
        in observations(study_in(root, changed), ids, ["Bread", "Soup"])[1]
    )
    changed = changed.model_copy(update={"train": params.train | {"student_longer": longer}})
    write(root, "train/student_longer", made["train/student_alone"])
    said = observations(study_in(root, changed), ids, ["Bread", "Soup"])[1]
    assert "against train/student_longer, gains" in said
    assert "against train/student_alone, gains" in said


@pytest.mark.parametrize("known", [{}, {"class_names": ["Bread"]}, {"class_names": ["Bread", "Soup", "Rice"]}])
def test_classes_are_named_only_where_every_class_has_a_name(project, known):
    root, params, _ = project
    files.write_json(root / "metrics/data.json", FACTS | known)
    text = report(root, params)
    assert "on 93.00 % of the validation images; distill/kd_strong names" in text
    assert "gains most" not in text


def test_a_class_without_validation_images_is_passed_over(project):
    root, params, made = project
    write(root, "distill/kd_weak", made["distill/kd_weak"] | {"val_acc_by_class": [None, 0.5]})
    assert "gains most on Soup" in observations(study_in(root, params), ["distill/kd_weak"], ["Bread", "Soup"])[1]


@pytest.mark.parametrize("text", ["", "[]", '{"class_names": 3}', '{"class_names": [1]}'])
def test_damaged_metrics_of_the_data_name_file_and_remedy(project, text):
    root, params, _ = project
    files.write_text(root / "metrics/data.json", text)
    with pytest.raises(ArtifactError, match=r"^metrics/data\.json (is|cannot) .*run 'dvc repro prepare'"):
        report(root, params)


def test_a_row_may_be_a_round(project):
    root, params, made = project
    rows = [{"model": "prune/main/round_2", "label": "second round", "val_acc": None, "size": ""}]
    experiment = Experiment.model_validate({"title": "Pruning", "note": "", "rows": rows})
    text = report(root, params.model_copy(update={"experiments": {"pruning": experiment}}))
    params_left = made["prune/main"]["rounds"][2]["params"]
    assert f"{params_left:,}" in next(line for line in text.splitlines() if line.startswith("| second round"))
    assert "What the run shows" not in text


def test_designs_are_told_with_what_they_cost(project):
    root, params, _ = project
    (said,) = observations(study_in(root, params), ["lowrank/compact_plain", "lowrank/compact_depthwise"], [])
    assert "lowrank/compact_plain 94.4 against 91.4 at 9.18 M MACs; lowrank/compact_depthwise 93.0 against" in said
