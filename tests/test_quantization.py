"""Quantized models: smaller, close to their parent, run by onnxruntime."""

import numpy as np
import onnx
import pytest
import torch
from conftest import RECIPE, RUNTIME, striped

from netpress.base import plugins
from netpress.base.schema import parse
from netpress.engine import Schedule, fit
from netpress.export import OnnxModule, export_onnx
from netpress.measure import evaluate
from netpress.models import build_model
from netpress.quantization import calibration_images, initializer_bytes

#: Options of every method, and the largest size allowed relative to fp32.
METHODS = {
    "fp16": ({}, 0.56),
    "int8_static": ({"calibration_images": 64, "calibration": "minmax"}, 0.45),
}
ARCHS = [("compact_cnn", {"groups": 2}), ("mobile_student", {"width": 0.5}), ("resnet18", {"width": 0.25})]


@pytest.fixture(scope="module", params=ARCHS, ids=[a for a, _ in ARCHS])
def trained(request):
    arch, options = request.param
    torch.manual_seed(0)
    network = build_model(arch, 3, 1, **options)
    recipe = RECIPE.model_copy(update={"lr": 0.02})
    fit(network, striped(192), striped(96, seed=1), Schedule(recipe, 4, 0), RUNTIME, arch)
    return network, export_onnx(network, 1, 28, 28)


def test_every_method_is_tested():
    assert set(METHODS) == set(plugins.names("quantize"))


@pytest.mark.parametrize("name", plugins.names("quantize"))
def test_contract(trained, name):
    network, data = trained
    options, share = METHODS[name]
    method = plugins.load("quantize", name)
    options = parse(method.Options, options, name)
    train, val = striped(192), striped(96, seed=1)
    images = calibration_images(train, method.calibration_count(options), 0)
    quantized = method.quantize(data, images, options)
    assert quantized == method.quantize(data, images, options)
    assert initializer_bytes(quantized) < share * initializer_bytes(data)
    module = OnnxModule(quantized, threads=2)
    inputs = val.normalize(val.images)
    with torch.inference_mode():
        expected = network(inputs)
        off = (module(inputs) - expected).abs().mean() / expected.abs().mean()
    assert off < 0.15
    assert evaluate(module, val).accuracy >= evaluate(network, val).accuracy - 0.03


def test_int8_is_qdq_with_a_scale_for_each_channel(trained):
    _, data = trained
    method = plugins.load("quantize", "int8_static")
    options = parse(method.Options, METHODS["int8_static"][0], "int8_static")
    model = onnx.load_from_string(method.quantize(data, calibration_images(striped(64), 64, 0), options))
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = [
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors and tensors[node.input[0]].ndim == 4
    ]
    assert weights
    for node in weights:
        values, scales = tensors[node.input[0]], tensors[node.input[1]]
        assert values.dtype == np.int8
        assert scales.shape == (values.shape[0],)


def test_fp16_rounds_weights_and_nothing_else(trained):
    network, data = trained
    method = plugins.load("quantize", "fp16")
    module = OnnxModule(method.quantize(data, np.zeros((0, 1, 28, 28), np.float32), method.Options()), threads=1)
    val = striped(48, seed=2)
    inputs = val.normalize(val.images)
    with torch.inference_mode():
        difference = (module(inputs) - network(inputs)).abs().max()
    assert 0 < difference < 0.05


def test_calibration_images_are_drawn_from_the_seed():
    split = striped(100)
    first = calibration_images(split, 10, 0)
    assert first.shape == (10, 1, 28, 28)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, calibration_images(split, 10, 0))
    assert not np.array_equal(first, calibration_images(split, 10, 1))
    assert len(calibration_images(split, 1000, 0)) == 100
