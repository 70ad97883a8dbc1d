"""`make repro` ends by saying which files of the commit it has changed, and is like `netpress run` in all else."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netpress.base import files
from netpress.process import environment
from netpress.verify import repro

ROOT = Path(__file__).parent.parent
HERE, THERE = {"cpu": "Zen 3", "cpu_capability": "AVX2"}, {"cpu": "Zen 4", "cpu_capability": "AVX512"}


def git(root, *command):
    settings = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    return subprocess.run(["git", *settings, *command], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def committed(tmp_path):
    """A project whose committed results were made elsewhere."""
    root = tmp_path / "project"
    for name in ("dvc.yaml", "params.yaml", "dvc.lock", "metrics/train/net.json", "metrics/summary.md", "plots/a.csv"):
        files.write_text(root / name, f"{name}\n")
    environment.record(root, "train/net", "1" * 64, THERE)
    files.write_text(root / ".gitignore", ".netpress\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "x")
    return root


def run(root, where=HERE):
    """What a run leaves behind: other results, and a record of where it was made."""
    for name in ("dvc.lock", "metrics/train/net.json", "metrics/summary.md"):
        files.write_text(root / name, "of the run\n")
    environment.record(root, "train/net", "2" * 64, where)


def test_another_environment_is_named_and_the_way_back(committed):
    run(committed)
    assert repro.changes(committed, {}) == [
        "of what Git tracks, 4 files differ from the commit now: dvc.lock, 3 in metrics",
        "expected: the committed results were made in another environment "
        "(cpu: Zen 4 -> Zen 3, cpu_capability: AVX512 -> AVX2)",
        "where processor, libraries or threads differ, sums round otherwise; docs/params.md has by how much",
        "to keep them, commit dvc.lock metrics together; to go back: git restore dvc.lock metrics",
    ]
    git(committed, "restore", "dvc.lock", "metrics")
    assert repro.changes(committed, {}) == []


def test_nothing_is_said_of_what_was_changed_before_the_run(committed):
    files.write_text(committed / "metrics/summary.md", "edited\n")
    before = repro.changed_files(committed)
    assert repro.changes(committed, before) == []
    files.write_text(committed / "plots/a.csv", "of the run\n")
    assert repro.changes(committed, before)[0].endswith(", 1 file differs from the commit now: 1 in plots")


def test_edited_inputs_explain_changes(committed):
    files.write_text(committed / "params.yaml", "edited\n")
    before = repro.changed_files(committed)
    run(committed, THERE)
    lines = repro.changes(committed, before)
    assert lines[1] == "they follow from what you changed: params.yaml"
    assert not any("expected" in line or "verify" in line for line in lines)


def test_changes_that_nothing_explains_are_said_to_be_so(committed):
    run(committed, THERE)
    assert "neither inputs nor environment differ" in repro.changes(committed, {})[1]


def test_a_deleted_file_counts(committed):
    (committed / "plots/a.csv").unlink()
    assert repro.changed_files(committed) == {"plots/a.csv": ""}
    assert "1 in plots" in repro.changes(committed, {})[0]


def test_a_commit_without_records_names_no_environment(committed):
    git(committed, "rm", "-q", "--cached", "metrics/environments.json")
    git(committed, "commit", "-q", "-m", "y")
    run(committed)
    assert "neither inputs nor environment differ" in repro.changes(committed, {})[1]


def test_without_git_or_a_commit_nothing_is_said(tmp_path):
    files.write_text(tmp_path / "dvc.lock", "x\n")
    assert repro.changed_files(tmp_path) == {} and repro.changes(tmp_path, {}) == []
    git(tmp_path, "init", "-q")
    assert repro.changed_files(tmp_path) == {} and repro.changes(tmp_path, {}) == []


#: `make repro` with a shell script in the place of `netpress run`.
SCRIPT = """
import sys
from netpress.verify import repro

assert repro.COMMAND[1:] == ("-m", "netpress", "run")
repro.COMMAND = ("sh", "-c", sys.argv[1], "run")
sys.exit(repro.main(["-j", "3"]))
"""


def start(root, script):
    """Start the runner with `script` as what it runs."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, script],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_arguments_and_exit_code_are_those_of_the_run(committed):
    process = start(committed, 'echo "$@"; echo x >dvc.lock; exit 7')
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (7, "-j 3\n", "")


def test_a_run_ends_with_what_it_changed(committed):
    process = start(committed, "echo x >dvc.lock")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.splitlines()[0] == "repro: of what Git tracks, 1 file differs from the commit now: dvc.lock"


def test_git_that_fails_does_not_stop_the_run(committed):
    shutil.rmtree(committed / ".git")
    files.write_text(committed / ".git", "gitdir: /nowhere\n")
    process = start(committed, "echo ran; exit 3")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, "ran\n")
    assert err.startswith("repro: what the run changes of the commit will not be told: 'git rev-list")


@pytest.mark.parametrize(
    ("number", "everyone"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, False)]
)
def test_signals_reach_the_run_and_its_answer_is_passed_on(committed, number, everyone):
    """A terminal sends Ctrl-C to the whole group; others send to the process that they started."""
    process = start(committed, "trap 'echo stopped; exit 9' INT TERM HUP; touch begun; while :; do sleep 0.1; done")
    deadline = time.monotonic() + 60
    while not (committed / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    if everyone:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (9, "stopped\n", "")


def test_a_run_killed_by_a_signal_gives_the_shells_code(committed):
    process = start(committed, "kill -KILL $$")
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
