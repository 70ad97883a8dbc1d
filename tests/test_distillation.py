"""Distillation losses against their formulas, and the teacher's part in training."""

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import NO_AUGMENT, RECIPE, RUNTIME, striped
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.base.errors import ParamsError
from netpress.core import checkpoint
from netpress.core.batches import Batch, training_batches
from netpress.core.context import Method
from netpress.core.engine import Schedule, fit
from netpress.core.networks import build_model
from netpress.core.taps import Seen
from netpress.distill.losses import fitnet, kd
from netpress.distill.teaching.taught import Taught
from netpress.params import plugins
from netpress.params.schema import parse


def logits(seed, count=8, classes=5):
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)) * 3


def one_hot(count=8, classes=5):
    return F.one_hot(torch.arange(count) % classes, classes).float()


def seen(values):
    return Seen(values, {})


def hinton(student, teacher, targets, **options):
    return kd.loss(seen(student), seen(teacher), targets, kd.Options(standardize=False, **options), None)


@given(temperature=st.floats(0.5, 20), seed=st.integers(0, 1000))
@settings(max_examples=50)
def test_kd_is_hintons_formula(temperature, seed):
    student, teacher = logits(seed).double(), logits(seed + 1).double()
    p = torch.softmax(teacher / temperature, 1)
    q = torch.softmax(student / temperature, 1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    loss = hinton(student, teacher, one_hot().double(), temperature=temperature, weight=1.0)
    assert loss.item() == pytest.approx(divergence.item() * temperature**2, rel=1e-6, abs=1e-9)


def test_kd_without_weight_is_cross_entropy():
    loss = hinton(logits(0), logits(1), one_hot(), temperature=4.0, weight=0.0)
    assert loss.item() == pytest.approx(F.cross_entropy(logits(0), one_hot()).item(), rel=1e-6)


def test_kd_is_averaged_over_images_only():
    """PyTorch's own mean would divide by the number of classes as well."""
    wide = hinton(logits(0, classes=50), logits(1, classes=50), one_hot(classes=50), temperature=2.0, weight=1.0)
    ours, theirs = (F.log_softmax(logits(k, classes=50) / 2, 1) for k in (0, 1))
    mean = (theirs.exp() * (theirs - ours)).mean()
    assert wide.item() == pytest.approx(mean.item() * 50 * 4, rel=1e-5)


def method(name, options=None):
    module = plugins.load("distill/losses", name)
    return Method(name, module, parse(module.Options, options or module.EXAMPLE, name))


@pytest.mark.parametrize("name", plugins.names("distill/losses"))
def test_contract(name):
    """At its EXAMPLE: a finite loss, the same for the same; gradients for the student and the adapter alone; it learns.

    The networks are compact_cnn, whose layers are named 0.0 to 0.5.
    """
    torch.manual_seed(0)
    student, teacher = (build_model("compact_cnn", 3, 1, width=width) for width in (0.25, 0.5))
    train, val = striped(96), striped(48, seed=1)
    taught = Taught(student, [teacher], method(name), "same", RUNTIME, train)
    batch = next(training_batches(train, NO_AUGMENT, 0.0, 32, 0, 0))
    first, again = (taught(batch, student.eval()(batch.images)) for _ in range(2))
    assert torch.isfinite(first)
    assert first.item() == again.item()
    first.backward()
    trained = [*student.parameters(), *taught.modules.parameters()]
    assert all(p.grad is not None for p in trained)
    assert all(p.grad is None for p in teacher.parameters())
    history = fit(student, train, val, Schedule(RECIPE, 4, 0), RUNTIME, "test", taught)
    falls = history[-1]["train_loss"] < history[0]["train_loss"]
    assert falls, "train_loss must fall in 4 epochs; lower the weight in the method's EXAMPLE"
    taught.close()
    assert not any(layer._forward_hooks for network in (student, teacher) for layer in network.modules())


class Fixed(nn.Module):
    """A teacher that always says class 2, and records what it sees."""

    def __init__(self, answer=(-8.0, -8.0, 8.0)):
        super().__init__()
        self.seen, self.answer = [], torch.tensor([answer])

    def forward(self, images):
        self.seen.append(images.clone())
        return self.answer.expand(len(images), 3)


def taught(student, teachers, weight, view="same"):
    options = {"temperature": 1.0, "weight": weight, "standardize": False}
    return Taught(student, teachers, method("kd", options), view, RUNTIME, striped(8))


@pytest.mark.parametrize(("weight", "follows"), [(1.0, True), (0.0, False)])
def test_the_student_follows_its_teacher_as_far_as_the_weight_says(weight, follows):
    torch.manual_seed(0)
    student = build_model("compact_cnn", 3, 1, width=0.25)
    train, val = striped(96), striped(48, seed=1)
    fit(student, train, val, Schedule(RECIPE, 6, 0), RUNTIME, "test", taught(student, [Fixed()], weight))
    says_two = (student(val.normalize(val.images)).argmax(1) == 2).float().mean().item()
    assert (says_two > 0.95) if follows else (says_two < 0.5)


@pytest.mark.parametrize("view", ["same", "plain"])
def test_the_teacher_sees_the_view_that_the_item_names(view):
    teacher = Fixed()
    objective = taught(nn.Identity(), [teacher], 0.5, view)
    images, plain = torch.randn(4, 1, 28, 28), torch.randn(4, 1, 28, 28)
    objective(Batch(images, one_hot(4, 3), torch.arange(4), lambda: plain), torch.randn(4, 3))
    assert torch.equal(teacher.seen[0], images if view == "same" else plain)


def test_of_two_teachers_the_loss_is_the_mean():
    def loss(*teachers):
        batch = Batch(torch.zeros(4, 1, 28, 28), one_hot(4, 3), torch.arange(4), lambda: None)
        return taught(nn.Identity(), teachers, 0.7)(batch, logits(0, 4, 3)).item()

    one, other = Fixed(), Fixed([8.0, -8.0, -8.0])
    assert loss(one, other) == pytest.approx((loss(one) + loss(other)) / 2)
    assert loss(one) != pytest.approx(loss(other))


HINT = {"student_layer": "0.2", "teacher_layer": "0.4", "weight": 1.0}


def test_hints_of_unequal_maps_are_compared_at_the_smaller_size():
    """The projector is the identity here; the student's map of 4x4 is averaged down to the teacher's 2x2."""
    options, student, teacher = fitnet.Options(**HINT), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)
    found = fitnet.loss(
        Seen(torch.zeros(2, 3), {"0.2": student}),
        Seen(torch.zeros(2, 3), {"0.4": teacher}),
        one_hot(2, 3),
        options,
        nn.Identity(),
    )
    pooled = student.reshape(2, 3, 2, 2, 2, 2).mean((3, 5))
    assert found.item() == pytest.approx(math.log(3) + (pooled - teacher).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"student_layer": "0.9"}, "method_options: the student has no layer '0.9', did you mean '0"),
        ({"teacher_layer": "layer2"}, "method_options: the teacher has no layer 'layer2'; known: 0, 0.0"),
        ({"teacher_layer": "2"}, r"method_options: layer '0.2' of the student gives \(\d+, 7, 7\) and '2' of the"),
    ],
)
def test_hint_layers_that_do_not_exist_or_fit_are_named(options, text):
    student, teacher = (build_model("compact_cnn", 3, 1, width=width) for width in (0.25, 0.5))
    with pytest.raises(ParamsError, match=text):
        Taught(student, [teacher], method("fitnet", HINT | options), "same", RUNTIME, striped(8))


