"""Small data and settings that many tests share."""

import functools
import signal

import netpress  # noqa: F401 (before torch: it says how threads wait)

# isort: split
import pytest
import standin
import torch
from little import STAGES, Server, make_project, run
from project import fresh
from torch import nn
from xdist.scheduler import LoadScopeScheduling

from netpress.core.splits import DeviceSplit
from netpress.params import plugins
from netpress.params.recipes import Augment, Recipe, Runtime
from netpress.params.schema import parse
from netpress.process.warm import keep_translations
from netpress.prune.common.plan import plan_rounds
from netpress.prune.schedules import geometric
from netpress.report import write
from netpress.report.page.build import PAGE

# A shell's background jobs ignore Ctrl-C, those of nohup a hangup, and so would processes that tests stop by these.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

RUNTIME = Runtime(
    device="cpu", threads=1, precision="fp32", channels_last=True, compile=False, devices=1, batch_norm="synchronized"
)
NO_AUGMENT = Augment(flip=False, crop_padding=0, resized_crop=0.0, erasing=0.0, mixup=0.0)
RECIPE = Recipe(
    optimizer="sgd",
    lr=0.05,
    body_lr=1.0,
    bias_lr=1.0,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="one_cycle",
    warmup=0.3,
    batch_size=32,
    min_steps=0,
    label_smoothing=0.0,
    clip_norm=5.0,
    average=0.0,
    resize_from=1.0,
    resize_until=0.8,
    augment=NO_AUGMENT,
)


#: Set-ups of half a minute and more that several files share; who uses one names it.
SHARED = ("smoke_run", "little_run")
#: What takes longest, as measured: shared set-ups and files, the longest first.
LONG = (
    *("smoke_run", "little_run", "test_every_model", "test_queue", "test_quantization", "test_params_fuzz"),
    *("test_artifacts", "test_profiles", "test_report_partial", "test_verify_clone", "test_docs", "test_script"),
)


def pytest_addoption(parser):
    parser.addoption("--exhaustive", action="store_true", help="also run the tests marked exhaustive")


def pytest_collection_modifyitems(config, items):
    """Leave the exhaustive tests out unless asked; not by -m, which a user's own -m would replace."""
    if not config.getoption("--exhaustive"):
        left_out = [item for item in items if item.get_closest_marker("exhaustive")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    if hasattr(config, "workerinput"):  # one of several processes: the long ones first, so that none is left alone
        places = {name: place for place, name in enumerate(LONG)}
        items.sort(key=lambda item: places.get(group_of(item.path), len(LONG)))


@functools.cache
def group_of(path):
    """Return what the tests of a file stay together for: a set-up that it shares with others, or the file itself."""
    text = path.read_text(encoding="utf-8")
    return next((name for name in SHARED if name in text), path.stem)


class Together(LoadScopeScheduling):
    """Gives all tests of a group to one process. pytest-xdist's own `loadgroup` (3.8) does nothing under pytest 9.2."""

    def _split_scope(self, nodeid):
        return group_of(self.config.rootpath / nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config, log):
    return Together(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Fix torch's threads, before any fixture of the test: sums depend on them, and stages and tests set others."""
    torch.set_num_threads(RUNTIME.threads)
    keep_translations()


def pytest_runtest_teardown():
    """Take back what stages set when they run inside the tests' process."""
    if torch.are_deterministic_algorithms_enabled():
        torch.set_deterministic_debug_mode("default")


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
    """Runs stage scripts without starting Python and importing torch again each time."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def little_run(server, tmp_path_factory):
    """The little project, run once and known to DVC as `dvc repro` leaves it; for copies, never changed itself."""
    folder = make_project(tmp_path_factory.mktemp("little") / "project")
    for stage, args in STAGES:
        server.finish(folder, stage, *args)
    done = run(folder, "dvc", "commit", "--force", "--quiet")
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture(scope="session")
def stages(tmp_path_factory):
    """All stages, run in this process with a stand-in for training; see standin.py."""
    return standin.run_all(tmp_path_factory.mktemp("glue") / "project")


@pytest.fixture
def tables_alone(monkeypatch):
    """Reports without figures and page, which take most of the time, where a test asks for neither."""
    monkeypatch.setattr(write, "_write_figures", lambda *_: [])
    monkeypatch.setattr(write, "_write_page", lambda *_: PAGE)


@pytest.fixture
def runtime():
    return RUNTIME


@pytest.fixture
def recipe():
    return RECIPE


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """The project under the smoke profile, run once and committed; takes minutes."""
    return fresh(tmp_path_factory.mktemp("first") / "project")


@pytest.fixture
def project(smoke_run):
    """The finished project as it was committed."""
    smoke_run.clean()
    return smoke_run


class Objective:
    """An objective that is a function of a batch and its logits alone; cross-entropy as it stands."""

    def __init__(self, loss=lambda batch, logits: nn.functional.cross_entropy(logits, batch.targets)):
        self.loss, self.modules = loss, nn.ModuleDict()

    def start_epoch(self, epoch, epochs):
        pass

    def __call__(self, batch, logits):
        return self.loss(batch, logits)


def score_of(name, options):
    """A score of channels, by the name of its file."""
    module = plugins.load("prune/scores", name)
    return module.scores(parse(module.Options, options, name))


def rates(rate, until):
    """The schedule of one rate until a share of the parameters is left."""
    return lambda number, left: geometric.next_rate(number, left, rate, until, geometric.Options())


def planned(network, example, rate, until, round_to):
    """The parameters left after each round of one rate."""
    plan = plan_rounds(network, example, rates(rate, until), round_to, "params")
    return [left for _, left in plan]
