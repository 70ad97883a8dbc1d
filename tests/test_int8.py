"""Int8: ranges of activations, layers that stay in float, equalization across layers, corrected biases."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from test_quantization import one_layer, trained_on
from test_quantize_details import input_scale

from netpress.base.errors import ConfigError, ParamsError
from netpress.core.export import OnnxModule, export_onnx
from netpress.core.networks import build_model
from netpress.params.schema import parse
from netpress.quantize.common import int8
from netpress.quantize.common.answers import divergence
from netpress.quantize.methods import dfq, int8_static

RULES = ("minmax", "percentile", "entropy", "mse")
INT8 = int8_static.EXAMPLE
DFQ = dfq.EXAMPLE


def normal(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 1, 28, 28)).astype(np.float32)


# Ranges.


def counted(values):
    """A histogram as `cut` takes it: counts, low, high."""
    low, high = float(min(values.min(), 0)), float(max(values.max(), 0))
    return np.histogram(values[values != 0], int8.BINS, (low, high))[0], low, high


def own_error(values, low, high):
    """The squared error of rounding values to 256 integers, as onnxruntime rounds them."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    integers = np.clip(np.rint(values / scale) + zero, 0, 255)
    return float((((integers - zero) * scale - values) ** 2).sum())


def samples(name, count=20_000):
    rng = np.random.default_rng(0)
    if name == "laplace":
        return rng.laplace(size=count)
    if name == "relu of laplace":
        return np.maximum(rng.laplace(size=count), 0)
    if name == "outlier":
        return np.append(rng.normal(size=count), 40.0)
    return np.append(np.abs(rng.normal(size=count)) * 3, -0.2)  # skewed, as SiLU gives


@pytest.mark.parametrize("name", ["laplace", "relu of laplace", "outlier", "skewed"])
def test_mse_finds_the_range_of_the_least_error_of_the_values_themselves(name):
    values = samples(name)
    counts, low, high = counted(values)
    found = int8.cut(counts, low, high, "mse")
    tried = [t * max(-low, high) for t in np.linspace(1 / 8, 1, 113)]
    least = min(own_error(values, max(low, -t), min(high, t)) for t in tried)
    assert own_error(values, *found) <= 1.02 * least
    assert own_error(values, *found) < own_error(values, low, high)


def own_divergence(counts, low, high, t):
    """TensorRT's divergence of a range, bin by bin, in plain loops."""
    width = (high - low) / int8.BINS
    bottom, top = max(low, -t), min(high, t)
    inside = [i for i in range(int8.BINS) if bottom < low + (i + 0.5) * width < top]
    p = {i: float(counts[i]) for i in inside}
    p[inside[0]] += sum(counts[: inside[0]])
    p[inside[-1]] += sum(counts[inside[-1] + 1 :])
    members = {}
    for i in inside:
        members.setdefault(int((low + (i + 0.5) * width - bottom) / ((top - bottom) / 256)), []).append(i)
    q = {}
    for bins in members.values():
        filled = [i for i in bins if p[i]]
        q |= {i: sum(counts[k] for k in bins) / len(filled) for i in filled}
    sums = sum(p.values()), sum(q.values())
    if any(p[i] and not q[i] for i in inside if p[i]):
        return np.inf
    return sum(p[i] / sums[0] * np.log(p[i] / sums[0] / (q[i] / sums[1])) for i in inside if p[i])


@pytest.mark.parametrize("name", ["laplace", "relu of laplace", "skewed"])
@pytest.mark.parametrize("share", [0.2, 0.55, 1.0])
def test_the_divergence_is_the_published_one(name, share):
    counts, low, high = counted(samples(name))
    centers = low + (np.arange(int8.BINS) + 0.5) * (high - low) / int8.BINS
    t = share * max(-low, high)
    found = int8.divergence(counts, centers, max(low, -t), min(high, t))
    assert found == pytest.approx(own_divergence(counts, low, high, t), abs=1e-6)
    assert found >= 0


def test_entropy_takes_the_range_of_the_least_divergence_and_cuts_a_long_tail():
    counts, low, high = counted(samples("laplace"))
    _, top = int8.cut(counts, low, high, "entropy")
    tried = [t * max(-low, high) for t in np.linspace(1 / 8, 1, 113)]
    best = tried[int(np.argmin([own_divergence(counts, low, high, t) for t in tried]))]
    assert top == pytest.approx(min(high, best))
    assert top < 0.9 * high


