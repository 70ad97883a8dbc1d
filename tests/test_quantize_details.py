"""What quantization makes of its calibration images and of values out of range, against the tests' own arithmetic."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from test_quantization import one_layer, trained_on

from netpress.base.errors import ParamsError
from netpress.core.export import OnnxModule, export_onnx
from netpress.core.networks import build_model
from netpress.quantize.common.stored import round_to_grid
from netpress.quantize.methods import fp16, int8_static


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return export_onnx(build_model("compact_cnn", 3, 1, width=0.125).eval(), 1, 28, 28)


def spread(count, largest):
    """Images (count, 1, 28, 28) of which the last holds the extremes."""
    images = np.random.default_rng(0).normal(0, 0.2, (count, 1, 28, 28)).astype(np.float32)
    images[-1, 0, 0, 0], images[-1, 0, 0, 1] = largest, -largest / 2
    return images


def input_scale(data):
    """The scale with which the images are quantized."""
    model = onnx.load_from_string(data)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    entry = model.graph.input[0].name
    (node,) = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == entry]
    return float(tensors[node.input[1]])


def quantized(data, images, calibration):
    changes = {"calibration_images": len(images), "calibration": calibration, "reduce_range": False}
    options = int8_static.Options(**int8_static.EXAMPLE | changes)
    return int8_static.quantize(trained_on(data, images), options)


def test_minmax_spans_all_calibration_images_to_the_last(network):
    """Of more than one batch: from -3 to 6 in 255 steps."""
    assert input_scale(quantized(network, spread(200, 6.0), "minmax")) == pytest.approx(9 / 255, rel=1e-3)


def test_percentiles_cut_what_is_rare(network):
    """Of 100,000 values one lies at 6 and one at -3."""
    assert input_scale(quantized(network, spread(128, 6.0), "percentile")) < 0.8 * 9 / 255


def test_what_onnxruntime_cannot_quantize_is_an_error_that_names_another_method(network, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no int8 form of this operator")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", refuse)
    message = r"int8_static: onnxruntime cannot quantize this network \(no int8 form of .*\); choose weights or fp16"
    with pytest.raises(ParamsError, match=message):
        quantized(network, spread(4, 1), "minmax")


def test_fp16_holds_what_is_too_large_at_its_largest_value():
    rows = np.zeros((17, 27), np.float32)
    rows[0, 0], rows[1, 0], rows[2, 0] = 1e6, -1e6, 0.5
    data = fp16.quantize(trained_on(one_layer("Gemm transposed", rows)), fp16.Options())
    images = np.zeros((1, 3, 3, 3), np.float32)
    images[0, 0, 0, 0] = 1.0
    logits = OnnxModule(data, threads=1)(torch.from_numpy(images)).numpy()[0]
    assert logits[:3].tolist() == [65504.0, -65504.0, 0.5]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("block", [5, 27])
def test_every_weight_becomes_the_nearest_multiple_of_its_own_scale(bits, block):
    rows = np.random.default_rng(0).normal(size=(17, 27)) * np.logspace(-3, 3, 17)[:, None]
    rows = rows.astype(np.float32)
    integers, scales, _ = round_to_grid(rows, bits, block)
    blocks = np.pad(rows, ((0, 0), (0, -27 % block))).reshape(17, -1, block)
    assert integers.shape == blocks.shape
    assert (np.abs(integers * scales.astype(np.float64) - blocks) <= scales * (0.5 + 1e-5)).all()
    np.testing.assert_allclose(scales[:, :, 0], np.abs(blocks).max(2) / (2 ** (bits - 1) - 1), rtol=1e-6)
