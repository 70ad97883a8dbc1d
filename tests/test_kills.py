"""kill -9 at any moment: run again, and every byte is that of a run that was not killed."""

import os
import random
import shutil
import signal
import subprocess

import pytest
from little import copy_of, forget, make_project, results, run, start

SIGKILL = -signal.SIGKILL
#: Stages that train, with their model ids.
TRAINING = {
    "train": ("teacher", "train/teacher"),
    "distill": ("kd", "distill/kd"),
    "factorize": ("tucker", "factorize/tucker"),
    "prune": ("main", "prune/main"),
    "quantize": ("int8", "quantize/int8"),
}


@pytest.fixture(scope="module")
def whole(little_run):
    """A project that was run from beginning to end, and its results."""
    return little_run, results(little_run)


@pytest.fixture
def project(whole, tmp_path):
    """A copy of the whole project, at another path."""
    return copy_of(whole[0], tmp_path / "project")


@pytest.mark.parametrize("moment", ["moving old", "moving teacher", "half teacher.json", "half environments.json"])
def test_killed_while_a_new_model_takes_the_place_of_an_old_one(server, whole, project, moment):
    shutil.rmtree(project / ".netpress/runs")
    (project / "models/train/teacher/seed_0/model.safetensors").write_bytes(b"old")
    killed = server.run(project, "train", "teacher", kill_at=moment)
    assert killed["moments"][-1] == moment
    server.finish(project, "train", "teacher")
    assert results(project) == whole[1]


def kill_and_finish(server, project, stage, **when):
    """Kill the stage once, run it again, and return what both runs printed."""
    variant, model_id = TRAINING[stage]
    forget(project, model_id)
    killed = server.run(project, stage, variant, **when)
    assert killed["code"] in (SIGKILL, 0), killed["output"]  # 0: it had ended before
    return killed, server.finish(project, stage, variant)


@pytest.mark.parametrize(
    ("stage", "moment", "goes_on"),
    [
        ("train", "half fit_2.safetensors", "goes on after epoch 1 of 4"),  # while a checkpoint is written
        pytest.param(
            "train", "after fit_2.safetensors", "goes on after epoch 1 of 4", marks=pytest.mark.exhaustive
        ),  # tensors there, record not
        pytest.param("train", "renaming fit.json", None, marks=pytest.mark.exhaustive),
        ("train", "before model.safetensors", "goes on after epoch 4 of 4"),  # after the last epoch
        pytest.param("train", "after spec.json", "goes on after epoch 4 of 4", marks=pytest.mark.exhaustive),
        ("train", "after seed.json", "finished before"),  # the seed is done, the variant not
        ("train", "moving teacher", "finished before"),  # while the models are put in place
        pytest.param("train", "half teacher.json", "finished before", marks=pytest.mark.exhaustive),
        ("distill", "after fit.json", "goes on after epoch 1 of 4"),
        pytest.param("factorize", "after fit.json", "goes on after epoch 1 of 3", marks=pytest.mark.exhaustive),
        ("prune", "after round_1.json", "round 2/"),  # between two rounds
        pytest.param("prune", "half round_1.json", "round 1/", marks=pytest.mark.exhaustive),
        pytest.param("prune", "after round_2_fit.json", "goes on after epoch 1 of", marks=pytest.mark.exhaustive),
        ("quantize", "half model.onnx", None),
    ],
)
def test_killed_at_a_nasty_moment(server, whole, project, stage, moment, goes_on):
    killed, output = kill_and_finish(server, project, stage, kill_at=moment)
    assert killed["moments"][-1] == moment
    assert goes_on is None or goes_on in output
    assert results(project) == whole[1]


@pytest.mark.parametrize(
    "moment",
    [
        "half summary.md",
        *(pytest.param(m, marks=pytest.mark.exhaustive) for m in ("after summary.csv", "renaming pruning_curves.png")),
    ],
)
def test_killed_in_aggregate(server, whole, project, moment):
    shutil.rmtree(project / "plots")
    assert server.run(project, "aggregate", kill_at=moment)["code"] == SIGKILL
    server.finish(project, "aggregate")
    assert results(project) == whole[1]


