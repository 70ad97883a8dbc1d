"""The clean clone: of what is committed, refused where results are not, and gone afterwards."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netpress.__main__ import main
from netpress.base.errors import NetpressError
from netpress.process.commands import environ
from netpress.verify.clone import clean_clone

ROOT = Path(__file__).parent.parent
GRAPH = """\
stages:
  prepare:
    cmd: python make.py a
    deps: [make.py]
    outs:
      - a.txt
  aggregate:
    cmd: python make.py b
    deps: [make.py, a.txt]
    metrics:
      - metrics/b.json:
          cache: false
"""
MAKE = """\
import pathlib, sys
name = sys.argv[1]
if name == "a":
    pathlib.Path("a.txt").write_text("1")
else:
    pathlib.Path("metrics/b.json").write_text('{"params": 1, "val_images": 100000, "val_acc": 0.5}')
"""


def git(root, *command):
    return subprocess.run(["git", *command], cwd=root, check=True, capture_output=True, text=True).stdout


def dvc(root, *command):
    subprocess.run(
        [sys.executable, "-m", "dvc", *command], cwd=root, env=environ(root), check=True, capture_output=True
    )


def commit(root):
    git(root, "add", "-A")
    git(root, "-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-q", "-m", "x")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project of two stages that take no time, run and committed."""
    root = tmp_path_factory.mktemp("tiny")
    (root / "metrics").mkdir()
    (root / "dvc.yaml").write_text(GRAPH)
    (root / "make.py").write_text(MAKE)
    shutil.copy(ROOT / "params.yaml", root)
    git(root, "init", "-q", "-b", "main")
    dvc(root, "init", "-q")
    (root / "metrics/.gitkeep").touch()
    dvc(root, "repro", "-q")
    commit(root)
    return root


@pytest.fixture
def project(made, tmp_path):
    root = tmp_path / "project"
    shutil.copytree(made, root, symlinks=True)
    return root


def run(root, monkeypatch, *arguments):
    monkeypatch.chdir(root)
    try:
        return main(["verify", *arguments])
    except SystemExit as end:
        return end.code


def test_the_clone_holds_the_commit_and_names_what_it_lacks(project, temporary):
    (project / "make.py").write_text("edited")
    (project / "new.txt").touch()
    with clean_clone(project, keep=False) as clone:
        assert (clone.folder / "make.py").read_text() == MAKE
        assert clone.commit == git(project, "rev-parse", "HEAD").strip()
        assert set(clone.left_out) == {"make.py", "new.txt"}
        assert not (clone.folder / "a.txt").exists()
    assert list(temporary.iterdir()) == []


def test_the_clone_is_removed_after_an_error_and_kept_on_demand(project, temporary, capsys):
    with pytest.raises(KeyboardInterrupt), clean_clone(project, keep=False):
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == []
    with clean_clone(project, keep=True) as clone:
        pass
    assert (clone.folder / "make.py").is_file()
    assert f"kept: {clone.folder}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dvc.lock", "metrics/b.json", "metrics/new.json", "plots/x.csv"])
def test_results_that_are_not_committed_are_refused(project, name):
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text("edited")
    with pytest.raises(NetpressError, match=rf"results are changed and not committed \({name}\).*commit them"):
        clean_clone(project, keep=False).__enter__()


def test_a_project_without_a_committed_lock_is_refused(project, monkeypatch, capsys, temporary):
    git(project, "rm", "-q", "dvc.lock")
    commit(project)
    assert run(project, monkeypatch) == 1
    assert "dvc.lock is not committed: run 'dvc repro' and commit" in capsys.readouterr().err
    assert list(temporary.iterdir()) == []


def test_without_git_the_files_are_copied_without_what_a_run_left(project, monkeypatch, capsys):
    shutil.rmtree(project / ".git")
    for name in ["models/train/x/f", "data/prepared/f", ".netpress/f", ".venv/f"]:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    with clean_clone(project, keep=False) as clone:
        names = {path.relative_to(clone.folder).as_posix() for path in clone.folder.rglob("*") if path.is_file()}
        assert {"make.py", "dvc.yaml", "dvc.lock", "metrics/b.json"} <= names
        assert not [n for n in names if n.startswith(("models/", "data/prepared", ".netpress", ".venv", ".dvc/cache"))]
        assert clone.commit == ""
    assert run(project, monkeypatch) == 0
    assert "a copy of the project (no Git here)" in capsys.readouterr().err


def test_weights_trained_elsewhere_are_linked(project):
    (project / "data/weights/none").mkdir(parents=True)
    (project / "data/weights/none/.gitkeep").touch()
    (project / ".gitignore").write_text("/data/weights/*\n!/data/weights/none/\n/a.txt\n")
    (project / "data/weights/w.safetensors").write_bytes(b"weights")
    commit(project)
    with clean_clone(project, keep=False) as clone:
        assert (clone.folder / "data/weights/w.safetensors").resolve() == project / "data/weights/w.safetensors"
        assert not (clone.folder / "data/weights/none").is_symlink()
    assert (project / "data/weights/w.safetensors").read_bytes() == b"weights"


def test_the_users_own_data_outside_git_are_linked(project):
    (project / "photos").mkdir()
    (project / ".gitignore").write_text("/photos\n/a.txt\n")
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("root: data/fashion-mnist", "root: photos"))
    commit(project)
    with clean_clone(project, keep=False) as clone:
        assert (clone.folder / "photos").resolve() == project / "photos"
    assert (project / "photos").is_dir()


