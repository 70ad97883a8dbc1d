"""Quantized models: smaller, close to their parent, run by onnxruntime."""

import copy
import dataclasses
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import RECIPE, RUNTIME, striped

from netpress.base.errors import ConfigError
from netpress.core.engine import Schedule, fit
from netpress.core.export import OnnxModule, export_onnx
from netpress.core.measure import evaluate
from netpress.core.networks import build_model
from netpress.params import plugins
from netpress.params.schema import parse
from netpress.quantize.common import stored
from netpress.quantize.methods import weights
from netpress.quantize.run import MOST_DIFFERENT, Trained, calibration_images, fused_difference, initializer_bytes

INT8 = {"calibration_images": 64, "calibration": "minmax", "reduce_range": True, "max_disagreement": 1.0}
#: Ways to store weights: options, the largest size allowed relative to fp32, and the largest integer of a weight.
DAMPED = {"calibration_images": 64, "damping": 0.01}
CASES = [
    ("fp16", {}, 0.56, None),
    ("int8_static", INT8, 0.45, 64),
    ("int8_static", INT8 | {"reduce_range": False}, 0.45, 127),
    ("weights", {"bits": 8, "block": 0}, 0.30, 127),
    ("weights", {"bits": 8, "block": 32}, 0.33, 127),
    ("weights", {"bits": 4, "block": 0}, 0.18, 7),
    ("weights", {"bits": 4, "block": 32}, 0.21, 7),
    ("gptq", {"bits": 8, "block": 0} | DAMPED, 0.30, 127),
    ("gptq", {"bits": 4, "block": 32} | DAMPED, 0.21, 7),
]
ARCHS = [("compact_cnn", {"groups": 2}), ("mobile_student", {"width": 0.5}), ("resnet18", {"width": 0.25})]


@pytest.fixture(scope="module", params=ARCHS, ids=[a for a, _ in ARCHS])
def trained(request):
    arch, options = request.param
    torch.set_num_threads(RUNTIME.threads)
    torch.manual_seed(0)
    network = build_model(arch, 3, 1, **options)
    recipe = RECIPE.model_copy(update={"lr": 0.02})
    fit(network, striped(192), striped(96, seed=1), Schedule(recipe, 4, 0), RUNTIME, arch)
    return network, export_onnx(network, 1, 28, 28)


def trained_on(data, images=None, network=None):
    """A model to quantize after training, of which a method sees `images`: fresh, since it fine-tunes in place."""
    tuned = []

    def finetune(given):
        assert not tuned, "a method calls model.finetune once"
        tuned.append(fit(given, striped(96), striped(48, seed=1), Schedule(RECIPE, 1, 0), RUNTIME, "fine-tuning"))

    def export(given):
        return export_onnx(given.eval(), 1, 28, 28)

    return Trained(copy.deepcopy(network), data, lambda count: images[:count], finetune, export)


@pytest.mark.parametrize("name", plugins.names("quantize/methods"))
def test_contract(trained, name):
    """Of every file of the folder, by its own example: smaller, the same again, and no worse on validation."""
    method = plugins.load("quantize/methods", name)
    keeps_the_contract(trained, method.quantize, parse(method.Options, method.EXAMPLE, name))


@pytest.mark.parametrize(
    "trained",
    [ARCHS[0], *(pytest.param(arch, marks=pytest.mark.exhaustive) for arch in ARCHS[1:])],  # they train for seconds
    indirect=True,
    ids=[a for a, _ in ARCHS],
)
def test_the_contract_takes_a_method_that_fine_tunes(trained):
    """In place, and then quantizes what came of it."""

    def quantize(model, options):
        model.finetune(model.network)
        return weights.quantize(dataclasses.replace(model, onnx=model.export(model.network)), options)

    before = copy.deepcopy(trained[0].state_dict())
    keeps_the_contract(trained, quantize, weights.Options(bits=8, block=0))
    assert all(torch.equal(before[name], tensor) for name, tensor in trained[0].state_dict().items())


def keeps_the_contract(trained, quantize, options):
    network, data = trained
    images = calibration_images(striped(192), 192, 0)
    quantized, again = (quantize(trained_on(data, images, network), options) for _ in range(2))
    assert quantized == again, "the same model and options must give the same bytes"
    assert initializer_bytes(quantized) < 0.6 * initializer_bytes(data)
    val = striped(96, seed=1)
    module = OnnxModule(quantized, threads=RUNTIME.threads)
    assert evaluate(module, val).accuracy >= evaluate(network, val).accuracy - 0.03


