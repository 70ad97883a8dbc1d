"""`epochs: 0`: a trained network as it came, with its own normalization and class names, and what is made of it."""

import csv
import json

import numpy as np
import onnxruntime
import own
import pytest
import torch
from little import DESIGN, SECTIONS, make_project
from safetensors.torch import load_file
from torch import nn

from netpress.base.errors import ParamsError
from netpress.core.artifacts import read_spec, tensors_as_bytes
from netpress.core.dataset import load_manifest
from netpress.core.fitting import check_feeding
from netpress.core.networks import build_model, renormalize
from netpress.params.items import Train
from netpress.params.schema import parse

MEAN, STD = [0.6], [0.2]
NAMES = [f"class {k}" for k in range(10)]
BROUGHT = DESIGN | {
    "init": "w.safetensors",
    "epochs": 0,
    "normalization": {"mean": MEAN, "std": STD},
    "class_names": NAMES,
}
UNTUNED = {"recipe": "finetune", "loss": "labels", "loss_options": {}, "epochs": 0}
QUANTIZED = {"from": "train/brought", "method": "fp16", "method_options": {}} | UNTUNED
STAGES = [("train", "brought"), ("factorize", "tucker"), ("quantize", "half"), ("distill", "kd")]


@pytest.fixture(scope="module")
def folder(server, tmp_path_factory):
    folder = make_project(
        tmp_path_factory.mktemp("brought") / "project",
        train={"brought": BROUGHT},
        factorize={"tucker": SECTIONS["factorize"]["tucker"] | {"from": "train/brought", "epochs": 1}},
        quantize={"half": QUANTIZED},
        distill={"kd": SECTIONS["distill"]["kd"] | {"teacher": "train/brought", "epochs": 1, "allow_larger": True}},
        prune=SECTIONS["prune"] | {"from": "train/brought"},
        final=["train/brought"],
    )
    torch.manual_seed(0)
    network = build_model("compact_cnn", 10, 1, width=0.25)
    server.finish(folder, "prepare")
    images = torch.from_numpy(own.normalized(np.load(folder / "data/prepared/train_images.npy"), MEAN, STD))
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    features = []
    head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with (
        torch.no_grad()
    ):  # its statistics and its head are fitted, so that its answers are right for images fed its way
        network.train()(images)
        network.eval()(images)
        labels = torch.from_numpy(np.load(folder / "data/prepared/train_labels.npy"))
        known = features[1].double()
        centred, wanted = known - known.mean(0), torch.eye(10)[labels].double() - 0.1
        gram = centred.T @ centred
        gram += 1e-4 * gram.trace() / len(gram) * torch.eye(len(gram))
        head.weight.copy_(4 * torch.linalg.solve(gram, centred.T @ wanted).T)
        head.bias.copy_(-(head.weight.double() @ known.mean(0)))
    (folder / "data/weights/w.safetensors").write_bytes(tensors_as_bytes(network.state_dict()))
    for stage in (*STAGES, ("test", "train/brought")):
        server.finish(folder, *stage)
    return folder


def quality(folder, model_id, split, mean=MEAN, std=STD):
    images, labels = (np.load(folder / f"data/prepared/{split}_{part}.npy") for part in ("images", "labels"))
    data = (folder / "models" / model_id / "seed_0/model.onnx").read_bytes()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": own.normalized(images, mean, std)})
    return own.quality(logits, labels, 10)


def metrics(folder, model_id):
    return json.loads((folder / f"metrics/{model_id}.json").read_text())


def test_it_is_saved_as_it_came(folder):
    place = folder / "models/train/brought/seed_0"
    brought, file = load_file(place / "model.safetensors"), load_file(folder / "data/weights/w.safetensors")
    assert brought.keys() == file.keys() and all(torch.equal(brought[name], file[name]) for name in file)
    with (place / "history.csv").open() as stream:
        assert list(csv.DictReader(stream)) == []
    spec = read_spec(place)
    assert (spec.epochs, spec.init, spec.mean, spec.std, spec.classes) == (0, "w.safetensors", MEAN, STD, NAMES)


