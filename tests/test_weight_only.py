"""Weights in few bits, otherwise than rounded to the nearest: AdaRound, k-means, and bits by sensitivity."""

import itertools

import numpy as np
import onnx
import pytest
import torch
from conftest import striped
from hypothesis import given, settings
from hypothesis import strategies as st
from test_quantization import kinds, one_layer, optimized, trained_on

from netpress.base.errors import ConfigError, ParamsError
from netpress.core.export import OnnxModule, export_onnx
from netpress.core.networks import build_model
from netpress.params.schema import parse
from netpress.quantize.common import inputs, stored
from netpress.quantize.methods import adaround, kmeans, mixed, weights
from netpress.quantize.run import calibration_images, initializer_bytes

ADAROUND = {"bits": 4, "block": 0, "calibration_images": 64, "steps": 300, "lr": 0.03, "regularization": 1.0}
MIXED = {"mean_bits": 5.0, "block": 0, "calibration_images": 64}


@pytest.fixture(scope="module")
def images():
    return calibration_images(striped(64), 64, 0)


def exported(arch="compact_cnn", **options):
    torch.manual_seed(0)
    return export_onnx(build_model(arch, 3, 1, **options).eval(), 1, 28, 28)


def logits(data, images):
    return OnnxModule(data, threads=1)(torch.from_numpy(images)).numpy()


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def moments(x, y):
    """x' x'^T and (x' - x) x'^T of inputs (places, inputs), x in fp32 and x' quantized."""
    x, y = torch.from_numpy(x).double(), torch.from_numpy(y).double()
    return (y.T @ y)[None], ((y - x).T @ y)[None]


def squared(w, x, made, y):
    """||W x - W' x'||^2, written out."""
    return float(((x.astype(np.float64) @ w.T - y.astype(np.float64) @ made.T) ** 2).sum())


def test_adarounds_error_is_that_of_the_outputs_but_for_a_constant():
    w, x, y = normal(0, 3, 8), normal(1, 50, 8), normal(2, 50, 8)
    steps = np.abs(normal(3, 3, 8))
    error = adaround.Error(w, steps, *moments(x, y))
    unit = np.mean([steps[o, i] ** 2 * (y[:, i].astype(np.float64) ** 2).sum() for o in range(3) for i in range(8)])
    one, other = normal(4, 3, 8), normal(5, 3, 8)
    found = float(error(torch.from_numpy(one)) - error(torch.from_numpy(other)))
    assert found == pytest.approx((squared(w, x, one, y) - squared(w, x, other, y)) / unit, rel=1e-5)


def test_adarounds_groups_have_errors_of_their_own():
    w, steps = normal(0, 4, 8), np.ones((4, 8), np.float32)
    pairs = [moments(normal(s, 50, 8), normal(s + 1, 50, 8)) for s in (1, 3)]
    both = adaround.Error(w, steps, *(torch.cat(parts) for parts in zip(*pairs, strict=True)))
    made = normal(9, 4, 8)
    halves = [adaround.Error(w[k : k + 2], steps[:2], *pair) for k, pair in zip((0, 2), pairs, strict=True)]
    traces = [float(squares.diagonal(dim1=1, dim2=2).sum()) for squares, _ in pairs]
    parts = [half(torch.from_numpy(made[k : k + 2])) for k, half in zip((0, 2), halves, strict=True)]
    expected = sum(float(part) * trace for part, trace in zip(parts, traces, strict=True)) * 2 / sum(traces)
    assert float(both(torch.from_numpy(made))) == pytest.approx(expected, rel=1e-5)


def test_adarounds_formulas():
    v = np.linspace(-6, 6, 25)
    h = np.minimum(1, np.maximum(0, 1.2 / (1 + np.exp(-v)) - 0.1))
    np.testing.assert_allclose(adaround.rectified_sigmoid(torch.from_numpy(v)).numpy(), h, atol=1e-12)
    assert {0.0, 1.0} < set(h)
    penalty = adaround.regularizer(torch.from_numpy(h), 3.0).numpy()
    np.testing.assert_allclose(penalty, [1 - abs(2 * value - 1) ** 3 for value in h], atol=1e-12)
    assert [adaround.beta_at(done) for done in (0, 0.19, 0.2, 0.6, 1)] == [None, None, 20, pytest.approx(11), 2]