def test_killed_in_prepare(server, whole, project):
    moments = server.run(project, "prepare")["moments"]
    for number in range(1, len(moments) + 1, 3):
        assert server.run(project, "prepare", kill_at=number)["code"] == SIGKILL
    server.finish(project, "prepare")
    assert results(project) == whole[1]


def test_killed_again_and_again(server, whole, project):
    """Each run dies after one more epoch; the last one has nothing left to train."""
    forget(project, "train/teacher")
    for epoch in (1, 2, 3):
        assert server.run(project, "train", "teacher", kill_at=f"after fit_{epoch}.safetensors")["code"] == SIGKILL
        assert server.run(project, "train", "teacher", kill_at="after fit.json")["code"] == SIGKILL
    assert "goes on after epoch 3 of 4" in server.finish(project, "train", "teacher")
    assert results(project) == whole[1]


def random_kills(server, whole, project, seed):
    rng = random.Random(seed)
    stage = rng.choice(sorted(TRAINING))
    forget(project, TRAINING[stage][1])
    seconds = server.run(project, stage, TRAINING[stage][0])["seconds"]
    killed, _ = kill_and_finish(server, project, stage, kill_after=rng.uniform(0.05, seconds))
    assert results(project) == whole[1], f"{stage}, killed after {killed['seconds']} s: {killed['moments'][-3:]}"
    return killed["code"] == SIGKILL


@pytest.mark.parametrize("seed", range(1))
def test_killed_at_a_random_moment(server, whole, project, seed):
    random_kills(server, whole, project, seed)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(100, 120))
def test_killed_at_twenty_random_moments(server, whole, project, seed):
    """Fails also when the kill comes too late to hit, so that twenty of twenty were real."""
    for attempt in range(5):
        if random_kills(server, whole, project, seed + 1000 * attempt):
            return
    pytest.fail("no kill hit the running stage")


@pytest.mark.exhaustive
@pytest.mark.e2e
@pytest.mark.timeout(3600)
def test_twenty_kills_of_dvc_repro(tmp_path):
    """dvc and its child are killed twenty times on the way through the graph; the lock is that of a quiet run."""
    quiet = make_project(tmp_path / "quiet")
    done = run(quiet, "dvc", "repro")
    assert done.returncode == 0, done.stdout
    project, rng, kills = make_project(tmp_path / "project"), random.Random(0), 0
    while kills < 20:
        dvc = start(project, "dvc", "repro")
        try:
            output = dvc.communicate(timeout=rng.uniform(2.0, 16.0))[0]
        except subprocess.TimeoutExpired:
            os.killpg(dvc.pid, signal.SIGKILL)
            dvc.communicate()
            kills += 1
        else:
            assert dvc.returncode == 0, output
            assert (project / "dvc.lock").read_bytes() == (quiet / "dvc.lock").read_bytes()
            (project / "dvc.lock").unlink()  # too fast: through the graph once more
            shutil.rmtree(project / ".netpress")
            shutil.rmtree(project / ".dvc/cache")
    done = run(project, "dvc", "repro")
    assert done.returncode == 0, done.stdout
    assert (project / "dvc.lock").read_bytes() == (quiet / "dvc.lock").read_bytes()
    assert results(project) == results(quiet)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", ["train", "prune"])
def test_killed_at_every_third_moment_of_every_write(server, whole, project, stage):
    variant, model_id = TRAINING[stage]
    forget(project, model_id)
    moments = server.run(project, stage, variant)["moments"]
    assert len(moments) > 60
    for number in range(1, len(moments) + 1, 3):
        killed, _ = kill_and_finish(server, project, stage, kill_at=number)
        assert results(project) == whole[1], killed["moments"][-1]
