"""docs/experiments.md, line by line, in a project of a few hundred pictures."""

import re
import shlex
import time
from pathlib import Path

import pytest
from little import committed, run

pytestmark = [pytest.mark.e2e, pytest.mark.exhaustive]
DOC = Path(__file__).parent.parent / "docs/experiments.md"
DEADLINE = 180  # seconds of the queue
SECTIONS = re.findall(r"^## (.*?)$.*?```sh\n(.*?)```", DOC.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def project(little_run, tmp_path_factory):
    return committed(little_run, tmp_path_factory.mktemp("experiments") / "project")


def test_the_page_has_a_block_for_each_thing_to_do():
    assert [title for title, _ in SECTIONS] == [
        "One change",
        "A grid, in a queue",
        "Compare",
        "Keep, or go back",
        "Look",
    ]


@pytest.mark.parametrize(("title", "block"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_every_line_runs(project, title, block):
    for line in block.replace("train/plain_cnn", "train/teacher").splitlines():
        done = run(project, *shlex.split(line))
        assert done.returncode == 0, f"{line}\n{done.stdout}"
        if line == "dvc queue start":
            wait_for_the_queue(project)
        if " exp show " in line:
            assert "half" in done.stdout and "0.5" in done.stdout


def wait_for_the_queue(project):
    end = time.monotonic() + DEADLINE
    while "Running" in (status := run(project, "dvc", "queue", "status").stdout) or "Queued" in status:
        assert time.monotonic() < end, status
        time.sleep(2)
    run(project, "dvc", "queue", "stop", "--kill")
    assert status.count("Success") == 2, status
