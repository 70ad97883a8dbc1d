"""Standardized logits, attention transfer, multi-level logits and knowledge review, against formulas and laws."""

import pytest
import torch
import torch.nn.functional as F
from conftest import NO_AUGMENT, RUNTIME, striped
from hypothesis import given, settings
from hypothesis import strategies as st

from netpress.base.errors import ConfigError, ParamsError
from netpress.core.batches import Batch
from netpress.core.context import Method
from netpress.core.networks import build_model
from netpress.core.taps import Seen
from netpress.distill.losses import at, dkd, kd, mlkd, reviewkd
from netpress.distill.run import Taught, are_fixed
from netpress.distill.teaching.standardization import standardized
from netpress.params import plugins
from netpress.params.schema import parse


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits(seed, count=8, classes=5):
    return normal(count, classes, seed=seed) * 3


def one_hot(count=8, classes=5):
    return F.one_hot(torch.arange(count) % classes, classes).double()


def seen(values, **features):
    return Seen(values, features)


HARD = F.cross_entropy(logits(0), one_hot())
LOGITS = {
    "kd": (kd, {"temperature": 2.0, "weight": 0.9, "standardize": True}),
    "dkd": (dkd, {"temperature": 2.0, "alpha": 1.0, "beta": 2.0, "standardize": True}),
    "mlkd": (mlkd, {"temperatures": [2.0, 4.0], "instance": 1.0, "batch": 2.0, "classes": 3.0}),
}


def of_logits(name, student, teacher, **changes):
    module, options = LOGITS[name]
    return module.loss(seen(student), seen(teacher), one_hot(), module.Options(**options | changes), None)


# Logit standardization


def test_standardized_logits_are_the_published_z_scores():
    """Mean and unbiased deviation over the classes of each image, the deviation raised by 1e-7; features stay."""
    values, features = logits(3), {"a": normal(2, 3)}
    found = standardized(Seen(values, features))
    for row, image in zip(found.logits, values, strict=True):
        mean = image.sum() / 5
        deviation = ((image - mean).square().sum() / 4).sqrt()
        torch.testing.assert_close(row, (image - mean) / (1e-7 + deviation), rtol=1e-12, atol=1e-12)
    assert found.features is features


def test_standardized_kd_is_kd_of_the_z_scores_and_labels_of_the_logits():
    student, teacher = logits(0), logits(1)
    q, p = (torch.softmax(standardized(seen(z)).logits / 2, 1) for z in (student, teacher))
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(of_logits("kd", student, teacher), 0.1 * HARD + 0.9 * 4 * divergence)


def test_standardized_dkd_is_dkd_of_the_z_scores_and_labels_of_the_logits():
    student, teacher = logits(0), logits(1)
    views = (standardized(seen(z)) for z in (student, teacher))
    true_class, others = dkd.parts(*views, one_hot(), 2.0)
    expected = HARD + 4 * (true_class.mean() + 2 * others.mean())
    torch.testing.assert_close(of_logits("dkd", student, teacher), expected)


@pytest.mark.parametrize("name", ["kd", "dkd"])
@given(scale=st.floats(0.1, 20), shift=st.floats(-10, 10), image=st.integers(0, 7))
@settings(max_examples=25, deadline=None)
def test_a_standardized_teacher_may_scale_and_shift_the_logits_of_any_image(name, scale, shift, image):
    """The student's may too, but for what the labels say of them."""
    moved, student = logits(1), logits(0)
    moved[image] = scale * moved[image] + shift
    torch.testing.assert_close(of_logits(name, student, moved), of_logits(name, student, logits(1)), rtol=1e-6, atol=0)
    moved = student.clone()
    moved[image] = scale * moved[image] + shift
    share = 0.1 if name == "kd" else 1.0
    soft = of_logits(name, moved, logits(1)) - share * F.cross_entropy(moved, one_hot())
    torch.testing.assert_close(soft, of_logits(name, student, logits(1)) - share * HARD, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["kd", "dkd"])
