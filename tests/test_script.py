"""Stage scripts: help, exit codes, and errors in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from netpress.base.errors import ConfigError
from netpress.base.project import find_root
from netpress.process.script import guarded

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.name for path in (ROOT / "stages").glob("*.py"))


def raising(error):
    def action():
        raise error

    return action


def test_exit_codes_and_messages(capsys):
    assert guarded(lambda: None) == 0
    assert guarded(raising(ConfigError("train.x.epocs: unknown key"))) == 1
    assert capsys.readouterr().err == "error: train.x.epocs: unknown key\n"
    assert guarded(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.startswith("stopped: ")


def test_a_full_disk_and_a_full_gpu_are_no_bugs(capsys):
    assert guarded(raising(OSError(28, "No space left on device", "x.npy"))) == 1
    assert "No space left on device: 'x.npy'; fix it" in capsys.readouterr().err
    for lack in (
        torch.OutOfMemoryError(),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ):
        assert guarded(raising(lack)) == 1
        assert "error: out of memory; lower batch_size" in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        guarded(raising(RuntimeError("a bug")))


def test_other_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        guarded(raising(ZeroDivisionError()))


def test_the_root_is_found_from_below(tmp_path):
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert find_root(tmp_path / "a" / "b") == tmp_path
    with pytest.raises(Exception, match=r"no dvc\.yaml in"):
        find_root(Path("/"))


def stage(name, *arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, str(ROOT / "stages" / name), *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_stage_has_help(name):
    done = stage(name, "--help")
    assert done.returncode == 0
    assert "Writes" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_stage_outside_a_project_says_so(tmp_path):
    done = stage("train.py", "x", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no dvc.yaml in")


def test_the_test_split_is_opened_for_models_of_final_alone():
    for name in ("distill/kd_strnog", "train/large_cnn"):
        done = stage("test.py", name)
        assert done.returncode == 1
        assert f"final: no model '{name}'" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_stage_of_an_unknown_variant_says_so_from_any_folder():
    done = stage("train.py", "resnet18_strnog", cwd=ROOT / "docs")
    assert done.returncode == 1
    assert "train: no variant 'resnet18_strnog', did you mean 'resnet18_strong'" in done.stderr
    assert "Traceback" not in done.stderr