def test_a_re_run_that_gives_the_same_is_bit_exact(project, monkeypatch, capsys):
    (project / "metrics/sub").mkdir()
    assert run(project / "metrics/sub", monkeypatch) == 0
    captured = capsys.readouterr()
    assert captured.out == "bit-exact: 2 outputs of 2 stages, 2 bit-exact\n"
    assert "1/2  prepare  bit-exact" in captured.err
    assert "ETA 0:00" in captured.err


def test_code_that_gives_other_bytes_is_named_as_the_first_divergence(project, monkeypatch, capsys):
    (project / "make.py").write_text(MAKE.replace('"1"', '"2"'))
    commit(project)
    assert run(project, monkeypatch) == 1
    out = capsys.readouterr().out
    assert "prepare: a.txt  drifted  other bytes" in out
    assert "first stage that diverged: prepare" in out
    assert "since the results were made: make.py changed" in out


RECORDING = """
import os
from pathlib import Path
from netpress.process import environment
environment.record(Path(), "data", "1", {"cpu": os.environ["CPU"], "torch": "2"})
"""


def test_what_differs_in_the_environment_is_named(project, monkeypatch, capsys):
    (project / "make.py").write_text(MAKE + RECORDING)
    monkeypatch.setenv("CPU", "A")
    dvc(project, "repro", "-q")
    commit(project)
    (project / "make.py").write_text(MAKE.replace('"1"', '"2"') + RECORDING)
    commit(project)
    monkeypatch.setenv("CPU", "B")
    assert run(project, monkeypatch) == 1
    assert "environment, when the results were made and now:\n  cpu: A -> B" in capsys.readouterr().out


def test_an_equivalent_metric_and_one_that_cannot_be_told_have_their_own_exit_codes(project, monkeypatch, capsys):
    (project / "make.py").write_text(MAKE.replace("0.5}", "0.505}"))
    commit(project)
    assert run(project, monkeypatch) == 3
    assert "metrics/b.json  equivalent  val_acc: 0.5000 became 0.5050" in capsys.readouterr().out
    assert run(project, monkeypatch, "--margin", "0.006") == 4
    assert "metrics/b.json  cannot tell  val_acc: 0.5000 became 0.5050" in capsys.readouterr().out
    assert run(project, monkeypatch, "--margin", "0.001") == 1
    assert "first stage that diverged: aggregate" in capsys.readouterr().out


def test_a_metric_edited_together_with_the_lock_is_found_by_the_re_run(project, monkeypatch, capsys):
    edited, path, lock = b'{"params": 1, "val_acc": 0.6}', project / "metrics/b.json", project / "dvc.lock"
    was, now = (hashlib.md5(data).hexdigest() for data in (path.read_bytes(), edited))
    path.write_bytes(edited)
    assert was in lock.read_text()
    lock.write_text(lock.read_text().replace(was, now))
    commit(project)
    assert run(project, monkeypatch) == 1
    assert "metrics/b.json  drifted  val_acc: 0.6000 became 0.5000" in capsys.readouterr().out


def test_a_stage_that_fails_is_drifted_with_its_last_line_and_ends_what_follows(project, monkeypatch, capsys):
    (project / "make.py").write_text('import sys\nprint("working")\nsys.exit("error: no more numbers")\n')
    commit(project)
    assert run(project, monkeypatch) == 1
    out = capsys.readouterr().out
    assert "prepare: error: no more numbers" in out
    assert "aggregate: was not run, since a stage before it failed" in out
    (project / "make.py").write_text("import os\nos._exit(3)\n")
    commit(project)
    assert run(project, monkeypatch) == 1
    assert "prepare: ERROR: failed to reproduce 'prepare'" in capsys.readouterr().out


def test_one_stage_runs_with_its_ancestors_alone(project, monkeypatch, capsys):
    assert run(project, monkeypatch, "--stage", "prepare") == 0
    assert "1 outputs of 1 stages" in capsys.readouterr().out
    assert run(project, monkeypatch, "--stage", "prepair") == 2
    assert "did you mean 'prepare'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--sample", "0"], ["--sample", "x"], ["--margin", "2"], ["--quick", "--stage", "a"], ["--nothing"]],
)
def test_wrong_usage_is_exit_code_2(project, monkeypatch, arguments):
    assert run(project, monkeypatch, *arguments) == 2


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_every_process_and_removes_the_clone(project, temporary, sign):
    (project / "make.py").write_text("import time\nprint('working', flush=True)\ntime.sleep(600)\n")
    commit(project)
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [sys.executable, "-m", "netpress", "verify"], cwd=project, env=env, stderr=subprocess.PIPE, text=True
    )
    folder = None
    for _ in range(600):
        log = next(temporary.glob("netpress-verify-*/log"), None)
        if log and "working" in log.read_text():
            folder = log.parent / "project"
            break
        time.sleep(0.1)
    assert still_running(folder)
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert list(temporary.glob("netpress-verify-*")) == []
    assert not still_running(folder)


def still_running(folder):
    import psutil

    here = []
    for process in psutil.process_iter():
        try:
            here += [process] if Path(process.cwd()).is_relative_to(folder) else []
        except psutil.Error:
            continue
    return here
