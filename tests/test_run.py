"""`netpress run` on the real DVC: what it leaves is what `dvc repro` leaves, also after Ctrl-C and kill -9."""

import os
import re
import shutil
import signal

import psutil
import pytest
from little import copy_of, forget, results, run, start
from project import stages_run
from test_execute import gone, wait_until
from test_stop import MESSAGE

from netpress.process.lock import held
from netpress.report.page.build import PAGE

pytestmark = pytest.mark.e2e
RUN = ("python", "-m", "netpress", "run", "-j", "2")
#: Two jobs that do not wait for one another.
TWO = ("train@teacher", "lowrank@depthwise")


@pytest.fixture
def project(little_run, tmp_path):
    """A project in which all is to do, for DVC; but for two models, which are trained again, each stage is quick."""
    folder = copy_of(little_run, tmp_path / "project")
    (folder / "dvc.lock").unlink()
    shutil.rmtree(folder / ".dvc/cache")
    for model_id in ("train/teacher", "lowrank/depthwise"):
        forget(folder, model_id)
    return folder


def assert_equal(project, whole):
    assert results(project) == results(whole)
    assert (project / "dvc.lock").read_bytes() == (whole / "dvc.lock").read_bytes()


def family(process):
    return [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]


def trains(log):
    """Whether the stage has said where it trains, which it does before it begins."""
    return log.exists() and " on cpu" in log.read_text()


def stopped_in_training(project, stop):
    """Start the two jobs, stop them by `stop(process)` once both train, and return how that ended."""
    logs = [project / f".netpress/logs/{stage}.log" for stage in TWO]
    for log in logs:
        log.unlink(missing_ok=True)
    process = start(project, *RUN, *TWO)
    wait_until(lambda: process.poll() is not None or all(trains(log) for log in logs), 240)
    everyone = family(process)
    assert len(everyone) >= 5  # the run, two DVCs and two stages
    stop(process)
    told = process.communicate(timeout=60)[0]
    wait_until(lambda: all(gone(pid) for pid in everyone), 60)
    return process.returncode, told


def test_stopped_and_killed_a_run_goes_on_to_what_dvc_repro_leaves(project, little_run):
    code, told = stopped_in_training(project, lambda process: os.kill(process.pid, signal.SIGINT))
    assert (code, told.count(MESSAGE)) == (130, 1), told
    assert "Traceback" not in told
    code, _ = stopped_in_training(project, lambda process: process.kill())
    assert code == -signal.SIGKILL
    done = run(project, *RUN)
    assert done.returncode == 0, done.stdout
    assert "8 jobs to do, at most 2 at once" in done.stdout
    assert_equal(project, little_run)
    again = run(project, "dvc", "repro")
    assert again.returncode == 0 and stages_run(again.stdout) == set(), again.stdout
    (project / PAGE).unlink()  # nothing keeps it: it is written where it is missing
    assert run(project, *RUN).stdout == "everything is up to date\n"
    assert (project / PAGE).read_bytes() == (little_run / PAGE).read_bytes()
    assert_equal(project, little_run)


@pytest.mark.exhaustive
def test_undisturbed_a_run_leaves_what_dvc_repro_leaves(project, little_run):
    done = run(project, *RUN)
    assert done.returncode == 0, done.stdout
    assert "10 jobs to do, at most 2 at once" in done.stdout
    assert_equal(project, little_run)


def test_a_dry_run_says_what_would_run_and_changes_nothing(project, little_run):
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*") if ".dvc/tmp" not in str(path)}
    told = run(project, *RUN, "--dry-run", "distill@kd").stdout.splitlines()
    assert re.fullmatch(r"4 jobs to do, at most 2 at once, about \d+:\d\d:", told[0])
    rows = [re.split(r"\s{2,}", line.strip()) for line in told[1:]]
    assert [(row[0], *row[2:]) for row in rows] == [
        ("check",),
        ("prepare", "after check"),
        ("train@teacher", "after prepare"),
        ("distill@kd", "after train@teacher"),
    ]
    assert all(re.fullmatch(r"\d+:\d\d", row[1]) for row in rows)
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*") if ".dvc/tmp" not in str(path)} == before
    assert run(little_run, *RUN, "--dry-run").stdout == "everything is up to date\n"
    (project / "metrics/data.json").unlink()
    told = run(project, *RUN, "--dry-run", "distill@kd").stdout.splitlines()
    assert told[0].endswith(" (a guess: nothing has been trained on these data yet):")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_run_waits_for_the_first_and_heeds_signals(tmp_path, number):
    (tmp_path / "dvc.yaml").touch()
    with held(tmp_path / ".netpress/locks/run", "run"):
        process = start(tmp_path, *RUN)
        assert f"run: process {os.getpid()} (" in (line := process.stdout.readline()), line
        assert "is at work on it; waiting for it to end" in line
        process.send_signal(number)
        told = process.communicate(timeout=60)[0]
    assert (process.returncode, told) == (130, f"{MESSAGE}\n")


def test_a_stage_that_fails_is_named_with_its_own_words(project):
    (project / "data/own/train-labels-idx1-ubyte").write_bytes(b"not labels")
    done = run(project, *RUN, "train")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    failed = next(k for k, line in enumerate(lines) if line.startswith("prepare: FAILED"))
    assert lines[failed + 1].startswith("    error: ") and "train-labels-idx1-ubyte" in lines[failed + 1]
    assert lines[-1] == (
        "error: failed: prepare; not run, since they need it: train@teacher; what they printed is in .netpress/logs"
    )
    assert "failed to reproduce" not in done.stdout


def test_a_mistake_in_params_is_told_by_the_first_job(project):
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("teacher: train/teacher", "teacher: train/techer"))
    done = run(project, *RUN)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[2].startswith("check: FAILED")
    assert "no model 'train/techer', did you mean 'train/teacher'?" in lines[3]
    assert "error: failed: check; not run, since they need it: prepare, train@teacher" in lines[-1]


def test_a_name_that_means_nothing_is_refused(project):
    done = run(project, *RUN, "train/techer")
    assert done.returncode == 1
    assert done.stdout.startswith("error: 'train/techer' is no stage and no model of params.yaml, did you mean")


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_a_count_of_jobs_that_is_none_is_refused(tmp_path, number):
    done = run(tmp_path, "python", "-m", "netpress", "run", "-j", number)
    assert done.returncode == 2
    assert f"'{number}' is not a whole number of at least 1" in done.stdout
