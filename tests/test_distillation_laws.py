"""Decoupled, relational and correlation-based distillation against their formulas and laws."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.core.taps import Seen
from netpress.distill.losses import dist, dkd, rkd


def logits(seed, count=8, classes=5):
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)).double() * 3


def one_hot(count=8, classes=5):
    return F.one_hot(torch.arange(count) % classes, classes).double()


def seen(values, **features):
    return Seen(values, features)


@given(temperature=st.floats(0.5, 20), seed=st.integers(0, 1000), classes=st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_hintons_divergence_is_the_first_part_and_the_teachers_doubt_times_the_second(temperature, seed, classes):
    """Equation 7 of the paper."""
    student, teacher, targets = (
        logits(seed, classes=classes),
        logits(seed + 1, classes=classes),
        one_hot(classes=classes),
    )
    true_class, others = dkd.parts(seen(student), seen(teacher), targets, temperature)
    p, q = (torch.softmax(z / temperature, 1) for z in (teacher, student))
    whole = (p * (p.log() - q.log())).sum(1)
    doubt = 1 - p[targets.bool()]
    torch.testing.assert_close(true_class + doubt * others, whole, rtol=1e-8, atol=1e-12)


def test_decoupled_distillation_adds_its_parts_to_the_labels():
    student, teacher, targets = logits(0), logits(1), one_hot()
    options = dkd.Options(temperature=2.0, alpha=3.0, beta=5.0, standardize=False)
    true_class, others = dkd.parts(seen(student), seen(teacher), targets, 2.0)
    expected = F.cross_entropy(student, targets) + 4 * (3 * true_class.mean() + 5 * others.mean())
    torch.testing.assert_close(dkd.loss(seen(student), seen(teacher), targets, options, None), expected)
    # The published definition, with the classes that are not meant pushed away.
    p, q = (torch.softmax(z / 2 - 1000 * targets, 1) for z in (teacher, student))
    published = F.kl_div((q + 1e-300).log(), p, reduction="none").sum(1)
    torch.testing.assert_close(others, published)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (dkd, {"temperature": 3.0, "alpha": 1.0, "beta": 8.0, "standardize": False}),
        (dist, {"temperature": 3.0, "beta": 2.0, "gamma": 2.0}),
    ],
)
def test_a_student_that_says_what_its_teacher_says_has_the_loss_of_the_labels_alone(module, options):
    same = module.loss(seen(logits(3)), seen(logits(3)), one_hot(), module.Options(**options), None)
    torch.testing.assert_close(same, F.cross_entropy(logits(3), one_hot()))
    other = module.loss(seen(logits(3)), seen(logits(4)), one_hot(), module.Options(**options), None)
    assert other > same + 0.1


@given(scale=st.floats(0.1, 5), shift=st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_correlations_do_not_see_scale_and_shift(scale, shift):
    one, other = logits(0), logits(1)
    found = dist.correlation(one, scale * other + shift)
    torch.testing.assert_close(found, dist.correlation(one, other))
    expected = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(one, other, strict=True)])
    torch.testing.assert_close(found, expected)


def test_dist_is_the_two_relations():
    student, teacher, targets = logits(0), logits(1), one_hot()
    s, t = (torch.softmax(z / 2, 1) for z in (student, teacher))
    between = torch.stack([1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s, t, strict=True)]).mean()
    within = torch.stack([1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s.T, t.T, strict=True)]).mean()
    found = dist.loss(seen(student), seen(teacher), targets, dist.Options(temperature=2.0, beta=3.0, gamma=0.5), None)
    torch.testing.assert_close(found, F.cross_entropy(student, targets) + 4 * (3 * between + 0.5 * within))


OF = rkd.Options(student_layer="s", teacher_layer="t", distance=2.0, angle=3.0)


def related(ours, theirs):
    return rkd.loss(seen(logits(0), s=ours), seen(logits(1), t=theirs), one_hot(), OF, None)


def test_relations_are_those_of_the_paper():
    features = logits(5, count=6, classes=4)
    apart = torch.cdist(features, features)
    torch.testing.assert_close(rkd.distances(features), apart / apart[apart > 0].mean())
    cosines = rkd.angles(features)
    for i, j, k in [(0, 1, 2), (3, 5, 1), (2, 2, 4)]:
        expected = F.cosine_similarity(features[i] - features[j], features[k] - features[j], dim=0)
        torch.testing.assert_close(cosines[j, i, k], expected)


def test_relations_do_not_see_size_place_rotation_and_number_of_features():
    theirs = logits(5, classes=4)
    turn, _ = torch.linalg.qr(logits(6, count=7, classes=7))
    ours = 3 * F.pad(theirs, (0, 3)) @ turn + 5
    hard = F.cross_entropy(logits(0), one_hot())
    torch.testing.assert_close(related(ours, theirs), hard)
    assert related(logits(7, classes=4), theirs) > hard + 0.05


def test_equal_images_have_a_gradient():
    ours = logits(5, classes=4).repeat(1, 1)
    ours[1] = ours[0]
    ours.requires_grad_()
    related(ours, logits(8, classes=4)).backward()
    assert torch.isfinite(ours.grad).all()


def test_maps_are_compared_by_their_means():
    maps = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(related(maps, maps.mean((2, 3))), F.cross_entropy(logits(0), one_hot()))
