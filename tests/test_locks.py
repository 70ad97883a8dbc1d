"""Two at once: the second waits and names the first; outputs never mix; a child that outlives dvc keeps its lock."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from little import STAGES, Server, copy_of, environment, forget, make_project, results, run, start

SLOW = "import time, netpress.core.engine as e; f = e.evaluate; e.evaluate = lambda *a: (time.sleep(1.5), f(*a))[1]"
DESIGN = {"arch": "compact_cnn", "options": {"width": 0.5}, "recipe": "plain", "epochs": 40, "init": "none"}


@pytest.fixture(scope="module")
def servers(server):
    second = Server()
    yield server, second
    second.close()


def test_the_second_run_of_a_stage_waits_names_the_first_and_takes_what_it_made(servers, little_run, tmp_path):
    first, second = servers
    project = copy_of(little_run, tmp_path / "project")
    forget(project, "train/teacher")
    answers = {}
    work = threading.Thread(target=lambda: answers.update(first=first.run(project, "train", "teacher", patch=SLOW)))
    work.start()
    while not (project / ".netpress/runs/train/teacher/seed_0/steps/fit.json").exists():
        time.sleep(0.05)
    output = second.finish(project, "train", "teacher")
    work.join()
    assert answers["first"]["code"] == 0
    assert re.search(r"train teacher: process \d+ \(.*stages/train\.py teacher, since .*\) is at work on it", output)
    assert "finished before" in output
    assert results(project) == results(little_run)


def test_stages_of_other_variants_do_not_wait(servers, little_run, tmp_path):
    first, second = servers
    project = copy_of(little_run, tmp_path / "project")
    forget(project, "train/teacher")
    forget(project, "lowrank/depthwise")
    work = threading.Thread(target=first.run, args=(project, "train", "teacher"), kwargs={"patch": SLOW})
    work.start()
    while not (project / ".netpress/runs/train/teacher/seed_0/steps/fit.json").exists():
        time.sleep(0.05)
    assert "at work on it" not in second.finish(project, "lowrank", "depthwise")
    assert work.is_alive()
    work.join()
    assert results(project) == results(little_run)


def test_a_lock_goes_with_its_owner(tmp_path):
    """Also when the owner has no chance to clean up."""
    script = (
        "import os, signal, sys; from pathlib import Path; from netpress.process.lock import held\n"
        "with held(Path(sys.argv[1]), 'work'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "lock")]
    for _ in range(2):
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL
        assert "waiting" not in done.stderr


def wait_for(process, text):
    """Read what `process` prints until `text` is in it."""
    seen = ""
    while text not in seen:
        line = process.stdout.readline()
        assert line, seen
        seen += line
    return seen


@pytest.fixture(scope="module")
def long_training(server, little_run, tmp_path_factory):
    """A project whose teacher trains for some five seconds, and the results of an undisturbed run."""
    folder = copy_of(little_run, tmp_path_factory.mktemp("long") / "project", train={"teacher": DESIGN})
    whole = copy_of(folder, folder.with_name("whole"))
    for stage, args in STAGES[:3]:
        server.finish(whole, stage, *args)
    done = run(whole, "dvc", "commit", "-q", "-f", "check", "prepare", "train@teacher")
    assert done.returncode == 0, done.stdout
    return folder, results(whole), (whole / "dvc.lock").read_bytes()


@pytest.fixture
def project(long_training, tmp_path):
    return copy_of(long_training[0], tmp_path / "project")


def assert_quiet(project, long_training):
    """What is there is what an undisturbed run has made."""
    assert results(project) == long_training[1]
    assert (project / "dvc.lock").read_bytes() == long_training[2]


@pytest.mark.e2e
def test_dvc_is_killed_and_its_child_goes_on(project, long_training):
    dvc = start(project, "dvc", "repro", "train@teacher")
    wait_for(dvc, "epoch 3/")
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()
    again = run(project, "dvc", "repro", "train@teacher", timeout=300)
    assert again.returncode == 0, again.stdout
    assert re.search(
        r"train teacher: process \d+ \(stages/train\.py teacher, since .*\) is at work on it", again.stdout
    )
    assert "finished before" in again.stdout
    assert_quiet(project, long_training)


@pytest.mark.e2e
@pytest.mark.exhaustive  # test_mistakes sees the second refused
def test_of_two_dvc_repro_one_fails_and_the_other_is_undisturbed(project, long_training):
    first = start(project, "dvc", "repro", "train@teacher")
    wait_for(first, "epoch 3/")
    second = run(project, "dvc", "repro", "train@teacher", timeout=300)
    assert second.returncode != 0
    assert re.search(r"busy|Unable to acquire lock", second.stdout), second.stdout
    assert str(first.pid) in second.stdout
    first.communicate(timeout=300)
    assert first.returncode == 0
    assert_quiet(project, long_training)


@pytest.mark.exhaustive
@pytest.mark.e2e
def test_ctrl_c_under_dvc_then_dvc_repro_goes_on(project, long_training):
    first = start(project, "dvc", "repro", "train@teacher")
    wait_for(first, "epoch 20/")
    time.sleep(1)
    os.killpg(first.pid, signal.SIGINT)
    told = first.communicate(timeout=60)[0]
    assert first.returncode != 0
    assert told.count("stopped: run the same command") == 1
    assert "Traceback" not in told
    again = run(project, "dvc", "repro", "train@teacher", timeout=300)
    assert again.returncode == 0, again.stdout
    assert_quiet(project, long_training)


@pytest.mark.exhaustive
@pytest.mark.e2e
@pytest.mark.parametrize("seed", range(2))
def test_everything_is_killed_under_dvc_then_dvc_repro_goes_on(project, long_training, seed):
    first = start(project, "dvc", "repro", "train@teacher")
    wait_for(first, f"epoch {10 + 20 * seed}/")
    time.sleep(1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    again = run(project, "dvc", "repro", "train@teacher", timeout=300)
    assert again.returncode == 0, again.stdout
    assert_quiet(project, long_training)


@pytest.mark.exhaustive
@pytest.mark.e2e
def test_a_run_of_a_minute_goes_on_from_its_checkpoint(tmp_path):
    """Under DVC, with checkpoints as rare as they are meant to be."""
    folder = make_project(tmp_path / "project", train={"teacher": DESIGN | {"epochs": 500}})
    whole = copy_of(folder, tmp_path / "whole")
    done = run(whole, "dvc", "repro", "train@teacher", timeout=600)
    assert done.returncode == 0, done.stdout
    first = start(folder, "dvc", "repro", "train@teacher")
    wait_for(first, "epoch 450/")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    again = run(folder, "dvc", "repro", "train@teacher", timeout=600)
    assert again.returncode == 0, again.stdout
    assert re.search(r"train/teacher seed 0: goes on after epoch \d+ of 500", again.stdout)
    assert results(folder) == results(whole)
    assert (folder / "dvc.lock").read_bytes() == (whole / "dvc.lock").read_bytes()
