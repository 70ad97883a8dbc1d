"""Experiments that run in a copy of the project, with pictures that Git does not know."""

import shutil
import time

import pytest
from little import make_project, run
from ruamel.yaml import YAML
from source_samples import paint, settings

pytestmark = pytest.mark.e2e
DEADLINE = 120  # seconds


def git(project, *command):
    done = run(project, "git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", *command)
    assert done.returncode == 0, done.stdout
    return done.stdout


def commit(project):
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "a project")


@pytest.fixture
def project(tmp_path):
    """A little project in a repository, with pictures in data/pictures."""
    folder = make_project(tmp_path / "project", data=settings("imagefolder", "data/pictures").model_dump())
    (folder / ".dvc/config.local").unlink()  # which says that there is no Git
    for label, red in (("apple", 10), ("pear", 200)):
        for number in range(6):
            paint(folder / "data/pictures" / label / f"{number}.png", colour=(red, number * 40, 9))
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.name", "test")
    git(folder, "config", "user.email", "test@example.invalid")
    commit(folder)
    return folder


def in_a_copy(project, *changes):
    options = [part for change in changes for part in ("-S", change)]
    return run(project, "dvc", "exp", "run", "--temp", "--name", "tried", *options, "prepare")


def test_git_ignores_the_pictures_and_a_copy_without_them_says_what_to_do(project):
    assert "pictures" not in git(project, "ls-files")
    done = in_a_copy(project, "data.split_seed=1")
    assert done.returncode != 0
    assert "data.root = 'data/pictures' does not exist" in done.stdout
    assert "runs in a copy of the project: run 'dvc add data/pictures', or name an absolute path" in done.stdout


def test_a_copy_finds_pictures_at_an_absolute_path(project, tmp_path):
    shutil.move(project / "data/pictures", tmp_path / "photos")
    done = in_a_copy(project, f"data.root={tmp_path / 'photos'}")
    assert done.returncode == 0, done.stdout
    assert "train_images 10, val_images 2" in done.stdout


@pytest.mark.exhaustive  # DVC's queue takes half a minute to do what --temp does in five seconds
def test_a_queued_experiment_finds_pictures_that_dvc_knows(project):
    done = run(project, "dvc", "add", "-q", "data/pictures")
    assert done.returncode == 0, done.stdout
    commit(project)
    queued = run(project, "dvc", "exp", "run", "--queue", "--name", "waiting", "-S", "data.split_seed=1", "prepare")
    assert queued.returncode == 0, queued.stdout
    assert run(project, "dvc", "queue", "start").returncode == 0
    end = time.monotonic() + DEADLINE
    while "Success" not in (status := run(project, "dvc", "queue", "status").stdout) and time.monotonic() < end:
        assert "Failed" not in status, run(project, "dvc", "queue", "logs", "waiting").stdout
        time.sleep(1)
    assert "Success" in status
    run(project, "dvc", "queue", "stop", "--kill")
    shown = git(
        project,
        "show",
        "refs/exps/"
        + git(project, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/exps/*/*/waiting").strip()
        + ":params.yaml",
    )
    assert YAML(typ="safe").load(shown)["data"]["split_seed"] == 1