def test_a_killed_training_with_a_projector_ends_in_the_bits_of_an_unbroken_one(tmp_path, monkeypatch):
    """Killed after every epoch in turn: the projector goes on from where it was too."""
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    train, val = striped(96), striped(48, seed=1)

    def trained(path, epochs=(4,)):
        for stop in epochs:
            torch.manual_seed(0)
            student, teacher = (build_model("compact_cnn", 3, 1, width=width) for width in (0.25, 0.5))
            objective = Taught(student, [teacher], method("fitnet"), "same", RUNTIME, train)
            with contextlib.suppress(KeyboardInterrupt):
                schedule, keep = Schedule(RECIPE, 4, 0), Killed(path, stop)
                fit(student, train, val, schedule, RUNTIME, "test", objective, keep)
        return {**student.state_dict(), **objective.modules.state_dict()}

    whole, broken = trained(tmp_path / "whole"), trained(tmp_path / "broken", (1, 2, 3, 4))
    assert "0.weight" in whole
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


class Killed(checkpoint.Checkpoint):
    """A checkpoint whose process is killed right after it has written the epoch `stop`."""

    def __init__(self, path, stop):
        super().__init__(path)
        self._stop = stop

    def save_if_due(self, network, optimizer, history):
        super().save_if_due(network, optimizer, history)
        if len(history) == self._stop < 4:
            raise KeyboardInterrupt
