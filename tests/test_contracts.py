"""What the contracts promise of whole stages: features, two teachers, scores from gradients, data-aware SVD."""

import json

import pytest
from little import SECTIONS, check_killed, copy_of

from netpress.core.artifacts import read_spec

KD = SECTIONS["distill"]["kd"]
HINT = {"method": "fitnet", "method_options": {"student_layer": "0.3", "teacher_layer": "0.3", "weight": 0.5}}
SVD = {"method": "svd", "method_options": {"choose": "share", "rank": 1.0, "min_channels": 8, "images": 64}}
CHANGES = {
    "distill": {
        "kd": KD,
        "hint": KD | HINT,
        "two": KD | {"second_teacher": "lowrank/depthwise", "allow_larger": True},
        "same_twice": KD | {"second_teacher": "train/teacher"},
    },
    "factorize": {
        "tucker": SECTIONS["factorize"]["tucker"],
        "svd": SECTIONS["factorize"]["tucker"] | SVD | {"budget": 0.7, "budget_of": "macs", "bn_batches": 3},
    },
    "prune": SECTIONS["prune"] | {"method": "taylor", "method_options": {"batches": 2}, "bn_batches": 3},
}


@pytest.fixture(scope="module")
def project(server, little_run, tmp_path_factory):
    folder = copy_of(little_run, tmp_path_factory.mktemp("contracts") / "project", **CHANGES)
    runs = [("distill", name) for name in ("hint", "two", "same_twice")] + [("factorize", "svd"), ("prune", "main")]
    for stage, variant in runs:
        server.finish(folder, stage, variant)
    return folder


def metrics(project, model_id):
    return json.loads((project / f"metrics/{model_id}.json").read_text())


def test_a_projector_is_trained_and_never_exported(project):
    kd, hint = (read_spec(project / f"models/distill/{name}/seed_0") for name in ("kd", "hint"))
    assert kd.params == hint.params
    assert kd.weights_sha256 != hint.weights_sha256


@pytest.mark.parametrize("moment", ["half fit_2.safetensors", "after fit_3.safetensors"])
def test_a_killed_student_with_a_projector_goes_on_to_the_same_bytes(server, project, tmp_path, moment):
    check_killed(server, project, tmp_path / "project", "distill/hint", moment)


def test_both_teachers_stand_in_spec_and_metrics(project):
    spec = read_spec(project / "models/distill/two/seed_0")
    other = read_spec(project / "models/lowrank/depthwise/seed_0").weights_sha256
    assert {role: parent.model_id for role, parent in spec.parents.items()} == {
        "teacher": "train/teacher",
        "second_teacher": "lowrank/depthwise",
    }
    assert metrics(project, "distill/two")["second_teacher_sha256"] == other
    assert metrics(project, "distill/two")["parent"] == "train/teacher"
    assert metrics(project, "distill/two")["val_loss"] != metrics(project, "distill/kd")["val_loss"]


def test_one_teacher_twice_is_as_that_teacher_once(project):
    """The mean of two equal losses, up to rounding."""
    once, twice = (metrics(project, f"distill/{name}") for name in ("kd", "same_twice"))
    assert twice["val_loss"] == pytest.approx(once["val_loss"], rel=0.02)


def test_rounds_tell_what_recalibration_brought(project):
    found = metrics(project, "prune/main")
    assert found["method"] == "taylor"
    for row in found["rounds"][1:]:
        assert 0 <= row["val_acc_before_tuning"] <= 1
        assert 0 <= row["val_acc_recalibrated"] <= 1
    assert "val_acc_recalibrated" not in found["rounds"][0]


def test_svd_replaces_convolutions_and_says_what_it_was_before_tuning(project):
    found, spec = metrics(project, "factorize/svd"), read_spec(project / "models/factorize/svd/seed_0")
    assert spec.edits[-1]["edit"] == "replace"
    assert found["params"] < metrics(project, "train/teacher")["params"]
    assert 0 <= found["val_acc_before_tuning"] <= 1


def test_a_factorization_within_a_budget_of_macs_tells_what_recalibration_brought(project):
    found, tucker = metrics(project, "factorize/svd"), metrics(project, "factorize/tucker")
    assert 0.6 < found["macs"] / metrics(project, "train/teacher")["macs"] <= 0.7
    assert 0 <= found["val_acc_recalibrated"] <= 1 and "val_acc_recalibrated" not in tucker


TYPO = HINT | {"method_options": HINT["method_options"] | {"student_layer": "0.33"}}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"second_teacher": "train/techer"},
            "kd.second_teacher: no model 'train/techer', did you mean '",
        ),
        ({"second_teacher": "quantize/int8"}, "kd.second_teacher: 'quantize/int8' is quantized; name the model"),
        (TYPO, "kd.method_options: the student has no layer '0.33', did you mean '0.3'"),
    ],
)
def test_what_cannot_be_is_one_line(server, little_run, tmp_path, changes, text):
    project = copy_of(little_run, tmp_path / "project", distill={"kd": KD | changes})
    done = server.run(project, "distill", "kd")
    assert done["code"] == 1
    assert text in done["output"]
    assert "Traceback" not in done["output"]