def rounding_share(network, images, largest, activations):
    """How far rounding moves logits, relative to them, if no layer damps the errors of those before it.

    Rounding to steps of s is off by s / sqrt(12) (root mean square), independently in each layer. `largest` is the
    largest integer of a weight, whose scale is its output's; None for half precision, whose steps are 2 ** -10 of a
    value or less. `activations` are rounded to 255 steps between their extremes.
    """
    squares = []

    def see(layer, inputs, output):
        rows = layer.weight.detach().flatten(1)
        rows = rows[rows.abs().amax(1) > 0]
        if largest is None:
            squares.append(2.0**-20 / 12)
        else:
            levels = largest if rows.shape[1] >= stored.MIN_INPUTS or activations else 127
            steps = rows.abs().amax(1) / levels
            squares.append(float((steps**2 / 12 / rows.square().mean(1)).mean()))
        if activations:
            values = inputs[0]
            step = float(values.max().clamp(min=0) - values.min().clamp(max=0)) / 255
            squares.append(step**2 / 12 / float(values.square().mean()))

    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(see) for layer in layers]
    network(images)
    for hook in hooks:
        hook.remove()
    return sum(squares) ** 0.5


@pytest.mark.parametrize(("name", "options", "share", "largest"), CASES, ids=[f"{c[0]}{c[1]}" for c in CASES])
def test_logits_are_off_by_no_more_than_rounding_explains(trained, name, options, share, largest):
    network, data = trained
    method = plugins.load("quantize/methods", name)
    options = parse(method.Options, options, name)
    train, val = striped(192), striped(96, seed=1)
    quantized = method.quantize(trained_on(data, calibration_images(train, 64, 0)), options)
    assert initializer_bytes(quantized) < share * initializer_bytes(data)
    inputs = val.normalize(val.images)
    # Full-range int8 overflows in the integer kernels of some processors: of it, only what is written can be held to.
    written = largest == 127 and name == "int8_static"
    module = OnnxModule(quantized, threads=RUNTIME.threads, fused=not written)
    with torch.inference_mode():
        expected = network(inputs)
        off = float((module(inputs) - expected).abs().mean() / expected.abs().mean())
        margin = rounding_share(network, inputs, largest, activations=name == "int8_static")
    assert 0 < off < margin
    assert evaluate(module, val).accuracy >= evaluate(network, val).accuracy - 0.03


def int8(data, images, **changes):
    method = plugins.load("quantize/methods", "int8_static")
    return method.quantize(trained_on(data, images), parse(method.Options, INT8 | changes, "int8_static"))


