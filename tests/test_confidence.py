"""Two teachers with a weight for each image, by how well each knows the label."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import NO_AUGMENT, RUNTIME, striped
from hypothesis import given, settings
from hypothesis import strategies as st
from little import SECTIONS, copy_of
from torch import nn

from netpress.base.errors import ParamsError
from netpress.core.artifacts import read_spec
from netpress.core.batches import Batch, training_batches
from netpress.core.context import Method
from netpress.core.networks import build_model
from netpress.distill.teaching.confidence import confidence_weights
from netpress.distill.teaching.taught import Taught
from netpress.params import plugins
from netpress.params.items import Distill
from netpress.params.reader import member_checks
from netpress.params.schema import parse

NAMES = plugins.names("distill/losses")
WEIGHING = [name for name in NAMES if hasattr(plugins.load("distill/losses", name), "losses")]


def logits(seed, count=8, classes=5):
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)) * 3


def one_hot(count=8, classes=5):
    return F.one_hot(torch.arange(count) % classes, classes).float()


@given(teachers=st.integers(2, 4), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_weights_are_the_papers_and_sum_to_one(teachers, seed):
    answers, targets = [logits(seed + k).double() for k in range(teachers)], one_hot().double()
    found = confidence_weights(answers, targets)
    wrong = torch.stack([-(targets * answer.log_softmax(1)).sum(1) for answer in answers]).exp()
    torch.testing.assert_close(found, (1 - wrong / wrong.sum(0)) / (teachers - 1))
    torch.testing.assert_close(found.sum(0), torch.ones(8).double())


def test_equal_teachers_count_a_half_each_and_of_unequal_ones_the_better_more():
    assert torch.equal(confidence_weights([logits(0), logits(0)], one_hot()), torch.full((2, 8), 0.5))
    right, wrong = 6 * one_hot(), 6 * one_hot().roll(1, 1)
    found = confidence_weights([wrong, right], one_hot())
    assert (found[1] > 0.99).all()
    mixed = torch.cat([right[:4], wrong[4:]]), torch.cat([wrong[:4], right[4:]])
    assert (confidence_weights(mixed, one_hot())[0] > 0.5).tolist() == [True] * 4 + [False] * 4


def test_answers_far_from_the_label_stay_numbers_and_smoothing_changes_nothing():
    answers = [1e4 * one_hot().roll(1, 1), 1e4 * one_hot().roll(2, 1)]
    assert torch.equal(confidence_weights(answers, one_hot()), torch.full((2, 8), 0.5))
    smooth = 0.9 * one_hot() + 0.02
    both = [logits(1), logits(2)]
    assert torch.equal(confidence_weights(both, smooth), confidence_weights(both, one_hot()))


def method(name, options=None):
    module = plugins.load("distill/losses", name)
    return Method(name, module, parse(module.Options, options or module.EXAMPLE, name))


@pytest.mark.parametrize("name", WEIGHING)
def test_the_loss_is_the_mean_of_what_a_file_says_of_each_image(name):
    """With equal teachers the weighed loss is that of either of them, to rounding; its gradients too."""
    torch.manual_seed(0)
    student, teacher = (build_model("compact_cnn", 3, 1, width=width) for width in (0.25, 0.5))
    train = striped(96)
    batch = next(training_batches(train, NO_AUGMENT, 0.1, 32, 0, 0))
    found = []
    for teachers, weights in ([teacher], "equal"), ([teacher, teacher], "confidence"):
        torch.manual_seed(0)
        taught = Taught(student, teachers, method(name), "same", RUNTIME, train, weights)
        for adapter in taught.modules.values():
            adapter.load_state_dict(taught.modules["0"].state_dict())
        student.zero_grad()
        loss = taught(batch, student.eval()(batch.images))
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in student.parameters())])
        taught.close()
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


def test_some_methods_can_weigh_and_some_cannot():
    assert WEIGHING
    assert set(NAMES) > set(WEIGHING)


class Fixed(nn.Module):
    """A teacher that always gives the same answers."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def forward(self, images):
        return self.answers


def weighed(teachers, targets, student, weights="confidence", with_method=None):
    options = {"temperature": 1.0, "weight": 1.0, "standardize": False}
    chosen = with_method or method("kd", options)
    taught = Taught(nn.Identity(), teachers, chosen, "same", RUNTIME, striped(8), weights)
    return taught(Batch(torch.zeros(8, 1, 28, 28), targets, torch.arange(8), lambda: None), student)


def test_each_image_follows_the_teacher_that_knows_it():
    right, wrong, targets, student = 9 * one_hot(8, 3), 9 * one_hot(8, 3).roll(1, 1), one_hot(8, 3), logits(0, 8, 3)
    one, other = torch.cat([right[:4], wrong[4:]]), torch.cat([wrong[:4], right[4:]])
    alone = weighed([Fixed(right)], targets, student, "equal").item()
    assert weighed([Fixed(one), Fixed(other)], targets, student).item() == pytest.approx(alone, rel=0.01)
    assert weighed([Fixed(one), Fixed(other)], targets, student, "equal").item() != pytest.approx(alone, rel=0.1)


def test_losses_of_another_shape_are_named():
    module = SimpleNamespace(losses=lambda student, *others: student.logits.mean())
    with pytest.raises(
        ParamsError, match=r"method = mine: losses returned a Tensor of shape .*; return a number for each"
    ):
        weighed([Fixed(logits(0, 8, 3))] * 2, one_hot(8, 3), logits(1, 8, 3), with_method=Method("mine", module, None))


TWO = SECTIONS["distill"]["kd"] | {"second_teacher": "lowrank/depthwise", "allow_larger": True}


def test_one_teacher_has_nobody_to_be_weighed_against():
    says = r"distill.kd.teacher_weights = 'confidence': there is one teacher; name a second_teacher, or write equal"
    with pytest.raises(ParamsError, match=says):
        parse(Distill, TWO | {"second_teacher": "none", "teacher_weights": "confidence"}, "distill.kd")
    with pytest.raises(ParamsError, match="teacher_weights = 'best': must be one of equal, confidence"):
        parse(Distill, TWO | {"teacher_weights": "best"}, "distill.kd")


@pytest.mark.parametrize("name", NAMES)
def test_methods_whose_loss_is_no_mean_over_images_are_refused_by_name(name):
    example = plugins.load("distill/losses", name).EXAMPLE
    for weights in ("equal", "confidence"):
        item = parse(
            Distill, TWO | {"method": name, "method_options": example, "teacher_weights": weights}, "distill.x"
        )
        faults = []
        for check in member_checks(item, "distill.x"):
            try:
                check()
            except ParamsError as error:
                faults += error.faults
        if weights == "equal" or name in WEIGHING:
            assert not faults
        else:
            ((key, text),) = faults
            assert key == "distill.x.teacher_weights"
            assert text.startswith(
                f"distill.x.teacher_weights = confidence: {name} cannot weigh teachers image by image"
            )


def test_a_student_of_two_weighed_teachers(server, little_run, tmp_path):
    students = {name: TWO | {"teacher_weights": name} for name in ("equal", "confidence")}
    project = copy_of(little_run, tmp_path / "project", distill=SECTIONS["distill"] | students)
    found = []
    for name in students:
        server.finish(project, "distill", name)
        found.append(json.loads((project / f"metrics/distill/{name}.json").read_text()))
    assert found[0]["weights_sha256"] != found[1]["weights_sha256"]
    assert set(read_spec(project / "models/distill/confidence/seed_0").parents) == {"teacher", "second_teacher"}
