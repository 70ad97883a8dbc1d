"""Fine-tuning that the unchanged parent teaches, in every family that fine-tunes."""

import json

import pytest
import torch
from little import CURVE, SECTIONS, check_killed, copy_of

from netpress.core.artifacts import load, load_model
from netpress.core.context import open_context
from netpress.core.measure import evaluate
from netpress.distill.teaching.taught import LookedUp, Taught, tuning

TUCKER = SECTIONS["factorize"]["tucker"]
KD = {"loss": "kd", "loss_options": {"temperature": 2.0, "weight": 0.9, "standardize": False}}
ALONE = {"loss": "kd", "loss_options": {"temperature": 2.0, "weight": 0.0, "standardize": False}}
HINT = {"loss": "fitnet", "loss_options": {"student_layer": "0.3", "teacher_layer": "0.3", "weight": 0.5}}
CHANGES = {
    "factorize": {"tucker": TUCKER, "kd": TUCKER | KD, "alone": TUCKER | ALONE, "hint": TUCKER | HINT},
    "prune_sweep": {"kd": {"from": "train/teacher"} | CURVE | KD},
}
STORE = ".netpress/soft_targets/train/teacher/seed_0.safetensors"


@pytest.fixture(scope="module")
def project(server, little_run, tmp_path_factory):
    folder = copy_of(little_run, tmp_path_factory.mktemp("tuning") / "project", **CHANGES)
    (folder / STORE).unlink(missing_ok=True)
    for name in CHANGES["factorize"]:
        server.finish(folder, "factorize", name)
        if name == "tucker":
            assert not (folder / STORE).exists()  # the labels ask no teacher
    server.finish(folder, "prune", "kd")
    return folder


def sha(project, model_id):
    return json.loads((project / f"metrics/{model_id}.json").read_text())["weights_sha256"]


def test_a_teacher_of_no_weight_leaves_what_the_labels_alone_give(project):
    assert sha(project, "factorize/alone") == sha(project, "factorize/tucker")


def test_a_teacher_changes_what_comes_out(project):
    assert len({sha(project, f"factorize/{name}") for name in ("tucker", "kd", "hint")}) == 3
    assert sha(project, "prune_sweep/kd") != sha(project, "prune/main")


def test_what_the_parent_says_is_computed_once_for_all_of_its_children(project):
    assert (project / STORE).is_file()


@pytest.mark.parametrize(("section", "variant"), [("factorize", "kd"), ("prune_sweep", "kd")])
def test_the_teacher_is_the_parent_as_it_was(project, section, variant):
    context = open_context(project, section, variant)
    parent = load_model(project / "models/train/teacher")[0]
    with tuning(context, 0, context.parent(0).network) as objective:
        assert isinstance(objective, Taught)
        (teacher,) = objective._teachers
        assert isinstance(teacher, LookedUp)
        with torch.inference_mode():
            expected = parent(context.train.normalize(context.train.images))
        torch.testing.assert_close(teacher._logits, expected, rtol=1e-4, atol=1e-4)


def test_it_says_more_of_the_parents_answers_than_the_labels_do(project):
    """On the training images, where it was taught: closer to the parent in the mean squared difference of logits."""
    context = open_context(project, "prune_sweep", "kd")
    images = context.train.normalize(context.train.images)

    def logits(folder):
        with torch.inference_mode():
            return load(project / "models" / folder / "seed_0").network(images).log_softmax(1)

    parent = logits("train/teacher")
    apart = {name: float((logits(name) - parent).square().mean()) for name in ("prune/main", "prune_sweep/kd")}
    assert apart["prune_sweep/kd"] < apart["prune/main"]


def test_what_is_drawn_for_an_adapter_follows_from_the_seed_alone(project):
    """A round that goes on after a kill draws what it would have drawn."""
    context, drawn = open_context(project, "factorize", "hint"), []
    for draws in (0, 5):
        torch.rand(draws)
        with tuning(context, 0, context.parent(0).network) as objective:
            drawn.append(objective.modules["0"].weight.clone())
    assert torch.equal(*drawn)


def test_features_are_compared_on_the_students_own_views_and_answers_on_plain_ones(project):
    (asked,) = tuned(project, "hint")._teachers
    assert asked._view == "same"
    assert isinstance(tuned(project, "kd")._teachers[0], LookedUp)


def tuned(project, variant):
    context = open_context(project, "factorize", variant)
    with tuning(context, 0, context.parent(0).network) as objective:
        return objective


def test_layers_that_the_loss_looked_at_are_left_without_hooks(project):
    context = open_context(project, "factorize", "hint")
    network = context.parent(0).network
    with tuning(context, 0, network) as objective:
        assert len(objective.modules) == 1
    assert not any(module._forward_hooks for module in network.modules())
    assert evaluate(network, context.val, "parent").accuracy >= 0


def test_a_loss_that_nothing_is_trained_by_is_refused(server, little_run, tmp_path):
    changed = {"int8": SECTIONS["quantize"]["int8"] | KD}
    project = copy_of(little_run, tmp_path / "project", quantize=changed)
    done = server.run(project, "quantize", "int8")
    assert done["code"] == 1
    assert "quantize.int8.loss = kd: with epochs = 0 nothing is trained by it; choose one that asks" in done["output"]


@pytest.mark.parametrize(
    "moment", ["after fit_3.safetensors", pytest.param("half fit_2.safetensors", marks=pytest.mark.exhaustive)]
)
def test_a_killed_fine_tuning_with_a_teacher_goes_on_to_the_same_bytes(server, project, tmp_path, moment):
    check_killed(server, project, tmp_path / "project", "factorize/hint", moment)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"loss": "kdd"}, "tucker.loss: unknown distillation method 'kdd', did you mean 'kd'"),
        ({"loss_options": {"weight": 1}}, "tucker.loss_options.weight: unknown key"),
        (
            KD | {"loss_options": {"temperature": 0, "weight": 1, "standardize": False}},
            "tucker.loss_options.temperature = 0: must be a number",
        ),
        (
            HINT | {"loss_options": HINT["loss_options"] | {"student_layer": "0.33"}},
            "factorize.tucker.loss_options: the student has no layer '0.33', did you mean '0.3'",
        ),
    ],
)
def test_what_cannot_be_is_one_line(server, little_run, tmp_path, changes, text):
    project = copy_of(little_run, tmp_path / "project", factorize={"tucker": TUCKER | changes})
    done = server.run(project, "factorize", "tucker")
    assert done["code"] == 1
    assert text in done["output"]
    assert "Traceback" not in done["output"]