shapes = st.tuples(st.integers(1, 4), st.integers(1, 20))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=shapes,
    block=st.integers(1, 20),
    bits=st.sampled_from([4, 8]),
    steps=st.sampled_from([1, 10, 60]),
    lr=st.sampled_from([0.01, 0.5]),
)
def test_adaround_rounds_up_or_down_and_its_error_is_never_above_the_nearests(seed, shape, block, bits, steps, lr):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=shape).astype(np.float32)
    w[0, 0] = 0
    x = rng.normal(size=(30, 3)) @ rng.normal(size=(3, shape[1]))
    x, y = (v.astype(np.float32) for v in (x, x + 0.1 * rng.normal(size=x.shape)))
    block = min(block, shape[1])
    options = adaround.Options(**ADAROUND | {"bits": bits, "steps": steps, "lr": lr})
    made = adaround.round_for(w, block, *moments(x, y), options)
    nearest = stored.round_to_grid(w, bits, block)
    np.testing.assert_array_equal(made.scales, nearest.scales)
    scaled = stored.blocked(w, block) / nearest.scales
    low, high = np.floor(scaled - 1e-5), np.ceil(scaled + 1e-5)
    assert ((made.integers >= low) & (made.integers <= high)).all()
    assert (made.integers[scaled == 0] == 0).all()
    assert np.abs(made.integers).max() <= 2 ** (bits - 1) - 1
    ours, theirs = (squared(w, x, found.rows(shape[1]), y) for found in (made, nearest))
    assert ours <= theirs * (1 + 1e-4) + 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_where_adaround_goes_too_far_the_nearest_is_kept(seed):
    """One large step moves all weights of one output the same way where their inputs are equal."""
    w, x = normal(seed, 1, 30), np.ones((10, 30), np.float32)
    options = adaround.Options(**ADAROUND | {"steps": 1, "lr": 1.0})
    made = adaround.round_for(w, 30, *moments(x, x), options)
    np.testing.assert_array_equal(made.integers, stored.round_to_grid(w, 4, 30).integers)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=shapes)
def test_adaround_for_uncorrelated_inputs_of_fp32_is_rounding_to_the_nearest(seed, shape):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=shape).astype(np.float32)
    squares = torch.diag_embed(torch.from_numpy(rng.uniform(0.1, 9, (1, shape[1]))))
    options = adaround.Options(**ADAROUND | {"steps": 20})
    made = adaround.round_for(w, shape[1], squares, torch.zeros_like(squares), options)
    np.testing.assert_array_equal(made.integers, stored.round_to_grid(w, 4, shape[1]).integers)


@pytest.mark.parametrize("seed", range(3))
def test_adaround_comes_near_the_best_of_all_roundings(seed):
    """Of one output of 8 inputs that lie in few directions, all 256 tried."""
    w, x = normal(seed, 1, 8), normal(seed + 10, 60, 3) @ normal(seed + 20, 3, 8)
    x = (x + 0.1 * normal(seed + 30, 60, 8)).astype(np.float32)
    made = adaround.round_for(w, 8, *moments(x, x), adaround.Options(**ADAROUND | {"steps": 1000}))
    nearest = stored.round_to_grid(w, 4, 8)
    scale = nearest.scales[0, 0, 0]
    low = np.floor(w / scale)
    tried = [scale * np.clip(low + np.array(up), -7, 7) for up in itertools.product((0, 1), repeat=8)]
    best = min(squared(w, x, t, x) for t in tried)
    ours, theirs = (squared(w, x, found.rows(8), x) for found in (made, nearest))
    assert ours - best < 0.2 * (theirs - best)


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gemm transposed", "Conv"])
def test_adaround_stores_what_weights_stores_and_is_closer(kind):
    w = normal(1, 17, 27)
    x = (normal(2, 512, 4) @ normal(3, 4, 27) + 0.1 * normal(4, 512, 27)).astype(np.float32)
    seen, others = (part.reshape(-1, 3, 3, 3) for part in (x[:256], x[256:]))
    model = trained_on(one_layer(kind, w), seen)
    ours = adaround.quantize(model, adaround.Options(**ADAROUND | {"calibration_images": 256, "block": 5}))
    nearest = weights.quantize(model, weights.Options(bits=4, block=5))
    assert len(ours) == len(nearest)
    assert kinds(onnx.load_from_string(ours)) == kinds(onnx.load_from_string(nearest))
    off = [np.square(logits(data, others) - x[256:] @ w.T).mean() for data in (ours, nearest)]
    assert off[0] < 0.3 * off[1]