def test_without_standardize_the_size_of_the_logits_counts(name):
    student, teacher = logits(0), logits(1)
    plain, larger = (of_logits(name, student, scale * teacher, standardize=False) for scale in (1, 2))
    assert abs(larger - plain) > 0.1
    assert abs(of_logits(name, student, teacher) - plain) > 0.1


def test_equal_logits_of_an_image_have_a_finite_gradient():
    """As those of a network whose last layer is zero."""
    student = torch.zeros(8, 5, dtype=torch.float64, requires_grad=True)
    of_logits("kd", student, logits(1)).backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(("module", "options"), [LOGITS["kd"], LOGITS["dkd"]])
def test_z_scores_of_two_classes_are_refused(module, options):
    two = seen(logits(0, classes=2))
    with pytest.raises(ParamsError, match=r"method_options\.standardize: of two classes' .* set it to false"):
        module.loss(two, two, one_hot(classes=2), module.Options(**options), None)
    off = module.Options(**options | {"standardize": False})
    assert torch.isfinite(module.loss(two, two, one_hot(classes=2), off, None))


# Multi-level logits


@given(temperature=st.floats(0.5, 20), seed=st.integers(0, 1000), count=st.integers(1, 9), classes=st.integers(2, 7))
@settings(max_examples=30, deadline=None)
def test_levels_are_those_of_the_paper(temperature, seed, count, classes):
    """Gram matrices entry by entry."""
    student, teacher = logits(seed, count, classes), logits(seed + 1, count, classes)
    q, p = (torch.softmax(z / temperature, 1) for z in (student, teacher))
    instance = (p * (p.log() - q.log())).sum(1).mean() * temperature**2
    images = sum((p[i] @ p[j] - q[i] @ q[j]) ** 2 for i in range(count) for j in range(count)) / count
    pairs = [(j, k) for j in range(classes) for k in range(classes)]
    between = sum((p[:, j] @ p[:, k] - q[:, j] @ q[:, k]) ** 2 for j, k in pairs) / classes
    found = mlkd.levels(student, teacher, temperature)
    torch.testing.assert_close(found, torch.stack([instance, images, between]), rtol=1e-8, atol=1e-12)


def test_levels_are_weighted_and_added_over_the_temperatures():
    two, four = (mlkd.levels(logits(0), logits(1), t) for t in (2.0, 4.0))
    expected = HARD + two[0] + four[0] + 2 * (two[1] + four[1]) + 3 * (two[2] + four[2])
    torch.testing.assert_close(of_logits("mlkd", logits(0), logits(1)), expected)


def test_batches_see_images_that_classes_do_not():
    """Classes renamed alike in all images leave the batch's part alone, images in another order the classes' part."""
    p = logits(1)
    _, images, classes = mlkd.levels(p[:, [1, 2, 3, 4, 0]], p, 2.0)
    assert images < 1e-20 < 1e-3 < classes
    _, images, classes = mlkd.levels(p[[1, 2, 3, 4, 5, 6, 7, 0]], p, 2.0)
    assert classes < 1e-20 < 1e-3 < images


# Attention transfer


def attended(ours, theirs, beta=1.0):
    """The loss for lists of maps, without the labels' part."""
    pairs = [[f"s{k}", f"t{k}"] for k in range(len(ours))]
    student, teacher = ({f"{who}{k}": m for k, m in enumerate(maps)} for who, maps in (("s", ours), ("t", theirs)))
    options = at.Options(layers=pairs, beta=beta)
    return at.loss(seen(logits(0), **student), seen(logits(1), **teacher), one_hot(), options, None) - HARD


def attention(maps):
    """The paper's: squares added over channels, of unit length for each image."""
    flat = sum(maps[:, c] ** 2 for c in range(maps.shape[1])).reshape(len(maps), -1)
    return flat / flat.square().sum(1, keepdim=True).sqrt()


