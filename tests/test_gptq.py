"""GPTQ: rounding that looks at a layer's inputs."""

import numpy as np
import onnx
import pytest
import torch
from conftest import striped
from hypothesis import given, settings
from hypothesis import strategies as st
from test_quantization import one_layer, trained_on

from netpress.base.errors import ConfigError, ParamsError
from netpress.core.export import OnnxModule, export_onnx
from netpress.core.networks import build_model
from netpress.params.schema import parse
from netpress.quantize.common import inputs, stored
from netpress.quantize.methods import gptq, weights
from netpress.quantize.run import calibration_images

OPTIONS = {"bits": 4, "block": 0, "calibration_images": 256, "damping": 0.01}


def correlated(count, inputs, seed=0):
    """Rows (count, inputs) that mostly lie in few directions."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, 4)) @ rng.normal(size=(4, inputs)) + 0.1 * rng.normal(size=(count, inputs))
    return mixed.astype(np.float32)


def logits(data, images):
    return OnnxModule(data, threads=1)(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gemm transposed", "Conv"])
@pytest.mark.parametrize("block", [0, 5])
def test_outputs_on_correlated_inputs_are_much_closer_than_rounded_to_the_nearest(kind, block):
    rows = np.random.default_rng(1).normal(size=(17, 27)).astype(np.float32)
    images, others = correlated(512, 27)[:256], correlated(512, 27)[256:]
    model = trained_on(one_layer(kind, rows), images.reshape(-1, 3, 3, 3))
    expected = others @ rows.T
    options = OPTIONS | {"block": block}
    ours = logits(gptq.quantize(model, gptq.Options(**options)), others.reshape(-1, 3, 3, 3))
    nearest = logits(weights.quantize(model, weights.Options(bits=4, block=block)), others.reshape(-1, 3, 3, 3))
    assert np.abs(ours - expected).mean() < 0.5 * np.abs(nearest - expected).mean()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 40)),
    block=st.integers(1, 50),
    bits=st.sampled_from([4, 8]),
    damping=st.sampled_from([1e-6, 0.01, 1.0]),
)
def test_with_uncorrelated_inputs_it_is_rounding_to_the_nearest(seed, shape, block, bits, damping):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=shape).astype(np.float32)
    moment = torch.diag_embed(torch.from_numpy(rng.uniform(0, 9, (1, shape[1]))))
    block = min(block, shape[1])
    ours, nearest = gptq.round_for(rows, moment, bits, block, damping), stored.round_to_grid(rows, bits, block)
    np.testing.assert_array_equal(ours.integers, nearest.integers)
    np.testing.assert_array_equal(ours.scales, nearest.scales)


def own_gptq(rows, moment, bits, block, damping):
    """The textbook's way: one row at a time, the inverse of what is left computed again for each column."""
    rows, inputs = rows.astype(np.float64).copy(), rows.shape[1]
    damped = moment / np.trace(moment) * inputs + damping * np.eye(inputs)
    made = np.zeros_like(rows)
    for row, out in zip(rows, made, strict=True):
        for j in range(inputs):
            if j % block == 0:
                scale = np.abs(row[j : j + block]).max() / (2 ** (bits - 1) - 1)
            out[j] = scale * np.clip(np.rint(row[j] / scale), -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
            inverse = np.linalg.inv(damped[j:, j:])
            row[j:] -= (row[j] - out[j]) / inverse[0, 0] * inverse[0]
    return made


@pytest.mark.parametrize(("bits", "block"), [(4, 8), (4, 3), (8, 5)])
def test_it_agrees_with_a_second_implementation(bits, block):
    rows = np.random.default_rng(3).normal(size=(5, 8)).astype(np.float32)
    inputs = correlated(64, 8, seed=4).astype(np.float64)
    moment = inputs.T @ inputs
    ours = gptq.round_for(rows, torch.from_numpy(moment)[None], bits, block, 0.01).rows(8)
    np.testing.assert_allclose(ours, own_gptq(rows, moment, bits, block, 0.01), rtol=1e-3, atol=1e-4)


def test_groups_are_rounded_each_for_its_own_inputs():
    rows = np.random.default_rng(5).normal(size=(6, 8)).astype(np.float32)
    moments = torch.from_numpy(np.stack([x.T @ x for x in (correlated(64, 8, s).astype(np.float64) for s in (1, 2))]))
    both = gptq.round_for(rows, moments, 4, 8, 0.01)
    for k in range(2):
        alone = gptq.round_for(rows[3 * k : 3 * k + 3], moments[k : k + 1], 4, 8, 0.01)
        np.testing.assert_array_equal(both.integers[3 * k : 3 * k + 3], alone.integers)


@pytest.mark.parametrize(("groups", "stride", "dilation"), [(1, 1, 1), (2, 2, 1), (4, 1, 2)])
def test_a_convolutions_inputs_are_those_that_its_outputs_are_computed_from(groups, stride, dilation):
    """What the moment says of the outputs' mean square is what the convolution gives."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 8, 3, stride, (1, 2), dilation, groups, bias=False)
    images = torch.randn(6, 4, 9, 8)
    node = onnx.helper.make_node(
        *("Conv", ["x", "w"], ["y"]),
        pads=[1, 2, 1, 2],
        strides=[stride] * 2,
        dilations=[dilation] * 2,
        group=groups,
    )
    layer = stored.Layer(node, conv.weight.detach().numpy())
    moment = inputs.moment(layer, ((part, part) for part in images.split(4)), "gptq")
    rows = conv.weight.detach().double().reshape(groups, 8 // groups, -1)
    squares = torch.einsum("goi,gij,goj->go", rows, moment, rows).flatten()
    expected = conv(images).detach().double().square().sum((0, 2, 3))
    torch.testing.assert_close(squares, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("values", [1, 2**24])
def test_the_moment_does_not_depend_on_how_much_is_unfolded_at_once(monkeypatch, values):
    monkeypatch.setattr(inputs, "UNFOLDED", values)
    layer = stored.Layer(onnx.helper.make_node("Conv", ["x", "w"], ["y"]), np.ones((2, 3, 3, 3), np.float32))
    images = torch.from_numpy(correlated(8, 75).reshape(8, 3, 5, 5))
    patches = torch.nn.functional.unfold(images, 3).transpose(1, 2).reshape(-1, 27).double()
    torch.testing.assert_close(inputs.moment(layer, [(images, images)], "gptq")[0], patches.T @ patches)


def test_8_bits_lose_next_to_nothing():
    torch.manual_seed(0)
    data = export_onnx(build_model("compact_cnn", 3, 1, width=0.25).eval(), 1, 28, 28)
    images = calibration_images(striped(64), 64, 0)
    quantized = gptq.quantize(trained_on(data, images), gptq.Options(**OPTIONS | {"bits": 8, "block": 32}))
    expected = logits(data, images)
    assert 0 < np.abs(logits(quantized, images) - expected).mean() < 0.01 * np.abs(expected).mean()


def test_layers_see_what_the_rounded_layers_before_them_give(monkeypatch):
    torch.manual_seed(0)
    data = export_onnx(build_model("compact_cnn", 3, 1, width=0.25).eval(), 1, 28, 28)
    last = []
    see = gptq.inputs_of

    def seeing(model, layer, images):
        given = list(see(model, layer, images))
        last[:] = [given, list(see(onnx.load_from_string(data), layer, images))]
        return iter(given)

    monkeypatch.setattr(gptq, "inputs_of", seeing)
    gptq.quantize(trained_on(data, calibration_images(striped(64), 64, 0)), gptq.Options(**OPTIONS))
    assert not torch.equal(torch.cat(last[0]), torch.cat(last[1]))


def test_inputs_that_are_all_zero_leave_the_nearest():
    rows = np.random.default_rng(0).normal(size=(17, 27)).astype(np.float32)
    ours = gptq.round_for(rows, torch.zeros(1, 27, 27, dtype=torch.float64), 4, 27, 0.01)
    np.testing.assert_array_equal(ours.integers, stored.round_to_grid(rows, 4, 27).integers)


def test_a_convolution_that_cannot_be_unfolded_is_named():
    rows = np.ones((17, 27), np.float32)
    model = onnx.load_from_string(one_layer("Conv", rows))
    (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
    conv.attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
    given = trained_on(model.SerializeToString(), np.ones((4, 3, 3, 3), np.float32))
    with pytest.raises(ParamsError, match=r"method = gptq: gptq cannot round w: .*; use weights"):
        gptq.quantize(given, gptq.Options(**OPTIONS))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [("bits", 3, "one of 8, 4"), ("damping", 0, "at least 1e-06"), ("calibration_images", 0, "at least 1")],
)
def test_other_options_are_refused(key, value, says):
    with pytest.raises(ConfigError, match=f"gptq.{key} = {value}: must be .*{says}"):
        parse(gptq.Options, OPTIONS | {key: value}, "gptq")
