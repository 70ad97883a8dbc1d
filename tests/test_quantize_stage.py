"""The stage quantize: what it calibrates on, what it measures, what it says of files that run otherwise elsewhere."""

import dataclasses
import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import striped
from little import copy_of, forget

from netpress.base.errors import ArtifactError, ParamsError
from netpress.core.context import open_context
from netpress.params import plugins
from netpress.quantize import run as quantization
from netpress.quantize.run import COMPARED, MOST_DIFFERENT, calibration_images, quantize_model, warning

CALIBRATED = 48
OPTIONS = {"calibration_images": CALIBRATED, "calibration": "minmax", "reduce_range": True, "max_disagreement": 1.0}
UNTUNED = {"recipe": "finetune", "loss": "labels", "loss_options": {}, "epochs": 0}


@pytest.fixture(scope="module")
def trained(little_run, tmp_path_factory):
    """A little project whose teacher is trained, with two ways to quantize it."""
    items = {
        "int8": {"from": "train/teacher", "method": "int8_static", "method_options": OPTIONS} | UNTUNED,
        "w4": {"from": "train/teacher", "method": "weights", "method_options": {"bits": 4, "block": 0}} | UNTUNED,
    }
    folder = copy_of(little_run, tmp_path_factory.mktemp("quantize") / "project", quantize=items)
    forget(folder, "quantize/int8")
    return folder


def quantized(folder, name):
    """Run the stage in this process, from nothing; returns its metrics."""
    if (folder / "models/quantize" / name).exists():
        forget(folder, f"quantize/{name}")
    quantize_model(open_context(folder, "quantize", name))
    return json.loads((folder / f"metrics/quantize/{name}.json").read_text(encoding="utf-8"))


def split_of(folder, name):
    """A split's images, normalized by arithmetic of the test's own: (N, C, H, W) float32; and its labels."""
    manifest = json.loads((folder / "data/prepared/manifest.json").read_text(encoding="utf-8"))
    images = np.load(folder / f"data/prepared/{name}_images.npy").astype(np.float32)
    images = (images / 255 - np.float32(manifest["mean"])) / np.float32(manifest["std"])
    return images.transpose(0, 3, 1, 2), np.load(folder / f"data/prepared/{name}_labels.npy")


def own_figures(folder, model_id):
    """Accuracy and mean cross-entropy of a model's ONNX file on the validation images, by the test's own loop."""
    images, labels = split_of(folder, "val")
    path = folder / "models" / model_id / "seed_0/model.onnx"
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"images": np.ascontiguousarray(images)})[0].astype(np.float64)
    right = logits[np.arange(len(labels)), labels]
    return (logits.argmax(1) == labels).mean(), (np.log(np.exp(logits).sum(1)) - right).mean()


def nearest(images, known):
    """For each of `images` the largest difference to the image of `known` that is most like it."""
    return [np.abs(known - image).max(axis=(1, 2, 3)).min() for image in images]


def test_calibration_and_comparison_see_training_images_and_no_others(trained, monkeypatch):
    method, seen = plugins.load("quantize/methods", "int8_static"), {}
    quantize, compare = method.quantize, quantization.fused_difference

    def calibrating(model, options):
        seen["calibration"] = model.images(options.calibration_images)
        return quantize(model, options)

    def comparing(fused, written, images):
        seen["comparison"] = images
        return compare(fused, written, images)

    monkeypatch.setattr(method, "quantize", calibrating)
    monkeypatch.setattr(quantization, "fused_difference", comparing)
    quantized(trained, "int8")
    (train, _), (val, _) = split_of(trained, "train"), split_of(trained, "val")
    for images, count in [(seen["calibration"], CALIBRATED), (seen["comparison"], COMPARED)]:
        assert len(images) == count
        assert max(nearest(images, train)) < 1e-4
        assert min(nearest(images, val)) > 0.1
        assert len(np.unique(images.reshape(count, -1), axis=0)) == count