@pytest.mark.parametrize("count", [1000, 300_000])
def test_the_percentile_keeps_its_share_of_the_magnitudes(count):
    values = np.random.default_rng(0).laplace(size=count)
    counts, low, high = counted(values)
    bottom, top = int8.cut(counts, low, high, "percentile")
    beyond = (np.abs(values) > max(-bottom, top)).sum()
    assert beyond <= 1e-5 * count
    narrower = max(-bottom, top) - 2 * (high - low) / int8.BINS
    assert (np.abs(values) > narrower).sum() > 1e-5 * count


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 300),
    shift=st.floats(-5, 5),
    rule=st.sampled_from(["percentile", "entropy", "mse"]),
)
def test_a_range_holds_zero_and_lies_within_the_extremes(seed, count, shift, rule):
    values = np.random.default_rng(seed).standard_t(2, size=count) + shift
    counts, low, high = counted(values)
    bottom, top = int8.cut(counts, low, high, rule)
    assert low <= bottom <= 0 <= top <= high
    assert bottom < top
    threshold = max(-bottom, top)
    assert (bottom, top) == (max(low, -threshold), min(high, threshold))


@pytest.mark.parametrize("rule", RULES)
def test_of_nothing_but_zeros_the_range_is_zero(rule):
    assert int8.cut(np.zeros(int8.BINS, np.int64), 0.0, 0.0, rule) == (0.0, 0.0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [5, 40])
def test_ranges_are_of_all_images_and_of_what_the_layers_make_of_them(rule, count):
    rows = np.random.default_rng(0).normal(size=(17, 27)).astype(np.float32)
    images = np.random.default_rng(1).laplace(size=(count, 3, 3, 3)).astype(np.float32)
    images[-1, 0, 0, 0] = 30
    ranges = int8.ranges_of(int8.prepared(one_layer("Gemm transposed", rows)), images, rule)
    logits = images.reshape(count, -1) @ rows.T
    for name, values in (("images", images), ("logits", logits)):
        counts, low, high = counted(values)
        expected = (low, high) if rule == "minmax" else int8.cut(counts, low, high, rule)
        assert ranges[name] == pytest.approx(expected, rel=1e-3)


def test_zeros_change_no_range():
    rows = np.eye(17, 27, dtype=np.float32)
    images = np.random.default_rng(1).laplace(size=(40, 3, 3, 3)).astype(np.float32)
    data = int8.prepared(one_layer("Gemm transposed", rows))
    more = np.concatenate([images, np.zeros((400, 3, 3, 3), np.float32)])
    for rule in RULES:
        assert int8.ranges_of(data, images, rule)["images"] == int8.ranges_of(data, more, rule)["images"]


@pytest.mark.parametrize("rule", RULES)
def test_the_files_scale_is_that_of_the_range(rule):
    rows = np.random.default_rng(0).normal(size=(17, 27)).astype(np.float32)
    images = np.random.default_rng(1).laplace(size=(300, 3, 3, 3)).astype(np.float32)
    data = one_layer("Conv", rows)
    options = int8_static.Options(**INT8 | {"calibration": rule, "calibration_images": 300})
    low, high = int8.ranges_of(int8.prepared(data), images, rule)["images"]
    assert input_scale(int8_static.quantize(trained_on(data, images), options)) == pytest.approx((high - low) / 255)


# Layers that stay in float.


@pytest.fixture(scope="module")
def sensitive():
    """A network whose answers are so close to one another that int8 changes some, and images."""
    torch.manual_seed(0)
    data = export_onnx(build_model("resnet18", 11, 1, width=0.125).eval(), 1, 28, 28)
    return data, normal(32)


def answers(data, images):
    return OnnxModule(data, threads=1)(torch.from_numpy(images)).double()


def share_changed(data, reference, images):
    return float((answers(data, images).argmax(1) != answers(reference, images).argmax(1)).double().mean())


def within(sensitive, most):
    data, images = sensitive
    options = int8_static.Options(**INT8 | {"calibration_images": len(images), "max_disagreement": most})
    return int8_static.quantize(trained_on(data, images), options)