def stored_weights(data):
    """The integers (outputs, ...) and scales of every weight of an int8 model, a bias left out."""
    model = onnx.load_from_string(data)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    made = [node.input for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    return [(tensors[values], tensors[scales]) for values, scales, _ in made if tensors[values].ndim > 1]


def test_int8_is_qdq_with_a_scale_for_each_channel(trained):
    data = int8(trained[1], calibration_images(striped(64), 64, 0))
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(kinds(onnx.load_from_string(data)))
    found = [pair for pair in stored_weights(data) if pair[0].ndim == 4]
    assert found
    for values, scales in found:
        assert values.dtype == np.int8
        assert scales.shape == (values.shape[0],)


@pytest.mark.parametrize(("reduce_range", "fits"), [(True, True), (False, False)])
def test_two_products_fit_in_16_bits_only_with_weights_of_7(trained, reduce_range, fits):
    """Without VNNI x86-64 adds two products of an activation, up to 255, and a weight in 16 bits."""
    data = int8(trained[1], calibration_images(striped(64), 64, 0), reduce_range=reduce_range)
    largest = max(int(np.abs(values.astype(int)).max()) for values, _ in stored_weights(data))
    assert (2 * 255 * largest <= 2**15 - 1) == fits


def test_int8_with_weights_of_7_bits_computes_what_it_says(trained):
    images = calibration_images(striped(64), 64, 0)
    data = int8(trained[1], images)
    module, written = OnnxModule(data, threads=1), OnnxModule(data, threads=1, fused=False)
    assert fused_difference(module, written, images) < MOST_DIFFERENT


def kinds(model):
    return Counter(node.op_type for node in model.graph.node)


def optimized(data, path):
    """The operators that onnxruntime runs, by count."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return kinds(onnx.load(path))


def test_int8_leaves_no_layer_in_fp32(trained, tmp_path):
    data = int8(trained[1], calibration_images(striped(64), 64, 0))
    runs = optimized(data, tmp_path / "optimized.onnx")
    written = kinds(onnx.load_from_string(data))
    assert runs["QLinearConv"] == written["Conv"]
    assert runs["QLinearAdd"] == written["Add"]
    assert not {"Conv", "FusedConv", "Add", "MaxPool", "Gemm"} & set(runs)


@pytest.mark.parametrize("options", [{"bits": 8, "block": 0}, {"bits": 4, "block": 32}], ids=str)
def test_a_model_of_fewer_bits_a_weight_runs_as_its_parent_does(trained, tmp_path, options):
    data = weights.quantize(trained_on(trained[1]), weights.Options(**options))
    assert optimized(data, tmp_path / "quantized.onnx") == optimized(trained[1], tmp_path / "parent.onnx")


@pytest.mark.parametrize("kind", ["Gemm transposed", "Conv"])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_int8_of_one_layer_is_off_by_no_more_than_its_steps(kind, reduce_range):
    rows = np.random.default_rng(0).normal(size=(17, 27)).astype(np.float32)
    images = np.random.default_rng(1).normal(size=(64, 3, 3, 3)).astype(np.float32)
    data = int8(one_layer(kind, rows), images, reduce_range=reduce_range)
    ((_, scales),) = stored_weights(data)
    inputs = images.reshape(64, -1)
    expected = inputs @ rows.T
    # Half a step of each weight; a whole one of the activations, since their zero is rounded to an integer too.
    weight, image, logit = scales / 2, np.ptp(inputs) / 255, np.ptp(expected) / 255
    most = np.abs(inputs).sum(1)[:, None] * weight + image * np.abs(rows).sum(1) + 27 * image * weight + logit
    module = OnnxModule(data, threads=1, fused=reduce_range)  # 8 bits may overflow in the integer kernels
    off = np.abs(module(torch.from_numpy(images)).numpy() - expected)
    assert off.max() > 0
    assert (off <= most + 1e-4).all()


def test_the_difference_is_relative_to_what_is_written():
    images = np.ones((8, 3, 2, 2), np.float32)
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    same, scaled = (lambda _: logits), (lambda _: 1.25 * logits)
    assert fused_difference(same, same, images) == 0
    assert fused_difference(scaled, same, images) == pytest.approx(0.25)
    assert fused_difference(same, scaled, images) == pytest.approx(0.2)


def weights_of(data):
    """The model's nodes by the tensor that they make, and its initializers by name."""
    model = onnx.load_from_string(data)
    return {node.output[0]: node for node in model.graph.node}, {t.name: t for t in model.graph.initializer}


@pytest.mark.parametrize("block", [0, 32])
def test_4_bits_are_for_wide_layers_and_8_for_narrow_ones(trained, block):
    _, data = trained
    _, tensors = weights_of(weights.quantize(trained_on(data), weights.Options(bits=4, block=block)))
    seen = set()
    for name, tensor in weights_of(data)[1].items():
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim < 2 or values.size < stored.MIN_VALUES:
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensors[name]), values)
            continue
        bits = 4 if values[0].size >= stored.MIN_INPUTS else 8
        kept = tensors[f"{name}_int{bits}"]
        assert name not in tensors
        assert kept.data_type == (onnx.TensorProto.INT4 if bits == 4 else onnx.TensorProto.INT8)
        width = min(block, values[0].size) or values[0].size
        blocks = -(-values[0].size // width)
        count = len(values) * blocks * width  # zeros fill the last block
        assert list(kept.dims) == [len(values), blocks, width]
        assert len(kept.raw_data) == ((count + 1) // 2 if bits == 4 else count)
        assert list(tensors[f"{name}_scale"].dims) == [len(values), blocks, 1]
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
    width = min(block, 27) or 27
    grid, scales, _ = stored.round_to_grid(rows, bits, width)
    for k, part in enumerate(np.split(rows, range(width, 27, width), axis=1)):
        largest = np.abs(part).max(1)
        np.testing.assert_allclose(
            scales[:, k, 0], np.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1), rtol=1e-6
        )
    nearest = (grid * scales).reshape(17, -1)[:, :27]
    assert np.abs(nearest - rows).max() <= scales.max() / 2 + 1e-6
    assert np.abs(grid).max() == 2 ** (bits - 1) - 1
    quantized = weights.quantize(trained_on(data), weights.Options(bits=bits, block=block))
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
    data = stored.packed(integers)
    assert len(data) == (count + 1) // 2
    tensor = onnx.helper.make_tensor("t", onnx.TensorProto.INT4, [count], data, raw=True)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), integers)


@pytest.mark.parametrize(("key", "value", "says"), [("bits", 3, "one of 8, 4"), ("block", -1, "at least 0")])
def test_other_bits_and_blocks_are_refused(key, value, says):
    with pytest.raises(ConfigError, match=f"weights.method_options.{key} = {value}: must be .*{says}"):
        parse(weights.Options, {"bits": 4, "block": 32} | {key: value}, "weights.method_options")


def test_fp16_rounds_weights_and_nothing_else(trained):
    network, data = trained
    method = plugins.load("quantize/methods", "fp16")
    module = OnnxModule(method.quantize(trained_on(data), method.Options()), threads=1)
    val = striped(48, seed=2)
    inputs = val.normalize(val.images)
    with torch.inference_mode():
        difference = (module(inputs) - network(inputs)).abs().max()
    assert 0 < difference < 0.05
