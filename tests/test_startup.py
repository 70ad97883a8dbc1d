"""What the commands say of themselves, and what they do without: heavy packages that nothing asked for."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from netpress.__main__ import COMMANDS, main

ROOT = Path(__file__).parent.parent
#: Packages of seconds: what loads them says so here.
HEAVY = (
    "dvc",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "scipy",
    "sympy",
    "tensorly",
    "torch",
    "torch._dynamo",
    "torch_pruning",
    "torchvision",
)


def loaded(code):
    """The heavy modules that `code` loads in a process of its own."""
    text = f"import sys\n{code}\nprint('loaded', *[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_without_a_command_the_help_is_printed(capsys):
    assert main([]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for name in COMMANDS:
        assert re.search(rf"\n    {name}\s", said.out), "argparse breaks the line after a long one"


def test_a_word_that_is_no_command_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["veryfy"])
    assert stop.value.code == 2
    assert "no command 'veryfy', did you mean 'verify'?; known: use, init, doctor, " in capsys.readouterr().err


def test_the_version_is_that_of_pyproject(capsys):
    assert main(["--version"]) == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    torch, dvc = (importlib.metadata.version(name) for name in ("torch", "dvc"))
    python = platform.python_version()
    assert capsys.readouterr().out == f"netpress {project['version']}, torch {torch}, dvc {dvc}, Python {python}\n"


def test_a_package_that_is_missing_is_no_traceback(monkeypatch, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("netpress not installed, torch not installed, ")


def test_help_and_version_load_nothing_heavy():
    for arguments in ([], ["--version"]):
        assert loaded(f"from netpress.__main__ import main; main({arguments})") == set()


def test_tables_are_made_without_torch():
    assert (
        loaded("import netpress.report.write, netpress.report.collect, netpress.params.reader, netpress.verify.quick")
        == set()
    )


def test_checking_params_loads_torch_alone():
    """Counting networks must not draw their weights: on meta tensors that loads a compiler."""
    code = "import pathlib, netpress.graph.checks as c; c.load_checked(pathlib.Path('profiles/default.yaml'))"
    assert loaded(code) == {"torch"}


def test_building_a_network_to_count_it_changes_no_random_state():
    code = """
import torch
from netpress.core.networks import build_model, build_on_meta
torch.manual_seed(0)
build_on_meta("resnet18", width=0.125)
drawn = build_model("resnet18", width=0.125).fc.weight
torch.manual_seed(0)
print(bool((build_model("resnet18", width=0.125).fc.weight == drawn).all()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


#: Runs what it is given, up to the import of torch, when it prints how OpenMP's threads are told to wait.
UP_TO_TORCH = """
import importlib.abc, os, runpy, sys

class Probe(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("threads wait", os.environ.get("OMP_WAIT_POLICY"))
            raise SystemExit

sys.meta_path.insert(0, Probe())
kind, name, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = name
sys.path.insert(0, os.path.dirname(name))
{"file": runpy.run_path, "module": runpy.run_module}[kind](name, run_name="__main__")
"""


@pytest.mark.parametrize("own", [None, "ACTIVE"])
@pytest.mark.parametrize(
    "command",
    [
        ["file", "stages/train.py", "resnet18_strong"],
        ["module", "netpress", "doctor"],
        ["module", "netpress.core.artifacts"],
        ["file", "tests/conftest.py"],
        # bench.py loads torch in processes of its own; test_benchmarks says how they wait
        *(["file", f"benchmarks/{name}.py"] for name in ("int8", "kernels", "rounding")),
    ],
    ids=" ".join,
)
def test_threads_wait_without_spinning_unless_told_to(command, own):
    """OpenMP reads the variable when torch loads it."""
    env = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    env |= {"OMP_WAIT_POLICY": own} if own else {}
    command = [sys.executable, "-c", UP_TO_TORCH, *command]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"threads wait {own or 'PASSIVE'}"], done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_begins_with_what_it_does_and_an_example(name):
    first, empty, example, *_ = (COMMANDS[name].__doc__ or "").splitlines()
    assert first.endswith(".") and not empty and example.startswith(f"    python -m netpress {name}")
