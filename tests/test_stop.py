"""Ctrl-C ends a stage within two seconds, whatever it is at, with one line that says how to go on."""

import os
import signal
import time

import pytest
from little import make_project, results, run, start

from netpress.process.warm import WARM

#: One step of this takes many seconds on two cores, most of them in one call that Python cannot interrupt.
HEAVY = {"arch": "resnet18", "options": {"stem": "small"}, "recipe": "plain", "epochs": 4, "init": "none"}
MESSAGE = "stopped: run the same command (or 'dvc repro') again to go on from where it was"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("stop") / "project", train={"teacher": HEAVY})
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("batch_size: 128", "batch_size: 65536"))
    done = run(folder, "python", "stages/prepare.py")
    assert done.returncode == 0, done.stdout
    return folder


@pytest.mark.parametrize(
    ("after", "number"), [(0.6, signal.SIGTERM), (0.6, signal.SIGINT), (1.5, signal.SIGINT), (6.0, signal.SIGTERM)]
)
def test_the_end_comes_at_once_with_one_line(project, after, number):
    before = results(project)
    stage = start(project, "python", "stages/train.py", "teacher")
    time.sleep(after)  # while modules are imported, and while a step runs
    assert stage.poll() is None
    began = time.monotonic()
    os.kill(stage.pid, number)
    told = stage.communicate(timeout=60)[0]
    assert time.monotonic() - began < 2
    assert stage.returncode == 128 + number
    begun = ("on cpu", "warning: 4 steps")  # what the stage says before it trains
    assert [line for line in told.splitlines() if line and not any(text in line for text in begun)] == [MESSAGE]
    assert results(project) == before


def test_it_ends_also_when_nobody_reads_what_it_says(project):
    """As in `... 2>&1 | tee log`, where Ctrl-C ends tee first; the stage itself, which hears of it at once."""
    stage = start(project, "env", "-u", WARM, "python", "stages/train.py", "teacher")
    assert "on cpu" in stage.stdout.readline()
    assert "warning: 4 steps" in stage.stdout.readline()  # the next comes after a step, in many seconds
    stage.stdout.close()
    os.kill(stage.pid, signal.SIGINT)
    assert stage.wait(timeout=30) == 128 + signal.SIGINT


def test_help_answers_without_loading_torch(project):
    done = run(project, "python", "-X", "importtime", "stages/train.py", "--help")
    assert done.returncode == 0
    assert "a key of the section train" in done.stdout
    assert " torch" not in done.stdout
