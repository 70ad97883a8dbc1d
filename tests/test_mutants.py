"""The runner of planted faults, on a project of one file and one test."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts/mutants.py"
ENTRY = '[{name}]\nfile = "x.py"\nold = "{old}"\nnew = "{new}"\ntests = ["test_x.py::{test}"]\n'


@pytest.fixture
def mutants(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("mutants", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutants", module)
    spec.loader.exec_module(module)
    root = tmp_path / "project"
    for name, text in {
        "src/netpress/x.py": "def double(x):\n    return 2 * x\n",
        "tests/test_x.py": "from netpress.x import double\n\n\ndef test_two():\n    assert double(2) == 4\n",
        "tests/mutants/a.toml": ENTRY.format(name="triple", old="2 * x", new="3 * x", test="test_two")
        + ENTRY.format(name="square", old="2 * x", new="x * x", test="test_two"),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "src/netpress/__init__.py").touch()
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "LISTS", root / "tests/mutants")
    monkeypatch.setattr(module, "LIBRARIES", ())
    monkeypatch.setattr(module, "copy_project", lambda folder: module.shutil.copytree(root, folder))
    return module


def called(mutants, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mutants.py", *arguments])
    return mutants.main()


def test_what_nothing_is_wrong_with_is_listed_and_what_is_not_there_is_refused(mutants, monkeypatch, capsys):
    assert called(mutants, monkeypatch, "--list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["triple", "square"]
    with pytest.raises(SystemExit):
        called(mutants, monkeypatch, "half")
    assert "no fault half" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def double(x):\n    return x + x\n", "stands 0 times in x.py, not once: '2 * x'"),
        ("a = 2 * x\nb = 2 * x\n", "stands 2 times in x.py, not once"),
        ("b = 2 * x\n", None),
    ],
)
def test_a_text_that_does_not_stand_exactly_once_is_named(mutants, monkeypatch, capsys, text, says):
    (mutants.ROOT / "src/netpress/x.py").write_text(text)
    if says is None:
        assert mutants.read_lists()["triple"].fault() is None
        return
    assert called(mutants, monkeypatch, "triple") == 1
    assert says in capsys.readouterr().out


def test_two_faults_of_one_name_are_refused(mutants):
    (mutants.LISTS / "b.toml").write_text(ENTRY.format(name="triple", old="2", new="3", test="test_two"))
    with pytest.raises(SystemExit, match=r"b.toml: two faults are called triple"):
        mutants.read_lists()


def run(mutants, *names):
    """Run the script in a process of its own, which has not this package; returns its exit code and output."""
    code = (
        "import shutil, sys; from pathlib import Path; import mutants as m; "
        f"m.ROOT = Path({str(mutants.ROOT)!r}); m.LISTS = m.ROOT / 'tests/mutants'; m.LIBRARIES = ('pytest',); "
        "m.copy_project = lambda folder: shutil.copytree(m.ROOT, folder); sys.exit(m.main())"
    )
    env = os.environ | {"PYTHONPATH": str(SCRIPT.parent)}
    done = subprocess.run([sys.executable, "-c", code, *names], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_fault_that_a_test_notices_and_one_that_none_does(mutants):
    code, output = run(mutants, "triple", "square", "-j", "2")
    assert code == 1
    assert "killed    triple by test_x.py::test_two" in output
    assert "SURVIVED  square (x.py), though test_x.py::test_two ran" in output
    assert "1 of 2 faults noticed\n  not noticed: square" in output
    assert run(mutants, "triple")[0] == 0


def test_tests_that_fail_without_a_fault_stop_it(mutants):
    (mutants.ROOT / "tests/test_x.py").write_text("def test_two():\n    assert False\n")
    code, output = run(mutants, "triple")
    assert code == 1
    assert "test_x.py::test_two fails without a fault; fix the tests or the code first" in output
    assert "killed" not in output
