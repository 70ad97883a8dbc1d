"""A new user's eleven mistakes on the real DVC: the table of docs/reliability.md."""

import json
import os
import shutil
import signal

import pytest
from little import ROOT, copy_of, results, run, start
from ruamel.yaml import YAML
from source_samples import paint, settings

pytestmark = pytest.mark.e2e


@pytest.fixture
def project(little_run, tmp_path):
    """A finished project in a repository."""
    folder = copy_of(little_run, tmp_path / "project")
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    (folder / ".dvc/config.local").unlink()  # which says that there is no Git
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    for command in ([*git, "init", "-q"], [*git, "add", "-A"], [*git, "commit", "-qm", "a"]):
        done = run(folder, *command)
        assert done.returncode == 0, done.stdout
    return folder


def edit(project, key, value):
    """Set a dotted key of params.yaml."""
    path = project / "params.yaml"
    params = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    section = params
    for part in parents:
        section = section[part]
    section[last] = value
    with path.open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(params, stream)


MISTAKES = [
    ("distill.kd.epocs", 3, "distill.kd.epocs: unknown key, did you mean 'epochs'?"),
    (
        "distill.kd.teacher",
        "train/techer",
        "distill.kd.teacher: no model 'train/techer', did you mean 'train/teacher'?",
    ),
    ("data.root", "data/nowhere", "data.root = 'data/nowhere' does not exist; put the images there, or name"),
    ("prune.rate", 1.5, "prune.rate = 1.5: must be a number above 0 and below 1 (share of the remaining channels"),
    ("distill.kd.method_options.temperature", -1.0, "distill.kd.method_options.temperature = -1.0: must be a number"),
]


@pytest.mark.parametrize(("key", "value", "message"), MISTAKES, ids=[key for key, _, _ in MISTAKES])
def test_a_wrong_value_is_named_by_the_first_stage_with_its_place(project, key, value, message):
    before = results(project)
    edit(project, key, value)
    done = run(project, "dvc", "repro")
    assert done.returncode == 255
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: params.yaml, line ")
    assert message in errors[0]
    assert "Running stage 'check'" in done.stdout and done.stdout.count("Running stage") == 1
    assert "Traceback" not in done.stdout and "Errno" not in done.stdout
    assert results(project) == before


def test_a_class_of_one_image_is_named_before_anything_is_trained(project):
    for name in ("apple/0.png", "apple/1.png", "pear/0.png"):
        paint(project / "photos" / name, colour=(200, 10, 40 * int(name[-5])))
    edit(project, "data", settings("imagefolder", "photos").model_dump())
    done = run(project, "dvc", "repro")
    assert done.returncode == 255
    assert "error: too few pictures to split in photos/pear (1): a class needs 2 or more" in done.stdout
    assert "val (data.val_share)" in done.stdout
    assert "Running stage 'train@teacher'" not in done.stdout and "Traceback" not in done.stdout


def test_a_key_misspelt_on_the_command_line_is_named_by_dvc(project):
    done = run(project, "dvc", "exp", "run", "-S", "prune.rat=0.5")
    assert done.returncode == 255
    assert "Key 'rat' is not in struct" in done.stdout and "prune.rat" in done.stdout
    assert "Running stage" not in done.stdout


def test_an_unknown_profile_is_named_with_the_nearest(project):
    done = run(project, "python", "-m", "netpress", "use", "foood11")
    assert done.returncode == 1
    assert done.stdout.startswith("error: no profile 'foood11', did you mean 'food11'?; known: default, ")


def test_a_deleted_model_comes_back_without_training(project):
    before = results(project)
    shutil.rmtree(project / "models/train/teacher")
    done = run(project, "dvc", "repro")
    assert done.returncode == 0, done.stdout
    assert "Stage 'train@teacher' is cached - skipping run, checking out outputs" in done.stdout
    assert "epoch 1/" not in done.stdout
    assert results(project) == before


def test_an_edited_metrics_file_is_made_again_without_training(project):
    before = results(project)
    path = project / "metrics/train/teacher.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"val_acc": 1.5}), encoding="utf-8")
    done = run(project, "dvc", "repro")
    assert done.returncode == 0, done.stdout
    assert "epoch 1/" not in done.stdout
    assert results(project) == before


def test_of_two_runs_at_once_the_second_is_refused_with_the_process_of_the_first(project):
    """`test_locks.py` shows that the first is undisturbed."""
    edit(project, "train.teacher.epochs", 200)
    first = start(project, "dvc", "repro")
    try:
        while "epoch 1/" not in (line := first.stdout.readline()):
            assert line, "it ended before it trained"
        second = run(project, "dvc", "repro")
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    assert second.returncode == 255
    assert "busy" in second.stdout or "Unable to acquire lock" in second.stdout
    assert str(first.pid) in second.stdout
