"""Quantized models: smaller, close to their parent, run by onnxruntime."""

import numpy as np
import onnx
import pytest
import torch
from conftest import RECIPE, RUNTIME, striped

from netpress.base import plugins
from netpress.base.errors import ConfigError
from netpress.base.schema import parse
from netpress.engine import Schedule, fit
from netpress.export import OnnxModule, export_onnx
from netpress.measure import evaluate
from netpress.models import build_model
from netpress.quantization import calibration_images, initializer_bytes
from netpress.quantize import weights

#: Options of every method, the largest size allowed relative to fp32, and how far off the mean logit may be.
METHODS = {
    "fp16": [({}, 0.56, 0.01)],
    "int8_static": [({"calibration_images": 64, "calibration": "minmax"}, 0.45, 0.15)],
    "weights": [
        ({"bits": 8, "block": 0}, 0.30, 0.03),
        ({"bits": 8, "block": 32}, 0.33, 0.03),
        ({"bits": 4, "block": 0}, 0.18, 0.3),
        ({"bits": 4, "block": 32}, 0.21, 0.3),
    ],
}
CASES = [(name, *case) for name, cases in METHODS.items() for case in cases]
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


@pytest.mark.parametrize(("name", "options", "share", "most_off"), CASES, ids=[f"{c[0]}{c[1]}" for c in CASES])
def test_contract(trained, name, options, share, most_off):
    network, data = trained
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
    assert off < most_off
    assert evaluate(module, val).accuracy >= evaluate(network, val).accuracy - 0.03


def test_int8_is_qdq_with_a_scale_for_each_channel(trained):
    _, data = trained
    method = plugins.load("quantize", "int8_static")
    options = parse(method.Options, METHODS["int8_static"][0][0], "int8_static")
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


def weights_of(data):
    """The model's nodes by the tensor that they make, and its initializers by name."""
    model = onnx.load_from_string(data)
    return {node.output[0]: node for node in model.graph.node}, {t.name: t for t in model.graph.initializer}


@pytest.mark.parametrize("block", [0, 32])
def test_4_bits_are_for_wide_layers_and_8_for_narrow_ones(trained, block):
    _, data = trained
    _, tensors = weights_of(weights.quantize(data, np.zeros(0), weights.Options(bits=4, block=block)))
    seen = set()
    for name, tensor in weights_of(data)[1].items():
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim < 2 or values.size < weights.MIN_VALUES:
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensors[name]), values)
            continue
        bits = 4 if values[0].size >= weights.MIN_INPUTS else 8
        stored = tensors[f"{name}_int{bits}"]
        assert name not in tensors
        assert stored.data_type == (onnx.TensorProto.INT4 if bits == 4 else onnx.TensorProto.INT8)
        assert len(stored.raw_data) == (values.size + 1) // 2 if bits == 4 else values.size
        blocks = -(-values[0].size // block) if block else 1
        assert list(tensors[f"{name}_scale"].dims) == [len(values), blocks][: 2 if block else 1]
        seen.add(bits)
    assert 4 in seen
    assert initializer_bytes(data) == sum(len(t.raw_data) for t in weights_of(data)[1].values())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("block", [0, 5, 16, 1000])
@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gemm transposed", "Conv"])
def test_weights_are_dequantized_to_the_nearest_multiples_of_their_scales(kind, bits, block):
    rows = np.random.default_rng(0).normal(size=(17, 27)).astype(np.float32)
    rows[3] = 0
    images = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
    data = one_layer(kind, rows)
    grid, scales = weights.round_to_grid(rows, bits, min(block, 27) or 27)
    nearest = grid * np.repeat(scales, min(block, 27) or 27, axis=1)[:, :27]
    assert np.abs(nearest - rows).max() <= scales.max() / 2 + 1e-6
    assert np.abs(grid).max() == 2 ** (bits - 1) - 1
    quantized = weights.quantize(data, np.zeros(0), weights.Options(bits=bits, block=block))
    logits = OnnxModule(quantized, threads=1)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits, images.reshape(4, -1) @ nearest.T, rtol=1e-4, atol=1e-4)


def one_layer(kind, rows):
    """An ONNX model of one layer, from images (N, 3, 3, 3) to logits (N, outputs), of weights (outputs, 27)."""
    helper = onnx.helper
    weight = rows.reshape(-1, 3, 3, 3) if kind == "Conv" else rows if kind == "Gemm transposed" else rows.T
    attributes = {"transB": 1} if kind == "Gemm transposed" else {}
    layer = helper.make_node(kind.split()[0], ["images" if kind == "Conv" else "flat", "w"], ["out"], **attributes)
    flatten = helper.make_node("Flatten", ["out"], ["logits"])
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), layer, flatten]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("images", ["n", 3, 3, 3]), ("logits", ["n", len(rows)]))
    ]
    tensors = [onnx.numpy_helper.from_array(np.ascontiguousarray(weight), "w")]
    graph = helper.make_graph(nodes, "one_layer", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


@pytest.mark.parametrize("count", [6, 7])
def test_4_bit_integers_lie_two_to_a_byte_as_onnx_reads_them(count):
    integers = np.array([-7, 7, 0, -1, 3, -4, 5], np.int8)[:count]
    data = weights.packed(integers)
    assert len(data) == (count + 1) // 2
    tensor = onnx.helper.make_tensor("t", onnx.TensorProto.INT4, [count], data, raw=True)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), integers)


@pytest.mark.parametrize(("key", "value", "says"), [("bits", 3, "one of 8, 4"), ("block", -1, "at least 0")])
def test_other_bits_and_blocks_are_refused(key, value, says):
    with pytest.raises(ConfigError, match=f"weights.method_options.{key} = {value}: must be .*{says}"):
        parse(weights.Options, {"bits": 4, "block": 32} | {key: value}, "weights.method_options")


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