def test_attention_transfer_is_the_authors_formula_added_over_the_pairs():
    ours = [normal(8, 3, 4, 4), normal(8, 6, 2, 3, seed=1)]
    theirs = [normal(8, 5, 4, 4, seed=2), normal(8, 2, 2, 3, seed=3)]
    each = [(attention(a) - attention(b)).square().sum() / a[:, 0].numel() for a, b in zip(ours, theirs, strict=True)]
    torch.testing.assert_close(attended(ours, theirs, beta=7.0), 7 * (each[0] + each[1]))


@given(scale=st.floats(0.01, 100), image=st.integers(0, 7))
@settings(max_examples=25, deadline=None)
def test_attention_does_not_see_the_scale_of_an_image_nor_signs_and_order_of_channels(scale, image):
    ours, theirs = normal(8, 3, 4, 4), normal(8, 5, 4, 4, seed=1)
    moved = ours[:, [2, 0, 1]].clone()
    moved[image] *= -scale
    torch.testing.assert_close(attended([moved], [theirs]), attended([ours], [theirs]))
    torch.testing.assert_close(attended([theirs], [moved]), attended([ours], [theirs]))


def test_attention_of_a_larger_map_is_averaged_to_the_smaller():
    """The attention, not the features: signs do not cancel."""
    large, small = normal(8, 3, 4, 6), normal(8, 5, 2, 3, seed=1)
    averaged = large.square().sum(1).reshape(8, 2, 2, 3, 2).mean((2, 4))
    expected = attended([averaged.sqrt()[:, None]], [small])
    torch.testing.assert_close(attended([large], [small]), expected)
    torch.testing.assert_close(attended([small], [large]), expected)