def negated(data):
    """The model with all its logits negated, so that no figure of its parent's comes near its own."""
    model = onnx.load_from_string(data)
    (last,) = (node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "positive"
    model.graph.node.append(onnx.helper.make_node("Neg", ["positive"], ["logits"]))
    return model.SerializeToString()


@pytest.mark.parametrize("name", ["int8", "w4"])
def test_the_figures_are_those_of_the_file_that_is_saved(trained, monkeypatch, name):
    method = plugins.load("quantize/methods", "int8_static" if name == "int8" else "weights")
    quantize = method.quantize
    monkeypatch.setattr(method, "quantize", lambda *given: negated(quantize(*given)))
    metrics = quantized(trained, name)
    accuracy, loss = own_figures(trained, f"quantize/{name}")
    assert metrics["val_acc"] == pytest.approx(accuracy)
    assert metrics["val_loss"] == pytest.approx(loss, abs=1e-4)
    assert loss > own_figures(trained, "train/teacher")[1] + 0.1


def test_a_file_that_onnxruntime_refuses_is_told_with_the_method_that_gave_it(trained, monkeypatch):
    def unknown(model, options):
        return negated(model.onnx).replace(b"Neg", b"Nag")

    monkeypatch.setattr(plugins.load("quantize/methods", "weights"), "quantize", unknown)
    with pytest.raises(ArtifactError, match="onnxruntime refuses the file that weights gave for quantize/w4 seed 0: "):
        quantized(trained, "w4")


def test_bytes_that_are_no_onnx_file_are_refused(trained, monkeypatch):
    monkeypatch.setattr(plugins.load("quantize/methods", "weights"), "quantize", lambda *_: b"no onnx")
    with pytest.raises(ParamsError, match="method = weights: quantize returned 7 bytes that are no ONNX file; return"):
        quantized(trained, "w4")


@pytest.mark.parametrize("name", ["int8", "w4"])
def test_what_is_quantized_by_default_runs_as_it_is_written(trained, name):
    assert 0 <= quantized(trained, name)["fused_difference"] <= MOST_DIFFERENT


@pytest.mark.parametrize("difference", [0.0, MOST_DIFFERENT, 0.35])
def test_a_file_that_runs_otherwise_than_it_is_written_is_told_in_one_line(trained, monkeypatch, capsys, difference):
    monkeypatch.setattr(quantization, "fused_difference", lambda *_: difference)
    assert quantized(trained, "int8")["fused_difference"] == difference
    lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(lines) == (difference > MOST_DIFFERENT)
    for line in lines:
        assert line.startswith("warning: quantize/int8 seed 0: logits differ by 35.0% (more than 0.2%)")


def test_the_warning_names_the_key_that_helps_where_there_is_one():
    method = plugins.load("quantize/methods", "int8_static")
    key = "quantize.int8.method_options"
    full = warning("x", key, 0.35, method.Options(**OPTIONS | {"reduce_range": False}))
    assert full.endswith("set quantize.int8.method_options.reduce_range: true")
    for options in (method.Options(**OPTIONS), object()):
        text = warning("x", key, 0.35, options)
        assert "reduce_range" not in text
        assert text.endswith("compare it with its parent on the processor that will run it")


def test_the_accuracy_is_of_the_integer_kernels_and_the_comparison_with_the_graph_as_written(trained, monkeypatch):
    compared, evaluated = [], []
    evaluate = quantization.evaluate

    def comparing(fused, written, images):
        compared.extend([fused, written])
        return 0.0

    def evaluating(network, *further):
        evaluated.append(network)
        return evaluate(network, *further)

    monkeypatch.setattr(quantization, "fused_difference", comparing)
    monkeypatch.setattr(quantization, "evaluate", evaluating)
    quantized(trained, "int8")
    levels = [module.session.get_session_options().graph_optimization_level for module in [*compared, *evaluated]]
    every, none = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert levels == [every, none, every]


def test_sizes_leave_the_metadata_out(trained):
    metrics = quantized(trained, "int8")
    data = (trained / "models/quantize/int8/seed_0/model.onnx").read_bytes()
    model = onnx.load_from_string(data)
    assert {p.key: p.value for p in model.metadata_props}["model_id"] == "quantize/int8"
    del model.metadata_props[:]
    assert metrics["onnx_bytes"] == len(model.SerializeToString()) < len(data) == metrics["checkpoint_bytes"]


def test_a_run_on_one_machine_is_the_same_again(trained):
    first = quantized(trained, "int8")
    torch.manual_seed(1)
    assert quantized(trained, "int8") == first


def test_calibration_images_are_drawn_from_the_seed():
    split = striped(100)
    first = calibration_images(split, 10, 0)
    assert first.shape == (10, 1, 28, 28)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, calibration_images(split, 10, 0))
    assert not np.array_equal(first, calibration_images(split, 10, 1))
    assert len(calibration_images(split, 1000, 0)) == 100


def tuning(model, options):
    """A method that fine-tunes."""
    model.finetune(model.network)
    return model.export(model.network)


def with_epochs(trained, epochs):
    """The variant w4, its epochs changed."""
    context = open_context(trained, "quantize", "w4")
    item = context.item.model_copy(update={"epochs": epochs})
    return dataclasses.replace(context, config=context.config.model_copy(update={"item": item}))


def test_a_method_may_fine_tune_under_the_items_recipe(trained, monkeypatch):
    method = plugins.load("quantize/methods", "weights")
    monkeypatch.setattr(method, "quantize", tuning)
    if (trained / "models/quantize/w4").exists():
        forget(trained, "quantize/w4")
    quantize_model(with_epochs(trained, 2))
    metrics = json.loads((trained / "metrics/quantize/w4.json").read_text(encoding="utf-8"))
    assert metrics["epochs"] == 2
    before, after = (
        onnx.load(trained / f"models/{name}/seed_0/model.onnx").graph.initializer
        for name in ("train/teacher", "quantize/w4")
    )
    assert [list(t.dims) for t in before] == [list(t.dims) for t in after]
    assert any(a.raw_data != b.raw_data for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("epochs", "method", "says"),
    [
        (3, None, "quantize.w4.epochs = 3: weights does no fine-tuning; set epochs: 0"),
        (0, tuning, "quantize.w4.epochs = 0: weights fine-tunes the network; set 1 or more"),
    ],
)
def test_epochs_that_do_not_suit_the_method_are_refused(trained, monkeypatch, epochs, method, says):
    if method:
        monkeypatch.setattr(plugins.load("quantize/methods", "weights"), "quantize", method)
    if (trained / "models/quantize/w4").exists():
        forget(trained, "quantize/w4")
    with pytest.raises(ParamsError, match=re.escape(says)):
        quantize_model(with_epochs(trained, epochs))