def test_adaround_follows_the_outputs_of_fp32_from_the_inputs_of_the_rounded(images):
    data = exported(width=0.25)
    original, working = (onnx.load_from_string(data) for _ in range(2))
    first, second, *_ = stored.layers_of(working)
    inputs.replace(working, first, first.nearest(4, 0))
    x, y = (torch.cat(list(inputs.inputs_of(model, second, images))) for model in (original, working))
    assert not torch.equal(x, y)
    squares, shift = adaround.moments(original, working, second, images)
    torch.testing.assert_close(squares, inputs.moment(second, [(y, y)], "adaround"))
    torch.testing.assert_close(shift, squares - inputs.moment(second, [(x, y)], "adaround"), rtol=1e-4, atol=1e-3)


def test_a_convolution_that_adaround_cannot_unfold_is_named():
    model = onnx.load_from_string(one_layer("Conv", np.ones((17, 27), np.float32)))
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    conv.attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
    given = trained_on(model.SerializeToString(), np.ones((4, 3, 3, 3), np.float32))
    with pytest.raises(ParamsError, match=r"method = adaround: adaround cannot round w: .*; use weights"):
        adaround.quantize(given, adaround.Options(**ADAROUND))


def nearest_of(values, levels):
    """Each value's nearest level, by comparing all."""
    return levels[np.abs(values[..., None] - levels).argmin(-1)]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-40, 40) | st.floats(-1e4, 1e4, width=32), min_size=1, max_size=80),
    levels=st.lists(st.floats(-1e4, 1e4, width=32), min_size=16, max_size=16),
)
def test_clustering_is_never_further_off_than_the_levels_it_starts_from(values, levels):
    values, start = np.array(values, np.float32), np.sort(np.array(levels, np.float32))
    made = kmeans.clustered(values, start)
    ours, theirs = (
        np.square(found.astype(np.float64) - values).sum() for found in (made.rows(0), nearest_of(values, start))
    )
    assert ours <= theirs * (1 + 1e-6)
    if len(np.unique(values)) <= 16:
        np.testing.assert_array_equal(made.rows(0), values)


@pytest.mark.parametrize("count", [16, 256])
@pytest.mark.parametrize("seed", [0, 1])
def test_clusters_stand_still(count, seed):
    """Each weight is at the nearest value, each value is the mean of its weights, and none is without."""
    w = normal(seed, 60, 50)
    w[0, 0] = 30  # leaves the values between it and the rest without weights at first
    made = kmeans.clustered(w, kmeans.linear_start(w, count))
    np.testing.assert_array_equal(made.rows(0), nearest_of(w, made.codebook))
    means = [w[made.indices == k].mean() for k in range(count)]
    np.testing.assert_allclose(made.codebook, means, rtol=1e-5, atol=1e-6)
    again = kmeans.clustered(w, made.codebook)
    np.testing.assert_array_equal(again.codebook, made.codebook)


