"""An ONNX file alone says how it is fed, and what docs/artifacts.md does with it is what the pipeline does."""

import csv
import json
import re

import numpy as np
import onnx
import pytest
import torch
from little import ROOT
from PIL import Image
from test_food11 import course
from test_food11 import project as food_project

from netpress.__main__ import main
from netpress.core import artifacts
from netpress.core.export import with_metadata, without_metadata
from netpress.ingest.sources._pictures import decode

MODEL = "models/distill/kd_strong/seed_0/model.onnx"


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    """A little project of photos with one trained network."""
    made = food_project(tmp_path_factory.mktemp("onnx") / "project", layout=course)
    for stage, args in [("prepare", []), ("train", ["teacher"])]:
        server.finish(made, stage, *args)
    return made


def example(folder, monkeypatch, capsys):
    """Run the example of the docs on `photo.jpg` of `folder`: its variables, and the class that it names."""
    text = (ROOT / "docs/artifacts.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "get_modelmeta" in block)
    assert MODEL in code
    monkeypatch.chdir(folder)
    found = {}
    capsys.readouterr()
    exec(code.replace(MODEL, "model.onnx"), found)
    return found, capsys.readouterr().out.strip()


def photo(path, mode="RGB", size=(61, 40), seed=0, **options):
    """A picture in which every pixel and channel differs: coarse noise, so that JPEG keeps most of it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, len(mode)), dtype=np.uint8), mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize(size, Image.Resampling.BICUBIC).save(path, "PNG" if mode == "RGBA" else "JPEG", **options)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    return exif


@pytest.mark.parametrize("size", [(61, 40), (33, 90), (32, 32), (20, 21)])
def test_the_example_of_the_docs_predicts_as_the_pipeline_does(trained, tmp_path, monkeypatch, capsys, size):
    photo(tmp_path / "photo.jpg", size=size, exif=turned(), quality=95)
    network, spec = artifacts.load_model(trained / "models/train/teacher")
    (tmp_path / "model.onnx").write_bytes((trained / "models/train/teacher/seed_0/model.onnx").read_bytes())
    found, named = example(tmp_path, monkeypatch, capsys)
    pixels = torch.from_numpy(decode(tmp_path / "photo.jpg", spec.height, "photo.jpg").astype(np.float32))
    images = ((pixels / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)).permute(2, 0, 1)[None]
    np.testing.assert_allclose(found["images"], images.numpy(), atol=1e-5)
    with torch.inference_mode():
        expected = network(images).numpy()
    np.testing.assert_allclose(found["logits"], expected, atol=1e-4 * np.abs(expected).max())
    monkeypatch.chdir(trained)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "photo.jpg").rename(tmp_path / "pictures/photo.jpg")
    assert main(["predict", "train/teacher", str(tmp_path / "pictures"), "--csv", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open(newline="") as stream:
        assert [row["class_1"] for row in csv.DictReader(stream)] == [named]


def test_the_example_shows_transparent_pixels_white(trained, tmp_path, monkeypatch, capsys):
    (tmp_path / "model.onnx").write_bytes((trained / "models/train/teacher/seed_0/model.onnx").read_bytes())
    photo(tmp_path / "photo.jpg", mode="RGBA")
    with Image.open(tmp_path / "photo.jpg") as picture:
        layers = np.asarray(picture).astype(np.float64)
    found, _ = example(tmp_path, monkeypatch, capsys)
    share = layers[:, :, 3:] / 255
    flat = Image.fromarray(np.rint(layers[:, :, :3] * share + 255 * (1 - share)).astype(np.uint8))
    flat.save(tmp_path / "photo.jpg", "PNG")
    on_white, _ = example(tmp_path, monkeypatch, capsys)
    # One level of 255 apart, as the two may round, and of a deviation of the pixels.
    deviation = min(json.loads(found["told"]["std"]))
    np.testing.assert_allclose(found["images"], on_white["images"], atol=2 / 255 / deviation)


def test_the_metadata_are_the_specs_and_name_neither_time_nor_place(trained):
    _, spec = artifacts.load_model(trained / "models/train/teacher")
    data = (trained / "models/train/teacher/seed_0/model.onnx").read_bytes()
    told = {p.key: p.value for p in onnx.load_from_string(data).metadata_props}
    assert (told["model_id"], told["channel_order"], told["layout"]) == ("train/teacher", "RGB", "NCHW")
    assert (int(told["height"]), int(told["width"])) == (spec.height, spec.width) == (32, 32)
    assert [json.loads(told[key]) for key in ("classes", "mean", "std")] == [spec.classes, spec.mean, spec.std]
    assert {"alpha", "exif_orientation", "normalization", "output", "resize"} < set(told)
    assert str(trained) not in " ".join(told.values())
    bare = without_metadata(data)
    assert not onnx.load_from_string(bare).metadata_props
    assert spec.onnx_bytes == len(bare) < len(data)
    assert with_metadata(bare, spec.feeding()) == data


def test_a_model_of_one_channel_says_grey_and_the_example_feeds_it(trained, tmp_path, monkeypatch, capsys):
    _, spec = artifacts.load_model(trained / "models/train/teacher")
    grey = spec.model_copy(update={"in_channels": 1, "mean": [0.25], "std": [0.5], "classes": ["Brot", "Käse"]})
    helper, tensor = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(*end) for end in (("images", tensor, None), ("logits", tensor, None))]
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=1),
        helper.make_node("Neg", ["mean"], ["negative"]),
        helper.make_node("Concat", ["mean", "negative"], ["pair"], axis=1),
        helper.make_node("Flatten", ["pair"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "brightness", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (tmp_path / "model.onnx").write_bytes(with_metadata(model.SerializeToString(), grey.feeding()))
    for value, name in ((40, "Käse"), (200, "Brot")):  # below and above the mean
        Image.new("RGB", (50, 40), (value, value, value)).save(tmp_path / "photo.jpg")
        found, named = example(tmp_path, monkeypatch, capsys)
        assert named == name
        np.testing.assert_allclose(found["images"], np.full((1, 1, 32, 32), (value / 255 - 0.25) / 0.5), atol=0.02)
