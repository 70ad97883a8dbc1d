"""Processes ahead of a stage: they make the last seeds, touch nothing else, and the stage ends with the same bytes."""

import threading

import pytest
from little import Server, copy_of, forget, results
from test_execute import wait_until
from test_locks import SLOW

from netpress.process.ahead import AHEAD

SEEDS = {"seeds": [0, 1, 2]}
STORE = ".netpress/runs/train/teacher"
BE_AHEAD = f"import os; os.environ[{AHEAD!r}] = '1'\n"


@pytest.fixture(scope="module")
def servers(server):
    second = Server()
    yield server, second
    second.close()


@pytest.fixture(scope="module")
def three(server, little_run, tmp_path_factory):
    """A project whose teacher has three seeds, by one process."""
    folder = copy_of(little_run, tmp_path_factory.mktemp("three") / "project", **SEEDS)
    server.finish(folder, "train", "teacher")
    return folder


@pytest.fixture
def project(three, tmp_path):
    """The same with the teacher still to be made."""
    folder = copy_of(three, tmp_path / "project")
    forget(folder, "train/teacher")
    return folder


def finished(project):
    return [seed for seed in SEEDS["seeds"] if (project / f"{STORE}/seed_{seed}/steps/seed.json").exists()]


def test_alone_it_makes_every_seed_the_last_first_and_nothing_else(servers, project, three):
    before = results(project)
    done = servers[0].run(project, "train", "teacher", patch=BE_AHEAD)
    assert done["code"] == 0, done["output"]
    assert finished(project) == SEEDS["seeds"]
    begun = [done["output"].index(f"train/teacher seed {seed}") for seed in SEEDS["seeds"]]
    assert begun == sorted(begun, reverse=True)
    assert results(project) == before
    assert servers[0].finish(project, "train", "teacher").count("finished before") == 3
    assert results(project) == results(three)


def test_beside_its_stage_each_seed_is_made_once(servers, project, three):
    first, second = servers
    answers = {}
    work = threading.Thread(target=lambda: answers.update(first.run(project, "train", "teacher", patch=SLOW)))
    work.start()
    wait_until(lambda: (project / f"{STORE}/seed_0/fingerprint.json").exists())
    ahead = second.run(project, "train", "teacher", patch=BE_AHEAD + SLOW)
    work.join()
    assert (answers["code"], ahead["code"]) == (0, 0), answers["output"] + ahead["output"]
    trained = [f"train/teacher seed {seed}  epoch 1/4" for seed in SEEDS["seeds"]]
    by_stage, by_other = ([line in told["output"] for line in trained] for told in (answers, ahead))
    assert by_stage[0] and by_other[2]
    assert [one + other for one, other in zip(by_stage, by_other, strict=True)] == [1, 1, 1]
    assert results(project) == results(three)


def test_the_stage_goes_on_where_one_was_killed(servers, project, three):
    killed = servers[0].run(project, "train", "teacher", patch=BE_AHEAD, kill_at="after fit_2.safetensors")
    assert killed["code"] < 0 and finished(project) == []
    told = servers[0].finish(project, "train", "teacher")
    assert "train/teacher seed 2: goes on after epoch" in told
    assert results(project) == results(three)


def test_its_mistakes_are_left_to_the_stage(servers, project):
    patch = (
        "import netpress.core.engine as e; from netpress.base.errors import TrainingError\n"
        "def _require_finite(*_): raise TrainingError('the loss became nan')\n"
        "e._require_finite = _require_finite\n"
    )
    ahead = servers[0].run(project, "train", "teacher", patch=BE_AHEAD + patch)
    stage = servers[0].run(project, "train", "teacher", patch=patch)
    assert ahead["code"] == stage["code"] == 1
    assert "error: the loss became nan" in stage["output"]
    assert finished(project) == []
