"""Small data and settings that many tests share."""

import os

# Before torch is loaded, here and in all that tests start: threads that spin while they wait keep other processes from
# the cores. No result depends on it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import standin
import torch
from little import Server
from project import fresh

from netpress.core.batches import DeviceSplit
from netpress.params.items import Augment, Recipe, Runtime

RUNTIME = Runtime(device="cpu", threads=2, precision="fp32", channels_last=True, compile=False)
NO_AUGMENT = Augment(flip=False, crop_padding=0, resized_crop=0.0, erasing=0.0, mixup=0.0)
RECIPE = Recipe(
    optimizer="sgd",
    lr=0.05,
    body_lr=1.0,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="one_cycle",
    warmup=0.3,
    batch_size=32,
    min_steps=0,
    label_smoothing=0.0,
    clip_norm=5.0,
    average=0.0,
    augment=NO_AUGMENT,
)


def pytest_addoption(parser):
    parser.addoption("--exhaustive", action="store_true", help="also run the tests marked exhaustive")


def pytest_collection_modifyitems(config, items):
    """Leave the exhaustive tests out unless asked; not by -m, which a user's own -m would replace."""
    if not config.getoption("--exhaustive"):
        left_out = [item for item in items if item.get_closest_marker("exhaustive")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Fix torch's threads, before any fixture of the test: sums depend on them, and stages and tests set others."""
    torch.set_num_threads(RUNTIME.threads)


def pytest_runtest_teardown():
    """Take back what stages set when they run inside the tests' process."""
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)


def striped(count, classes=3, size=28, channels=1, seed=0, **changes):
    """Pictures that a small network learns in seconds: noise and one bright stripe, placed by class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 60, (count, size, size, channels), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    for image, label in zip(images, labels, strict=True):
        start = int(label) * size // classes
        image[start : start + 4] = 220
    settings = {"num_classes": classes, "mean": (0.2,) * channels, "std": (0.3,) * channels, "channels_last": True}
    return DeviceSplit(images, labels, **(settings | changes))


@pytest.fixture(scope="session")
def server():
    """Runs stage scripts without starting Python and importing torch anew each time."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def stages(tmp_path_factory):
    """All stages, run in this process with a stand-in for training; see standin.py."""
    return standin.run_all(tmp_path_factory.mktemp("glue") / "project")


@pytest.fixture
def runtime():
    return RUNTIME


@pytest.fixture
def recipe():
    return RECIPE


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The project under the smoke profile, run once and committed; takes minutes."""
    return fresh(tmp_path_factory.mktemp("first") / "project")


@pytest.fixture
def project(finished):
    """The finished project as it was committed."""
    finished.clean()
    return finished