def test_it_is_judged_on_images_normalized_its_own_way(folder):
    found, expected = metrics(folder, "train/brought"), quality(folder, "train/brought", "val")
    assert found["val_acc"] == found["val_acc_best"] == pytest.approx(expected["accuracy"], abs=1.01 / 120)
    assert found["val_loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert found["epochs"] == 0 and len(found["val_acc_by_class"]) == 10
    of_test = quality(folder, "train/brought", "test")["accuracy"]
    assert metrics(folder, "test/train/brought")["test_acc"] == pytest.approx(of_test, abs=0.0101)
    manifest = load_manifest(folder / "data/prepared")
    other = quality(folder, "train/brought", "test", manifest.mean, manifest.std)["accuracy"]
    assert abs(other - of_test) > 0.03, "the two normalizations give the same answers: the test shows nothing"


@pytest.mark.parametrize("model_id", ["factorize/tucker", "quantize/half"])
def test_what_is_made_of_it_is_fed_as_it_is(folder, model_id):
    spec = read_spec(folder / f"models/{model_id}/seed_0")
    assert (spec.mean, spec.std, spec.classes) == (MEAN, STD, NAMES)
    assert metrics(folder, model_id)["val_loss"] == pytest.approx(quality(folder, model_id, "val")["loss"], rel=5e-3)


def test_its_student_is_normalized_as_the_data_are_and_sees_what_it_answers_its_own_way(folder):
    manifest, spec = load_manifest(folder / "data/prepared"), read_spec(folder / "models/distill/kd/seed_0")
    assert (spec.mean, spec.std, spec.classes) == (manifest.mean, manifest.std, manifest.classes)
    images = np.load(folder / "data/prepared/val_images.npy")
    answers = []
    for model_id, mean, std in (("train/brought", MEAN, STD), ("distill/kd", manifest.mean, manifest.std)):
        data = (folder / "models" / model_id / "seed_0/model.onnx").read_bytes()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        answers.append(session.run(["logits"], {"images": own.normalized(images, mean, std)})[0].argmax(1))
    share = (answers[0] == answers[1]).mean()
    assert metrics(folder, "distill/kd")["teacher_agreement"] == pytest.approx(share, abs=0.02)


def test_renormalized_images_are_those_of_the_other_normalization():
    network, pixels = nn.Sequential(nn.Identity()), torch.rand(2, 3, 4, 4)
    given, wanted = ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]), ([0.1, 0.2, 0.3], [0.9, 0.8, 0.7])

    def normalized(mean, std):
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    renormalize(network, given, wanted)
    torch.testing.assert_close(network(normalized(*given)), normalized(*wanted))
    same = nn.Identity()
    renormalize(same, given, given)
    assert same(pixels) is pixels


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"normalization": {"mean": [0.1, 0.2], "std": [0.1]}},
            "states 2 means and 1 deviations; the images have 1 chan",
        ),
        ({"class_names": ["a", "b"]}, r"train\.x\.class_names: 2 names; the data have 10 classes"),
        ({"class_names": "reversed"}, r"train\.x\.class_names: another order than that of the labels"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(folder, changes, words):
    manifest = load_manifest(folder / "data/prepared")
    if changes.get("class_names") == "reversed":
        changes = {"class_names": manifest.classes[::-1]}
    with pytest.raises(ParamsError, match=words):
        check_feeding(parse(Train, BROUGHT | changes, "train.x"), manifest, "train.x")


def test_a_deviation_of_zero_is_refused():
    with pytest.raises(ParamsError, match=r"train\.x\.normalization\.std\.0 = 0\.0: must be a number above 0"):
        parse(Train, BROUGHT | {"normalization": {"mean": [0.1], "std": [0.0]}}, "train.x")
