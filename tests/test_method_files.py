"""Method files of a user: what is missing in one is named, and what one raises ends in one line."""

import contextlib
import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import RUNTIME, striped
from little import copy_of, forget
from test_pruning_scores import Two
from torch import nn

from netpress.__main__ import main
from netpress.base.errors import ConfigError, ParamsError
from netpress.core.batches import Batch
from netpress.core.context import Method
from netpress.core.networks import build_model
from netpress.distill.teaching.taught import Taught
from netpress.factorize.run import factorize_network
from netpress.params import plugins
from netpress.params.items import Prune
from netpress.process.blame import blamed
from netpress.process.script import guarded
from netpress.prune.common.channels import remove_channels
from netpress.prune.common.plan import next_rate_of
from netpress.prune.run import score_of

ROOT = Path(__file__).parent.parent
HEAD = "from netpress.params.schema import Strict\nclass Options(Strict):\n    rank: float\nEXAMPLE = {'rank': 0.5}\n"
FUNCTIONS = {
    "models": "def build(num_classes, in_channels, options): ...",
    "distill/losses": "def loss(student, teacher, targets, options, adapter): ...",
    "factorize/methods": "def factorize(layer, options, inputs): ...\nKNOB = ('rank', 'lower it')",
    "prune/scores": "def scores(options): ...",
    "prune/schedules": "def next_rate(round, left, rate, until, options): ...",
    "quantize/methods": "def quantize(model, options): ...",
}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Writes a file `mine` into a family of a copy of the package, and loads it as params.yaml would."""

    def load(family, text):
        shutil.copytree(plugins.PACKAGE, tmp_path / "netpress", ignore=shutil.ignore_patterns("__pycache__"))
        folder = tmp_path / "netpress" / family
        (folder / "mine.py").write_text(text)
        package = importlib.import_module(f"netpress.{family.replace('/', '.')}")
        monkeypatch.setattr(plugins, "PACKAGE", tmp_path / "netpress")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        importlib.invalidate_caches()
        return plugins.load(family, "mine", "distill.x.method")

    plugins._member.cache_clear()
    yield load
    plugins._member.cache_clear()
    for name in [name for name in sys.modules if name.startswith("netpress.") and name.endswith(".mine")]:
        del sys.modules[name]


@pytest.mark.parametrize("family", FUNCTIONS)
def test_a_file_that_defines_what_its_family_does_is_taken(load, family):
    assert load(family, HEAD + FUNCTIONS[family]).EXAMPLE == {"rank": 0.5}


LOSS = FUNCTIONS["distill/losses"]
FAULTS = {
    "import": ("import torch\nimport nonsense\n", "mine.py line 2: ModuleNotFoundError: No module named 'nonsense'"),
    "syntax": ("x = 1\n\ndef loss(:\n", "mine.py line 3: SyntaxError: invalid syntax"),
    "at import": ("def f():\n    return {}['a']\nf()\n", "mine.py line 2 in f: KeyError: 'a'"),
    "no Python": ("\0", "mine.py"),
    "no function": (
        HEAD,
        "mine.py: defines no function loss; define loss(student, teacher, targets, options, adapter)",
    ),
    "no callable": (HEAD + "loss = 3", "mine.py: loss is no function; define loss(student, teacher, targets, options"),
    "signature": (
        HEAD + "def loss(student, teacher, targets): ...",
        "mine.py: loss(student, teacher, targets) is called as loss(student, teacher, targets, options, adapter), and",
    ),
    "optional": (HEAD + LOSS + "\ndef taps(): ...", "mine.py: taps() is called as taps(options), and cannot be"),
    "no Options": (LOSS, "mine.py: defines no class Options(Strict); import Strict from netpress.params.schema"),
    "other Options": (f"{LOSS}\nclass Options: ...", "mine.py: defines no class Options(Strict); import Strict"),
    "no EXAMPLE": (HEAD.replace("EXAMPLE", "EXAMPEL") + LOSS, "mine.py: defines no EXAMPLE; define ordinary options"),
    "EXAMPLE": (
        HEAD.replace("0.5", "'a'") + LOSS,
        "mine.py: EXAMPLE.rank = 'a': must be a number; see docs/methods.md",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_missing_or_does_not_import_is_named_at_the_key(load, fault):
    text, says = FAULTS[fault]
    with pytest.raises(ParamsError) as raised:
        load("distill/losses", text)
    ((key, message),) = raised.value.faults
    assert key == "distill.x.method"
    assert message.startswith("distill.x.method: ")
    assert f"src/netpress/distill/losses/{says}" in message


@pytest.mark.parametrize("knob", ["", "KNOB = ('rnak', 'lower it')", "KNOB = 'rank'", "KNOB = ('rank',)"])
def test_a_factorization_names_the_option_to_change(load, knob):
    text = HEAD + FUNCTIONS["factorize/methods"].split("\n")[0]
    with pytest.raises(ParamsError, match=r"mine\.py: defines no KNOB that names an option; .* one of \['rank'\]"):
        load("factorize/methods", f"{text}\n{knob}")


def test_options_whose_own_rules_ask_the_machine_are_no_fault_of_the_file(load):
    rule = "    @field_validator('rank')\n    def _rule(cls, value):\n        raise ValueError('no such file')\n"
    text = "from pydantic import field_validator\n" + HEAD.replace("EXAMPLE", rule + "EXAMPLE") + LOSS
    assert load("distill/losses", text).EXAMPLE == {"rank": 0.5}


def test_a_data_source_needs_its_function_alone(load):
    with pytest.raises(ParamsError, match=r"mine\.py: defines no function read; define read\(place, data, aside\)"):
        load("ingest/sources", "")


IN_DOCTOR = {
    "import nonsense": "mine.py line 1: ModuleNotFoundError: No module named 'nonsense'",
    HEAD: "mine.py: defines no function build; define build(num_classes, in_channels, options); see docs/methods.md",
    HEAD
    + "def build(num_classes, in_channels, options):\n    return {}['a']": "mine.py line 6 in build: KeyError: 'a'",
}


@pytest.mark.parametrize("text", IN_DOCTOR)
def test_doctor_shows_it_as_a_fault_beside_its_other_findings(load, tmp_path, monkeypatch, capsys, text):
    profile = (ROOT / "profiles/default.yaml").read_text(encoding="utf-8")
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text(
        re.sub(
            "(teacher|resnet18_strong):\n    arch: .*\n    options: .*",
            r"\1:\n    arch: mine\n    options: {rank: 0.5}",
            profile,
        )
    )
    (tmp_path / "data/fashion-mnist/images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(ParamsError):
        load("models", text)
    assert main(["doctor"]) == 1
    out, err = capsys.readouterr()
    (line,) = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert f"src/netpress/models/{IN_DOCTOR[text]}" in line
    assert "params.yaml, line " in line or "build" in line
    assert "ok    disk" in out and err == "error: fix params.yaml, as said above\n"


RAISING = "def loss(student, teacher, targets, options, adapter):\n    return student['oops']\n"


def test_an_exception_of_a_method_is_one_line_and_the_traceback_is_there_if_asked(load, capsys, monkeypatch):
    module = load("distill/losses", HEAD + RAISING)

    def work():
        with blamed("distill/rkd"):
            module.loss({}, None, None, None, None)

    place = "src/netpress/distill/losses/mine.py line 6 in loss: KeyError: 'oops'"
    assert guarded(work) == 1
    assert capsys.readouterr().err == f"error: distill/rkd: distillation method mine, {place}\n"
    monkeypatch.setenv("NETPRESS_TRACEBACK", "1")
    assert guarded(work) == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last):") and "return student['oops']" in told
    assert told.endswith(f"error: distill/rkd: distillation method mine, {place}\n")


@pytest.mark.parametrize(
    "error", [ConfigError("x.y: a fault"), OSError(28, "disk full"), MemoryError(), ValueError("a bug")]
)
def test_errors_of_netpress_and_of_the_machine_pass_a_method_as_they_are(load, error):
    class Raising:
        def __getitem__(self, key):
            raise error

    module = load("distill/losses", HEAD + RAISING)
    with pytest.raises(ConfigError if isinstance(error, ValueError) else type(error)) as raised, blamed("x"):
        module.loss(Raising(), None, None, None, None)
    assert (raised.value is error) == (not isinstance(error, ValueError))


def test_a_fault_of_netpress_itself_is_not_blamed_on_a_method():
    with pytest.raises(ZeroDivisionError), blamed("distill/rkd"):
        _ = 1 / 0


def method(**functions):
    return Method("mine", type("Module", (), {name: staticmethod(f) for name, f in functions.items()}), None)


def mean_of(student, teacher, targets, options, adapter):
    return student.logits.mean()


LOSSES = {
    "loss returned a Tensor of shape (4,); return one number": lambda s, t, y, o, a: s.logits.mean(1),
    "loss returned a tuple; return Tensor": lambda s, t, y, o, a: (s.logits.mean(), 1),
    "loss returned a float; return Tensor": lambda s, t, y, o, a: s.logits.mean().item(),
    "loss returned None; return Tensor": lambda s, t, y, o, a: None,
    "loss returned a tensor without gradient; compute it from": lambda s, t, y, o, a: s.logits.detach().mean(),
}


def taught(**functions):
    student, teacher = nn.Identity(), nn.Flatten()
    return Taught(student, [teacher], method(**functions), "same", RUNTIME, striped(8))


@pytest.mark.parametrize("says", LOSSES)
def test_a_loss_is_one_number_with_a_gradient(says):
    objective = taught(loss=LOSSES[says])
    batch = Batch(torch.zeros(4, 1, 28, 28), torch.eye(3)[torch.arange(4) % 3], torch.arange(4), None)
    with pytest.raises(ParamsError) as raised:
        objective(batch, torch.randn(4, 3, requires_grad=True))
    ((key, message),) = raised.value.faults
    assert key == "method"
    assert message.startswith(f"method = mine: {says}")


@pytest.mark.parametrize(
    ("functions", "says"),
    [
        (
            {"adapter": lambda s, t, o: nn.Identity()},
            "method = mine: defines adapter without taps; define taps(options)",
        ),
        ({"taps": lambda o: ["0.3"]}, "method = mine: taps returned a list; return Taps"),
        ({"taps": "default", "adapter": lambda s, t, o: None}, "method = mine: adapter returned None; return Module"),
        ({"taps": "default", "adapter": lambda s, t, o: 1}, "method = mine: adapter returned a int; return Module"),
    ],
)
def test_taps_and_adapter_give_what_they_should(functions, says):
    from netpress.core.taps import Taps

    functions = {name: (lambda options: Taps()) if f == "default" else f for name, f in functions.items()}
    with pytest.raises(ParamsError) as raised:
        taught(loss=mean_of, **functions)
    assert says in str(raised.value)


SCORES = {
    "a Tensor of shape (3,); return a tensor of shape (4,)": lambda n: torch.ones(n - 1),
    "a Tensor of shape (); return a tensor of shape (4,)": lambda n: torch.tensor(1.0),
    "a Tensor of shape (4, 1); return a tensor of shape (4,)": lambda n: torch.ones(n, 1),
    "None; return a tensor of shape (4,)": lambda n: None,
    "a list; return a tensor of shape (4,)": lambda n: [1.0] * n,
    "1 of 4 numbers that are NaN or infinite; return finite ones": lambda n: torch.ones(n).index_fill(
        0, torch.tensor([1]), float("nan")
    ),
    "4 of 4 numbers that are NaN or infinite; return finite ones": lambda n: torch.full((n,), float("inf")),
}


@pytest.mark.parametrize("says", SCORES)
def test_a_score_is_one_finite_number_for_each_channel(says):
    network = Two()
    with pytest.raises(ParamsError) as raised:
        remove_channels(
            network, torch.zeros(2, 1, 9, 9), 0.5, 1, lambda group: SCORES[says](len(group[0].idxs)), "mine"
        )
    ((key, message),) = raised.value.faults
    assert key == "method"
    layer = message.split("'")[1]
    assert isinstance(network.get_submodule(layer), nn.Conv2d)
    assert message == f"method = mine: of layer '{layer}' the score returned {says}{message.partition(says)[2]}"


def test_a_division_by_zero_in_a_score_is_not_taken_for_a_network_that_cannot_be_pruned(load):
    text = "def scores(options):\n    def score(group):\n        return 1 / 0\n    return score\n"
    score = load("prune/scores", HEAD + text).scores(None)
    with pytest.raises(ConfigError, match=r"mine\.py line 7 in score: ZeroDivisionError"), blamed("prune/main"):
        remove_channels(Two(), torch.zeros(2, 1, 9, 9), 0.5, 1, score)


class Observing:
    """A score whose `observe` misses an argument."""

    def __call__(self, group): ...

    def observe(self, network): ...


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (lambda options: None, "scores returned None; return Callable"),
        (lambda options: lambda: 1, "is called as score(group), and cannot be: too many positional arguments"),
        (lambda options: Observing(), "observe(network) is called as observe(network, batches), and cannot be"),
    ],
)
def test_a_score_is_called_as_it_says_or_refused_beforehand(scores, says):
    with pytest.raises(ParamsError) as raised:
        score_of(method(scores=scores))
    assert "method = mine: " in str(raised.value) and says in str(raised.value)


@pytest.mark.parametrize("rate", [0.0, 1.0, 1.5, float("nan"), "0.3", 1])
def test_a_rate_is_a_share(load, rate):
    load(
        "prune/schedules",
        HEAD + f"def next_rate(round, left, rate, until, options):\n    return {rate!r}".replace("nan", "float('nan')"),
    )
    item = Prune.model_construct(schedule="mine", schedule_options={"rank": 0.5}, rate=0.3, until=0.1)
    with pytest.raises(
        ParamsError, match=r"^schedule = mine: in round 1 next_rate returned .*; return a share above 0"
    ):
        next_rate_of(item)(1, 1.0)


@pytest.mark.parametrize(("found", "says"), [((1, 2), "a tuple"), (nn.Linear(2, 2), "a Linear"), (False, "a bool")])
def test_a_factorization_is_a_chain_or_nothing(found, says):
    with pytest.raises(ParamsError) as raised:
        factorize_network(Two(), method(factorize=lambda layer, options, inputs: found), lambda: iter(()))
    assert str(raised.value) == f"method = mine: factorize returned {says}; return Sequential or None"


def test_an_architecture_builds_a_network(load):
    load("models", HEAD + FUNCTIONS["models"])
    with pytest.raises(ConfigError, match=r"^mine: build returned None; return a torch\.nn\.Module"):
        build_model("mine", rank=0.5)


PATCH = """
from netpress.distill.losses import kd
text = "def loss(student, teacher, targets, options, adapter):\\n    return student.features['oops']\\n"
exec(compile(text, kd.__file__, "exec"), vars(kd))
"""


def test_a_stage_ends_in_one_line_that_names_model_and_method(server, little_run, tmp_path):
    project = copy_of(little_run, tmp_path / "project")
    forget(project, "distill/kd")
    done = server.run(project, "distill", "kd", patch=PATCH)
    assert done["code"] == 1
    method = "distillation method kd, src/netpress/distill/losses/kd.py line 2 in loss"
    assert done["output"].splitlines()[-1] == f"error: distill/kd: {method}: KeyError: 'oops'"
    assert "Traceback" not in done["output"]