def test_a_map_of_zeros_has_a_finite_gradient():
    ours = torch.zeros(8, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    attended([ours], [normal(8, 3, 4, 4)]).backward()
    assert torch.isfinite(ours.grad).all()


# Knowledge review


@pytest.mark.parametrize(
    ("size", "weights"),
    [
        ((8, 8), {8: 1.0, 4: 0.5, 2: 0.25, 1: 0.125}),
        ((4, 4), {4: 1.0, 2: 0.5, 1: 0.25}),
        ((2, 2), {2: 1.0, 1: 0.5}),
        ((1, 1), {1: 1.0}),
    ],
)
def test_hierarchical_context_is_the_weighted_mean_over_the_scales(size, weights):
    """Each scale of half the weight of the one before, over the sum of the weights."""
    ours, theirs = normal(2, 3, *size), normal(2, 3, *size, seed=1)
    total = 0.0
    for side, weight in weights.items():
        cells = size[0] // side
        one, other = (m.reshape(2, 3, side, cells, side, cells).mean((3, 5)) for m in (ours, theirs))
        total += weight * (one - other).square().mean()
    torch.testing.assert_close(reviewkd.hierarchical(ours, theirs), total / sum(weights.values()))


def test_a_fusion_is_the_papers():
    """Two maps of attention, from both features, weigh them at each place; what is fused goes on upwards."""
    torch.manual_seed(0)
    fusion = reviewkd.Fusion(3, 4, 5, fuses=True).double().eval()
    maps, carried = normal(2, 3, 4, 4), normal(2, 4, 2, 2, seed=1)
    own = F.batch_norm(torch.einsum("oc,bchw->bohw", fusion.narrow[0].weight[:, :, 0, 0], maps), *statistics(4))
    enlarged = carried.repeat_interleave(2, 2).repeat_interleave(2, 3)
    weight, bias = fusion.attention.weight[:, :, 0, 0], fusion.attention.bias[:, None, None]
    shares = torch.sigmoid(torch.einsum("oc,bchw->bohw", weight, torch.cat([own, enlarged], 1)) + bias)
    fused = shares[:, 0, None] * own + shares[:, 1, None] * enlarged
    found, left = fusion(maps, carried, (8, 8))
    expected = fused.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(left, expected)
    torch.testing.assert_close(
        found, F.batch_norm(F.conv2d(expected, fusion.give[0].weight, padding=1), *statistics(5))
    )


def statistics(channels):
    return torch.zeros(channels).double(), torch.ones(channels).double()


SHAPES = {"s0": (3, 8, 8), "s1": (6, 4, 4), "s2": (7, 1, 1)}, {"t0": (4, 6, 6), "t1": (5, 4, 4), "t2": (9, 1, 1)}
REVIEW = reviewkd.Options(layers=[["s0", "t0"], ["s1", "t1"], ["s2", "t2"]], weight=2.0)


def reviewed(adapter, count=2, **changes):
    """The features of both, and the maps that are compared with the teacher's."""
    ours, theirs = ({name: normal(count, *shape, seed=4) for name, shape in shapes.items()} for shapes in SHAPES)
    ours |= changes
    return ours, theirs, adapter(list(ours.values()), [maps.shape[2:] for maps in theirs.values()])


def test_the_review_gives_the_teachers_shapes_and_adds_what_they_differ():
    torch.manual_seed(0)
    adapter = reviewkd.adapter(*SHAPES, REVIEW).double()
    ours, theirs, maps = reviewed(adapter, count=8)
    assert [tuple(found.shape[1:]) for found in maps] == list(SHAPES[1].values())
    found = reviewkd.loss(seen(logits(0), **ours), seen(logits(1), **theirs), one_hot(), REVIEW, adapter)
    parts = sum(reviewkd.hierarchical(a, b) for a, b in zip(maps, theirs.values(), strict=True))
    torch.testing.assert_close(found, HARD + 2 * parts)
    assert adapter.fusions[2].attention is None
    assert {fusion.give[0].in_channels for fusion in adapter.fusions} == {7}  # those of the student's deepest layer


def test_a_layer_of_the_teacher_teaches_the_students_of_its_depth_and_below_and_none_above():
    torch.manual_seed(0)
    adapter = reviewkd.adapter(*SHAPES, REVIEW).double().eval()
    _, _, before = reviewed(adapter)
    for k, (name, shape) in enumerate(SHAPES[0].items()):
        _, _, after = reviewed(adapter, **{name: normal(2, *shape, seed=9)})
        changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert changed == [j <= k for j in range(3)]


def test_maps_may_change_their_sizes_during_training():
    """As those of images that grow do."""
    adapter = reviewkd.adapter(*SHAPES, REVIEW).double()
    ours = [normal(2, c, side, side) for (c, _, _), side in zip(SHAPES[0].values(), (5, 3, 1), strict=True)]
    assert [tuple(m.shape[1:]) for m in adapter(ours, [(5, 5), (2, 2), (1, 1)])] == [(4, 5, 5), (5, 2, 2), (9, 1, 1)]


# All of them


@pytest.mark.parametrize("name", LOGITS)
def test_a_student_that_says_what_its_teacher_says_has_the_loss_of_the_labels_alone(name):
    share = 0.1 if name == "kd" else 1.0
    torch.testing.assert_close(of_logits(name, logits(0), logits(0)), share * HARD)
    assert of_logits(name, logits(0), logits(1)) > share * HARD + 0.1


def test_equal_maps_have_no_loss():
    maps, other = normal(8, 3, 4, 4), normal(8, 3, 4, 4, seed=1)
    assert abs(attended([maps], [maps])) < 1e-12 < 1e-3 < attended([maps], [other])
    assert reviewkd.hierarchical(maps, maps) == 0 < 0.1 < reviewkd.hierarchical(maps, other)


def checked(function, *values):
    assert torch.autograd.gradcheck(function, tuple(value.clone().requires_grad_() for value in values))


def test_gradients_are_those_of_finite_differences():
    small, targets = (logits(k, 3, 4) for k in (0, 1)), one_hot(3, 4)
    student, teacher = small
    for module, options in LOGITS.values():
        config = module.Options(**options)
        checked(lambda z, m=module, o=config: m.loss(seen(z), seen(teacher), targets, o, None), student)
    checked(lambda a: at.difference(a, normal(2, 2, 2, 2, seed=1)), normal(2, 3, 4, 4))
    checked(lambda a: reviewkd.hierarchical(a, normal(2, 2, 4, 4, seed=1)), normal(2, 2, 4, 4))
    adapter = reviewkd.adapter(*SHAPES, REVIEW).double().eval()
    fixed = [normal(1, *shape) for shape in SHAPES[0].values()]
    checked(lambda a, b: adapter([fixed[0], a, b], [(2, 2), (4, 4), (1, 1)])[0], *fixed[1:])


# Options and mistakes


def taught(name, options, teacher_view="same"):
    module = plugins.load("distill/losses", name)
    method = Method(name, module, parse(module.Options, module.EXAMPLE | options, "method_options"))
    torch.manual_seed(0)
    student, teacher = (build_model("compact_cnn", 3, 1, width=width) for width in (0.25, 0.5))
    objective = Taught(student, [teacher], method, teacher_view, RUNTIME, striped(8))
    images = torch.randn(4, 1, 28, 28)
    return objective(Batch(images, one_hot(4, 3).float(), torch.arange(4), lambda: images), student(images))


@pytest.mark.parametrize(
    ("name", "layers", "text"),
    [
        ("at", [["0.3", "0.9"]], r"method_options: the teacher has no layer '0\.9', did you mean '0"),
        ("at", [["2", "0.3"]], r"layer '2' of the student gives \(\d+,\); name one that gives \(channels, height"),
        ("at", [["0.3", "2"]], r"layer '2' of the teacher gives \(\d+,\); name one that gives \(channels, height"),
        ("reviewkd", [["0.3", "0.3"], ["2", "1"]], r"layer '2' of the student gives \(\d+,\); name one that gives"),
        ("reviewkd", [["0.3", "0.3"], ["1", "3"]], r"layer '3' of the teacher gives \(\d+,\); name one that gives"),
        ("at", [["0.3"]], r"method_options\.layers\.0 = \['0\.3'\]: must be a list with at least 2 entries .*teacher"),
        ("reviewkd", [["0.3"] * 3], r"method_options\.layers\.0 = .*: must be a list with .* at most 2 entries"),
        ("at", [], r"method_options\.layers = \[\]: must be a list with at least 1 entries"),
    ],
)
def test_layers_that_do_not_exist_or_fit_are_named(name, layers, text):
    with pytest.raises(ConfigError, match=text):
        taught(name, {"layers": layers})


@pytest.mark.parametrize("name", ["at", "reviewkd"])
def test_pooled_maps_and_one_layer_twice_are_taken(name):
    assert torch.isfinite(taught(name, {"layers": [["0.3", "0.2"], ["0.3", "0.5"], ["1", "1"]]}))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperatures": []}, r"method_options\.temperatures = \[\]: must be a list with at least 1 entries"),
        ({"temperatures": [2.0, 0.0]}, r"method_options\.temperatures\.1 = 0\.0: must be a number above 0"),
        ({"classes": -1.0}, r"method_options\.classes = -1\.0: must be a number at least 0"),
    ],
)
def test_temperatures_and_weights_out_of_range_are_named(options, text):
    with pytest.raises(ConfigError, match=text):
        taught("mlkd", options)


@pytest.mark.parametrize(("name", "fixed"), [("kd", True), ("dkd", True), ("mlkd", True), ("at", False)])
def test_losses_on_logits_alone_need_the_teacher_once(name, fixed):
    module = plugins.load("distill/losses", name)
    method = Method(name, module, parse(module.Options, module.EXAMPLE, name))
    assert are_fixed(method, "plain", NO_AUGMENT) is fixed