def in_float(data):
    """The weights of layers that a file keeps in float32."""
    model = onnx.load_from_string(data)
    floats = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    return [n.input[1] for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul") and n.input[1] in floats]


def test_as_few_layers_as_suffice_stay_in_float_the_most_sensitive_first(sensitive, capsys):
    data, images = sensitive
    whole = within(sensitive, 1.0)
    start = share_changed(whole, data, images)
    most = start / 2
    assert start > 0
    assert not in_float(whole)
    made = within(sensitive, most)
    assert share_changed(made, data, images) <= most
    said = capsys.readouterr().out
    ready = int8.prepared(data)
    names = {node.input[1]: node.name for node in int8.layers_of(ready)}
    ranges = int8.ranges_of(ready, images, "minmax")

    @cache
    def alone(weight):  # KL(fp32 || int8), in int8 this layer alone
        others = [name for key, name in names.items() if key != weight]
        file = int8.as_int8(ready, ranges, True, "x", others)
        p, q = (torch.softmax(answers(d, images), 1) for d in (data, file))
        return float((p * (p / q).log()).sum(1).mean())

    ranking = sorted(names, key=alone, reverse=True)
    count = len(in_float(made))
    assert 0 < count < len(names)
    assert set(in_float(made)) == set(ranking[:count])
    assert f"{count} of {len(names)} layers stay in float: {', '.join(ranking[:count])}" in said
    fewer = int8.as_int8(ready, ranges, True, "x", [names[key] for key in ranking[: count - 1]])
    assert share_changed(fewer, data, images) > most


def test_what_holds_in_int8_is_left_in_int8(sensitive):
    data, images = sensitive
    whole = within(sensitive, 1.0)
    assert within(sensitive, share_changed(whole, data, images)) == whole


def test_any_disagreement_is_not_measured(sensitive, monkeypatch):
    monkeypatch.setattr(int8_static, "logits_of", None)
    assert not in_float(within(sensitive, 1.0))


def test_a_disagreement_that_no_layer_can_keep_is_an_error(sensitive, monkeypatch):
    monkeypatch.setattr(int8_static, "disagreement", lambda *_: 0.5)
    message = r"method_options.max_disagreement = 0.25: more of the 32 images disagree .* raise it, or choose"
    with pytest.raises(ParamsError, match=message):
        within(sensitive, 0.25)


def test_a_network_of_one_layer_is_quantized_or_refused():
    rows = np.random.default_rng(0).normal(size=(17, 27)).astype(np.float32)
    data, images = one_layer("Conv", rows), np.random.default_rng(1).normal(size=(300, 3, 3, 3)).astype(np.float32)
    with pytest.raises(ParamsError, match=r"max_disagreement = 0\.0"):
        within((data, images), 0.0)


def test_the_measures_are_those_of_the_definitions():
    logits, others = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([[1.0, 2.0], [0.0, 5.0], [1, 0]])
    assert int8_static.disagreement(logits, others) == pytest.approx(1 / 3)
    p, q = (torch.softmax(given.double(), 1) for given in (others, logits))
    assert divergence(others, logits) == pytest.approx(float((p * (p / q).log()).sum() / 3))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("calibration", "max", "must be one of minmax, percentile, entropy, mse"),
        ("max_disagreement", -0.1, "at least 0"),
        ("max_disagreement", 1.5, "at most 1"),
        ("max_disagreement", "any", "must be a number at least 0"),
    ],
)
def test_other_options_are_refused(key, value, says):
    with pytest.raises(ConfigError, match=rf"x\.method_options\.{key} = .*{says}"):
        parse(int8_static.Options, INT8 | {key: value}, "x.method_options")


# Equalization.


def chain(layers, between=("Relu", "Relu"), bias=True, seed=0, extra=()):
    """An ONNX model of convolutions one after the other: (outputs, inputs, kernel, groups) each, from 3 channels."""
    helper, rng = onnx.helper, np.random.default_rng(seed)
    nodes, tensors, name = [], [], "images"
    for index, (outputs, inputs, kernel, groups) in enumerate(layers):
        shape = (outputs, inputs // groups, kernel, kernel)
        weight = rng.normal(size=shape) * np.exp(rng.normal(size=(outputs, 1, 1, 1)))
        weight *= np.exp(2 * rng.normal(size=shape[1]))[:, None, None]
        tensors.append(numpy_helper.from_array(weight.astype(np.float32), f"w{index}"))
        taken = [name, f"w{index}"]
        if bias:
            tensors.append(numpy_helper.from_array(rng.normal(size=outputs).astype(np.float32), f"b{index}"))
            taken.append(f"b{index}")
        last = index + 1 == len(layers)
        made = "logits" if last else f"c{index}"
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", taken, [made], name=f"conv{index}", group=groups, pads=pads))
        name = made
        if not last and between[index] != "":
            nodes.append(helper.make_node(between[index], [made], [f"r{index}"], name=f"act{index}"))
            name = f"r{index}"
    nodes += extra
    ends = [
        helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 3, 9, 9]),
        helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", layers[-1][0], 9, 9]),
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def tensors_of(data):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(data).graph.initializer}


