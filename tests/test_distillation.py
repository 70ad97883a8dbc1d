"""Distillation losses against their formulas, and the teacher's part in training."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import RECIPE, RUNTIME, striped
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from netpress.core.batches import Batch
from netpress.core.engine import Schedule, fit
from netpress.core.networks import build_model
from netpress.distill.losses import kd
from netpress.distill.run import taught_by
from netpress.params import plugins
from netpress.params.items import Distill
from netpress.params.schema import parse

#: Ordinary options of every method; the contract test runs over all of them.
OPTIONS = {"kd": {"temperature": 4.0, "weight": 0.7}}


def logits(seed, count=8, classes=5):
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)) * 3


def one_hot(count=8, classes=5):
    return F.one_hot(torch.arange(count) % classes, classes).float()


@given(temperature=st.floats(0.5, 20), seed=st.integers(0, 1000))
@settings(max_examples=50)
def test_kd_is_hintons_formula(temperature, seed):
    student, teacher = logits(seed).double(), logits(seed + 1).double()
    p = torch.softmax(teacher / temperature, 1)
    q = torch.softmax(student / temperature, 1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    loss = kd.loss(student, teacher, one_hot().double(), kd.Options(temperature=temperature, weight=1.0))
    assert loss.item() == pytest.approx(divergence.item() * temperature**2, rel=1e-6, abs=1e-9)


def test_kd_without_weight_is_cross_entropy():
    loss = kd.loss(logits(0), logits(1), one_hot(), kd.Options(temperature=4.0, weight=0.0))
    assert loss.item() == pytest.approx(F.cross_entropy(logits(0), one_hot()).item(), rel=1e-6)


def test_kd_is_averaged_over_images_only():
    """PyTorch's own mean would divide by the number of classes as well."""
    options = kd.Options(temperature=2.0, weight=1.0)
    wide = kd.loss(logits(0, classes=50), logits(1, classes=50), one_hot(classes=50), options)
    mean = F.kl_div(
        F.log_softmax(logits(0, classes=50) / 2, 1), F.softmax(logits(1, classes=50) / 2, 1), reduction="mean"
    )
    assert wide.item() == pytest.approx(mean.item() * 50 * 4, rel=1e-5)


def test_every_method_has_its_options_here():
    assert set(OPTIONS) == set(plugins.names("distill/losses"))


@pytest.mark.parametrize("name", plugins.names("distill/losses"))
def test_contract(name):
    """Finite, lowest at the teacher's own logits when the labels agree, and with a gradient for the student alone."""
    method = plugins.load("distill/losses", name)
    options = parse(method.Options, OPTIONS[name], name)
    teacher = (one_hot() * 10).requires_grad_()
    student = logits(3).requires_grad_()
    far = method.loss(student, teacher.detach(), one_hot(), options)
    near = method.loss(teacher, teacher.detach(), one_hot(), options)
    far.backward()
    assert math.isfinite(far.item())
    assert near.item() < far.item()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


class Fixed(nn.Module):
    """A teacher that always says class 2, and records what it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(images.clone())
        return torch.tensor([[-8.0, -8.0, 8.0]]).expand(len(images), 3)


def item(weight, view="same"):
    return Distill(
        arch="compact_cnn",
        options={},
        recipe="plain",
        epochs=1,
        teacher="train/x",
        method="kd",
        method_options={"temperature": 1.0, "weight": weight},
        teacher_view=view,
        allow_larger=False,
    )


@pytest.mark.parametrize(("weight", "follows"), [(1.0, True), (0.0, False)])
def test_the_student_follows_its_teacher_as_far_as_the_weight_says(weight, follows):
    torch.manual_seed(0)
    student = build_model("compact_cnn", 3, 1, width=0.25)
    train, val = striped(96), striped(48, seed=1)
    objective = taught_by(Fixed(), item(weight), RUNTIME)
    fit(student, train, val, Schedule(RECIPE, 6, 0), RUNTIME, "test", objective)
    says_two = (student(val.normalize(val.images)).argmax(1) == 2).float().mean().item()
    assert (says_two > 0.95) if follows else (says_two < 0.5)


@pytest.mark.parametrize("view", ["same", "plain"])
def test_the_teacher_sees_the_view_that_the_item_names(view):
    teacher = Fixed()
    objective = taught_by(teacher, item(0.5, view), RUNTIME)
    images, plain = torch.randn(4, 1, 28, 28), torch.randn(4, 1, 28, 28)
    objective(Batch(images, one_hot(4, 3), lambda: plain), torch.randn(4, 3))
    assert torch.equal(teacher.seen[0], images if view == "same" else plain)