def test_clustering_agrees_with_a_second_implementation():
    w = normal(2, 500)
    levels = np.array([w.min() + (w.max() - w.min()) * k / 7 for k in range(8)])
    for _ in range(200):
        nearest = np.abs(w[:, None] - levels).argmin(1)
        levels = np.array([w[nearest == k].mean() for k in range(8)])
    np.testing.assert_allclose(kmeans.clustered(w, kmeans.linear_start(w, 8)).codebook, levels, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gemm transposed", "Conv"])
def test_weights_are_looked_up_in_the_codebook(kind, bits):
    w, images = normal(0, 39, 27), normal(1, 4, 3, 3, 3)
    data = one_layer(kind, w)
    quantized = kmeans.quantize(trained_on(data), kmeans.Options(bits=bits))
    tensors = {t.name: t for t in onnx.load_from_string(quantized).graph.initializer}
    places, book = (onnx.numpy_helper.to_array(tensors[f"w_{part}"]) for part in (f"uint{bits}", "codebook"))
    count = -(-39 * 27 * bits // 8)  # of an odd number of weights
    assert len(tensors[f"w_uint{bits}"].raw_data) == count
    assert initializer_bytes(quantized) == count + 4 * 2**bits
    assert book.shape == (2**bits,)
    made = book[places.astype(int)]
    made = made.reshape(39, 27) if kind in ("Conv", "Gemm transposed") else made.T
    np.testing.assert_array_equal(made, nearest_of(w, book))
    for fused in (True, False):
        found = OnnxModule(quantized, threads=1, fused=fused)(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(found, images.reshape(4, -1) @ made.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_clustered_model_runs_as_its_parent_does(tmp_path, bits):
    data = exported("mobile_student", width=0.5)
    quantized = kmeans.quantize(trained_on(data), kmeans.Options(bits=bits))
    onnx.checker.check_model(onnx.load_from_string(quantized))
    assert "Gather" in kinds(onnx.load_from_string(quantized))
    assert optimized(quantized, tmp_path / "quantized.onnx") == optimized(data, tmp_path / "parent.onnx")
    assert len(quantized) < {4: 0.20, 8: 0.32}[bits] * len(data)


def test_layers_of_few_weights_or_inputs_are_rounded_in_place_of_clustered():
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    kinds_of = {
        (shape, bits): type(kmeans.stored(stored.Layer(node, normal(0, *shape)), bits)).__name__
        for shape in ((64, 1, 3, 3), (31, 3, 3, 3), (38, 3, 3, 3))
        for bits in (4, 8)
    }
    assert [key for key, kind in kinds_of.items() if kind == "Rounded"] == [
        ((64, 1, 3, 3), 4),
        ((64, 1, 3, 3), 8),
        ((31, 3, 3, 3), 8),
    ]


def test_the_divergence_is_that_of_the_probabilities():
    p, q = normal(0, 5, 4).astype(np.float64), normal(1, 5, 4).astype(np.float64)
    a, b = (np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in (p, q))
    expected = (a * (np.log(a) - np.log(b))).sum() / 5
    assert mixed.divergence(torch.from_numpy(p), torch.from_numpy(q)) == pytest.approx(expected, rel=1e-5)


choices = st.lists(st.tuples(st.integers(1, 9), st.floats(-1, 1)), max_size=8)


@given(found=choices, extra=st.integers(0, 40))
def test_no_more_weights_get_many_bits_than_fit_and_none_for_nothing(found, extra):
    listed = [mixed.Choice(str(k), *pair) for k, pair in enumerate(found)]
    names = mixed.chosen(listed, extra)
    taken = [choice for choice in listed if choice.name in names]
    left = extra - sum(choice.weights for choice in taken)
    assert left >= 0
    assert all(choice.saved > 0 for choice in taken)
    assert all(choice.weights > left for choice in listed if choice.saved > 0 and choice.name not in names)


@given(saved=st.lists(st.integers(1, 100), min_size=1, max_size=7, unique=True), count=st.integers(0, 7))
def test_of_layers_of_one_size_those_that_save_most_get_many_bits(saved, count):
    names = mixed.chosen([mixed.Choice(str(s), 10, float(s)) for s in saved], 10 * count)
    assert names == {str(s) for s in sorted(saved, reverse=True)[:count]}


def test_a_large_layer_must_save_more():
    listed = [mixed.Choice("large", 30, 2.0), mixed.Choice("small", 10, 1.0), mixed.Choice("last", 10, 0.5)]
    assert mixed.chosen(listed, 30) == {"small", "last"}


def bits_of(data):
    """name of a weight -> its bits and their number, in a file of integers."""
    tensors = onnx.load_from_string(data).graph.initializer
    stored = [[*t.name.rsplit("_int", 1), np.prod(t.dims)] for t in tensors if "_int" in t.name]
    return {name: (int(bits), int(count)) for name, bits, count in stored}


@pytest.mark.parametrize("mean_bits", [4.5, 6.0])
def test_the_mean_of_the_bits_is_at_most_that_and_follows_the_divergences(images, mean_bits):
    data = exported("mobile_student", width=0.25)
    model = trained_on(data, images)
    found = bits_of(mixed.quantize(model, mixed.Options(**MIXED | {"mean_bits": mean_bits})))
    total = sum(count for _, count in found.values())
    assert sum(bits * count for bits, count in found.values()) / total <= mean_bits
    expected, rest = greedy(data, images, mean_bits, total)
    assert {name for name, (bits, _) in found.items() if bits == 8} == expected
    assert rest  # some layers stayed in 4


def greedy(data, images, mean_bits, total):
    """Which layers get 8 bits and which do not, from files in which one layer alone is rounded."""
    layers = stored.layers_of(onnx.load_from_string(data))
    p = torch.from_numpy(logits(data, images)).double().softmax(1)

    def moved(layer, bits):
        file = stored.store(onnx.load_from_string(data), {layer.name: layer.nearest(bits, 0)})
        q = torch.from_numpy(logits(file, images)).double().softmax(1)
        return float((p * (p / q).log()).sum(1).mean())

    many = {layer.name for layer in layers if layer.rows.shape[1] < 16}
    wide = {layer.name: (layer.weight.size, moved(layer, 4) - moved(layer, 8)) for layer in layers}
    wide = {name: pair for name, pair in wide.items() if name not in many}
    left = (mean_bits - 4) / 4 * total - sum(layer.weight.size for layer in layers if layer.name in many)
    for name in sorted(wide, key=lambda name: -wide[name][1] / wide[name][0]):
        if wide[name][0] <= left and wide[name][1] > 0:
            many.add(name)
            left -= wide[name][0]
    return many, wide.keys() - many


def test_mean_bits_at_their_ends_give_the_files_of_weights(images):
    data = exported(width=0.5)
    model = trained_on(data, images)
    for bits in (4, 8):
        ours = mixed.quantize(model, mixed.Options(**MIXED | {"mean_bits": bits}))
        assert ours == weights.quantize(model, weights.Options(bits=bits, block=0))


def test_narrow_layers_that_leave_no_room_are_an_error_that_says_what_does(images):
    model = trained_on(exported("mobile_student", width=0.25), images)
    with pytest.raises(ParamsError, match=r"method_options.mean_bits = 4.0: .* at least; set that or more") as caught:
        mixed.quantize(model, mixed.Options(**MIXED | {"mean_bits": 4.0}))
    least = float(str(caught.value).split("make it ")[1].split()[0])
    assert set(bits_of(mixed.quantize(model, mixed.Options(**MIXED | {"mean_bits": least})))) != set()
    with pytest.raises(ParamsError):
        mixed.quantize(model, mixed.Options(**MIXED | {"mean_bits": least - 0.001}))


@pytest.mark.parametrize(
    ("method", "options", "key", "value", "says"),
    [
        (adaround, ADAROUND, "bits", 3, "one of 8, 4"),
        (adaround, ADAROUND, "steps", 0, "at least 1"),
        (adaround, ADAROUND, "lr", 0, "above 0"),
        (adaround, ADAROUND, "regularization", 0, "above 0"),
        (kmeans, {"bits": 4}, "bits", 5, "one of 8, 4"),
        (mixed, MIXED, "mean_bits", 3.9, "at least 4"),
        (mixed, MIXED, "mean_bits", 8.1, "at most 8"),
        (mixed, MIXED, "calibration_images", 0, "at least 1"),
    ],
)
def test_other_options_are_refused(method, options, key, value, says):
    with pytest.raises(ConfigError, match=f"m.{key} = {value}: must be .*{says}"):
        parse(method.Options, options | {key: value}, "m")