def ranges_of_channels(first, second, groups):
    """Ranges of each channel between two convolutions, by loops: as outputs of the first, as inputs of the second."""
    made = [np.abs(first[i]).max() for i in range(len(first))]
    inputs, outputs = len(first) // groups, len(second) // groups
    taken = [
        max(np.abs(second[o, i % inputs]).max() for o in range(i // inputs * outputs, (i // inputs + 1) * outputs))
        for i in range(len(first))
    ]
    return np.array(made), np.array(taken)


CHAINS = {
    "plain": [(8, 3, 3, 1), (6, 8, 3, 1), (5, 6, 1, 1)],
    "depthwise": [(8, 3, 1, 1), (8, 8, 3, 8), (5, 8, 1, 1)],
    "grouped": [(8, 3, 3, 1), (12, 8, 3, 4), (6, 12, 1, 2)],
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("between", [("Relu", "Relu"), ("", "Relu")])
@pytest.mark.parametrize("kind", CHAINS)
def test_after_equalization_ranges_are_equal_and_answers_the_same(kind, between, bias):
    layers = CHAINS[kind]
    before = chain(layers, between, bias).SerializeToString()
    after = dfq.equalized(before)
    images = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    expected, found = (OnnxModule(data, threads=1)(images) for data in (before, after))
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    values, old = tensors_of(after), tensors_of(before)
    for index in (0, 1):
        first, second, groups = values[f"w{index}"], values[f"w{index + 1}"], layers[index + 1][3]
        made, taken = ranges_of_channels(first, second, groups)
        np.testing.assert_allclose(made, taken, rtol=1e-4)
        made, taken = ranges_of_channels(old[f"w{index}"], old[f"w{index + 1}"], groups)
        assert np.abs(np.log(made / taken)).max() > 1


@pytest.mark.parametrize("kind", CHAINS)
def test_of_one_pair_the_scale_is_the_papers(kind):
    layers = CHAINS[kind][:2]
    before = chain(layers).SerializeToString()
    values, old = tensors_of(dfq.equalized(before)), tensors_of(before)
    made, taken = ranges_of_channels(old["w0"], old["w1"], layers[1][3])
    scale = np.sqrt(made * taken) / taken
    np.testing.assert_allclose(values["w0"], old["w0"] / scale[:, None, None, None], rtol=1e-4)
    np.testing.assert_allclose(values["b0"], old["b0"] / scale, rtol=1e-4)
    np.testing.assert_allclose(
        ranges_of_channels(values["w0"], values["w1"], layers[1][3])[1], np.sqrt(made * taken), 1e-4
    )


def test_a_channel_that_one_side_leaves_out_stays_as_it_is():
    model = chain(CHAINS["plain"][:2])
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[2] = 0
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w0"))
    before = model.SerializeToString()
    values, old = tensors_of(dfq.equalized(before)), tensors_of(before)
    np.testing.assert_array_equal(values["w1"][:, 2], old["w1"][:, 2])
    assert values["b0"][2] == old["b0"][2]
    assert all(np.isfinite(value).all() for value in values.values())


NODE = onnx.helper.make_node
APART = {
    "another activation": {"between": ("Sigmoid",)},
    "a clip": {"between": ("Clip",)},
    "the sum is read twice": {"extra": [NODE("Neg", ["c0"], ["n"])]},
    "the activation is read twice": {"extra": [NODE("Neg", ["r0"], ["n"])]},
    "the weight is read twice": {"extra": [NODE("Neg", ["w1"], ["n"])]},
    "the bias is read twice": {"extra": [NODE("Neg", ["b0"], ["n"])]},
}


@pytest.mark.parametrize("case", APART)
def test_what_is_not_a_pair_stays_as_it_is(case):
    model = chain(CHAINS["plain"][:2], **({"between": ("Relu",)} | APART[case]))
    before = model.SerializeToString()
    assert not dfq.pairs_of(model)
    values, old = tensors_of(dfq.equalized(before)), tensors_of(before)
    for name in old:
        np.testing.assert_array_equal(values[name], old[name])


def test_a_tensor_that_is_an_answer_too_makes_no_pair():
    model = chain(CHAINS["plain"][:2])
    assert len(dfq.pairs_of(model)) == 1
    model.graph.output.append(onnx.helper.make_tensor_value_info("r0", onnx.TensorProto.FLOAT, ["n", 8, 9, 9]))
    assert not dfq.pairs_of(model)


# Correction of biases.


def wide(bias=True):
    """Narrow weights of two signs and a chain of layers: rounding moves the means."""
    return chain([(8, 3, 3, 1), (8, 8, 3, 8), (6, 8, 3, 1)], bias=bias).SerializeToString()


def images_of(count=48):
    return (np.random.default_rng(5).normal(size=(count, 3, 9, 9)) + 0.3).astype(np.float32)


def made(data, images, **changes):
    options = dfq.Options(**DFQ | {"calibration_images": len(images)} | changes)
    return dfq.quantize(trained_on(data, images), options)


def channel_means(data, images):
    """The mean of each channel of every layer's output, before its activation, as a file is written; by layer."""
    model = onnx.load_from_string(data)
    layers = {n.name: n.output[0] for n in model.graph.node if n.op_type in ("Conv", "Gemm")}
    present = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(o) for o in layers.values() if o not in present)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    outputs = session.run(list(layers.values()), {"images": images})
    return {name: np.moveaxis(o, 1, 0).reshape(o.shape[1], -1).mean(1) for name, o in zip(layers, outputs, strict=True)}


def steps_of_biases(data):
    model = onnx.load_from_string(data)
    tensors, makers = tensors_of(data), {o: n for n in model.graph.node for o in n.output}
    return {n.name: tensors[makers[n.input[2]].input[1]] for n in model.graph.node if n.op_type == "Conv"}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("equalize", [True, False])
def test_corrected_the_mean_of_every_channel_is_that_of_fp32_within_a_bias_step(equalize, bias):
    data, images = wide(bias), images_of()
    plain, corrected = (made(data, images, equalize=equalize, correct_bias=given) for given in (False, True))
    expected = channel_means(dfq.equalized(data) if equalize else data, images)
    steps = steps_of_biases(corrected)
    moved = {}
    for name, wanted in expected.items():
        before, after = (np.abs(channel_means(file, images)[name] - wanted) for file in (plain, corrected))
        assert (after <= 0.5 * steps[name] + 1e-4 * np.abs(wanted).max()).all(), name
        moved[name] = (before / steps[name]).max()
    assert max(moved.values()) > 2


def test_correction_brings_the_answers_closer():
    data, images = wide(), images_of()
    expected = answers(data, images)
    plain, corrected = (
        float((answers(made(data, images, equalize=False, correct_bias=given), images) - expected).abs().mean())
        for given in (False, True)
    )
    assert corrected < plain


@pytest.mark.parametrize("kind", ["Gemm", "Gemm transposed", "MatMul"])
def test_linear_layers_are_corrected_where_they_have_biases_and_others_named(kind, capsys):
    rows = np.random.default_rng(0).normal(size=(17, 27)).astype(np.float32)
    images = np.random.default_rng(1).normal(size=(64, 3, 3, 3)).astype(np.float32) + 1
    data = one_layer(kind, rows)
    plain, corrected = (
        float((answers(made(data, images, correct_bias=given), images) - answers(data, images)).mean(0).abs().max())
        for given in (False, True)
    )
    told = capsys.readouterr().out
    if kind == "MatMul":
        assert corrected == plain
        assert "1 of 1 layers have no int8 bias to correct" in told
    else:
        assert corrected < 0.8 * plain  # what is left comes of the rounding of the answers themselves
        assert "no int8 bias" not in told


def test_without_either_it_is_static_int8(sensitive):
    data, images = sensitive
    ours = made(data, images, equalize=False, correct_bias=False)
    assert ours == within(sensitive, 1.0)


def test_what_onnxruntime_cannot_quantize_names_the_method_that_was_asked_for(monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no int8 form of this operator")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", refuse)
    with pytest.raises(ParamsError, match=r"method = dfq: onnxruntime cannot quantize this network \(no int8 form"):
        made(wide(), images_of(4))


def test_methods_ask_for_the_images_that_the_options_state():
    seen = []

    def images(count):
        seen.append(count)
        return images_of(count)

    model = SimpleNamespace(onnx=wide(), images=images)
    dfq.quantize(model, dfq.Options(**DFQ | {"calibration_images": 7}))
    int8_static.quantize(model, int8_static.Options(**INT8 | {"calibration_images": 9}))
    assert seen == [7, 9]
