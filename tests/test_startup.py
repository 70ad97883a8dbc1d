"""What the commands say of themselves, and what they do without: heavy packages that nothing asked for."""

import importlib.metadata
import platform
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
        assert f"\n    {name} " in said.out


def test_a_word_that_is_no_command_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["veryfy"])
    assert stop.value.code == 2
    assert "invalid choice: 'veryfy'" in capsys.readouterr().err


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
