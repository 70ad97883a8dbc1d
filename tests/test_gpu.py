"""What must hold on a GPU. Each test runs on the CPU too (one is exhaustive there), so that it is known to work."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import RECIPE, RUNTIME, Objective, striped
from little import copy_of, make_project, results, run
from ruamel.yaml import YAML

from netpress.core import checkpoint
from netpress.core.dataset import ArrayFile
from netpress.core.engine import Schedule, fit
from netpress.core.measure import evaluate
from netpress.core.networks import build_model
from netpress.core.runtime import set_up
from netpress.core.streamed import StreamedImages
from netpress.ingest.arrays import write_array

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU"))
#: Each network has layers of its own kind: residual and pooled, depthwise, grouped.
NETWORKS = {
    "resnet18": {"width": 0.125, "stem": "pooled"},
    "mobile_student": {"width": 0.25},
    "compact_cnn": {"width": 0.25, "groups": 2},
}
#: Every kind of augmentation.
AUGMENT = RECIPE.augment.model_copy(
    update={"flip": "alternating", "crop_padding": 2, "resized_crop": 0.5, "erasing": 0.3, "mixup": 0.4}
)


@pytest.fixture(params=["cpu", GPU])
def device(request, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which is set up, and taken back after the test
    return set_up(on(request.param))


def on(device, **changes):
    return RUNTIME.model_copy(update={"device": device} | changes)


def moved(split, device):
    return replace(split, images=split.images.to(device), labels=split.labels.to(device))


def network_on(device, arch):
    torch.manual_seed(0)
    return build_model(arch, 3, 1, **NETWORKS[arch]).to(device)


def trained(device, arch="compact_cnn", augment=AUGMENT, epochs=2, precision="fp32", **options):
    """Train from a start of one seed: the network and its history."""
    network, recipe = network_on(device, arch), RECIPE.model_copy(update={"augment": augment})
    splits = moved(striped(96), device), moved(striped(48, seed=1), device)
    runtime = on(device.type, precision=precision)
    return network, fit(network, *splits, Schedule(recipe, epochs, 0), runtime, "test", **options)


def assert_same_bits(one, other):
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("arch", NETWORKS)
def test_two_trainings_are_equal_bit_by_bit(device, arch):
    (one, history), (other, again) = trained(device, arch), trained(device, arch)
    assert history == again
    assert_same_bits(one, other)
    assert next(one.parameters()).device.type == device.type


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(device, precision):
    history = trained(device, augment=RECIPE.augment, epochs=8, precision=precision)[1]
    assert history[-1]["val_acc"] > 0.95


def test_going_on_gives_the_same_bits(device, monkeypatch, tmp_path):
    class KilledError(Exception):
        pass

    def objective(batch, logits):
        calls.append(1)
        if len(calls) == 8:  # in the third epoch
            raise KilledError
        return torch.nn.functional.cross_entropy(logits, batch.targets)

    monkeypatch.setattr(checkpoint, "SHARE", 1e9)  # a checkpoint after each epoch, though they are short
    calls, kept = [], checkpoint.Checkpoint(tmp_path / "fit")
    with pytest.raises(KilledError):
        trained(device, epochs=4, objective=Objective(objective), checkpoint=kept)
    whole, history = trained(device, epochs=4)
    gone_on, again = trained(device, epochs=4, checkpoint=kept)
    assert again == history
    assert_same_bits(whole, gone_on)


def test_a_network_says_what_it_says_on_the_cpu(device):
    split, network = striped(48, seed=1), trained(device, augment=RECIPE.augment, epochs=8)[0]
    there = evaluate(network, moved(split, device))
    here = evaluate(network.cpu(), split)
    assert there.accuracy == here.accuracy
    assert there.loss == pytest.approx(here.loss, rel=1e-4)


def test_images_on_the_disk_train_to_the_same_bits(device, tmp_path):
    split, path = striped(96), tmp_path / "images.npy"
    file = ArrayFile(path, write_array(path, tuple(split.images.shape), "uint8", [split.images.numpy()]))
    streamed = replace(moved(split, device), images=StreamedImages(file, device))
    schedule, val = Schedule(RECIPE.model_copy(update={"augment": AUGMENT}), 2, 0), moved(striped(48, seed=1), device)
    network = network_on(device, "compact_cnn")
    history = fit(network, streamed, val, schedule, on(device.type), "test")
    whole, expected = trained(device)
    assert history == expected
    assert_same_bits(network, whole)


@pytest.mark.e2e
@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.exhaustive), GPU])
def test_jobs_share_a_device_and_give_the_bytes_that_one_after_the_other_gives(device, tmp_path):
    """The whole graph, three jobs at once, which is how small variants share a GPU."""
    project = make_project(tmp_path / "project")
    params = YAML(typ="safe").load((project / "params.yaml").read_text(encoding="utf-8"))
    runtime = params["runtime"] | {"device": device}
    alone = copy_of(project, tmp_path / "alone", runtime=runtime)
    together = copy_of(project, tmp_path / "together", runtime=runtime)
    for folder, jobs in ((alone, "1"), (together, "3")):
        done = run(folder, "python", "-m", "netpress", "run", "-j", jobs)
        assert done.returncode == 0, done.stdout
    assert results(together) == results(alone)
    assert (together / "dvc.lock").read_bytes() == (alone / "dvc.lock").read_bytes()
    recorded = json.loads((together / "metrics/environments.json").read_text(encoding="utf-8"))["environments"]
    devices = {where["device"] for where in recorded.values() if "device" in where}
    assert devices and all(name.startswith(device) for name in devices)
