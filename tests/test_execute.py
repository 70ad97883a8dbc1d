"""Jobs side by side, with shell scripts in the place of DVC: order, failures, kills, dvc.lock and what is shown."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from types import SimpleNamespace

import psutil
import pytest
import yaml
from little import ROOT, environment
from rich.console import Console

from netpress.base import files
from netpress.base.project import MODEL_STAGES
from netpress.execute import lock_file, processes
from netpress.execute.board import Board, last_line
from netpress.execute.eta import Eta
from netpress.execute.local import End, Outcome, execute, fault, script_of
from netpress.execute.lock_file import BEFORE, HEAD, LockFile
from netpress.execute.processes import log_of
from netpress.graph.jobs import Job
from netpress.process.ahead import AHEAD

#: Seconds until a test gives up.
LONG = 30


def entry(stage, md5="1", cmd="true"):
    """What DVC writes of a stage; the command too tells entries apart, but is no output."""
    return f"  {stage}:\n    cmd: {cmd}\n    outs:\n    - path: {stage}\n      md5: '{md5}'\n"


def done(stage, md5="1"):
    """A script that does what a job does: it ends, and its entry is in dvc.lock."""
    return f"cat >>dvc.lock <<'END'\n{entry(stage, md5)}END"


def graph(**needs):
    return {stage: Job(stage, frozenset(found.split())) for stage, found in needs.items()}


def run(root, jobs, scripts, changed=None, slots=1, order=None, ahead="exit 3", started=lambda *_: None):
    """Execute `jobs`, each with its script, or one that does well; `order` is of the whole graph.

    `ahead` is the script of processes ahead of a stage.
    """
    if not (root / "dvc.lock").exists():
        (root / "dvc.lock").write_text(HEAD)

    def command(stage):
        return ["sh", "-c", scripts.get(stage, done(stage))]

    changed, lock = jobs if changed is None else changed, LockFile(root, order or jobs)
    return execute(
        jobs, changed, root, lock, slots, lambda stage: 1.0, started, command, lambda stage: ["sh", "-c", ahead, stage]
    )


def ends(outcomes):
    return {outcome.stage: outcome.end for outcome in outcomes}


def stages(root):
    return [line.strip(" :\n") for line in (root / "dvc.lock").open() if line[:2] == "  " and line[2] != " "]


def wait_until(condition, seconds=LONG):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # nobody may be there to ask how it ended
    except psutil.NoSuchProcess:
        return True


def pid_in(path):
    wait_until(lambda: path.exists() and path.read_text().strip())
    return int(path.read_text())


def test_what_a_job_needs_has_ended_before_it_begins(tmp_path):
    jobs = graph(a="", b="a", c="a", d="b c")
    scripts = {stage: f"test {' -a '.join(f'-e {n}' for n in jobs[stage].needs) or 1} || exit 1\n" for stage in jobs}
    scripts = {stage: f"{text}sleep 0.1; touch {stage}\n{done(stage)}" for stage, text in scripts.items()}
    assert ends(run(tmp_path, jobs, scripts, slots=3)) == dict.fromkeys(jobs, End.DONE)


def test_two_at_once_where_there_are_two_slots(tmp_path):
    """Each waits for the other to begin."""
    jobs = graph(a="", b="")
    scripts = {one: f"touch {one}; until [ -e {two} ]; do sleep 0.02; done" for one, two in ("ab", "ba")}
    assert ends(run(tmp_path, jobs, scripts, slots=2)) == dict.fromkeys(jobs, End.DONE)


def test_never_more_than_there_are_slots(tmp_path):
    jobs = graph(a="", b="", c="")
    scripts = dict.fromkeys(jobs, "mkdir taken || exit 1; sleep 0.1; rmdir taken")
    assert ends(run(tmp_path, jobs, scripts, slots=1)) == dict.fromkeys(jobs, End.DONE)


def test_a_failure_stops_what_needs_it_and_nothing_else(tmp_path):
    jobs = graph(a="", b="a", c="b", d="c", e="a", f="e")
    outcomes = list(run(tmp_path, jobs, {"b": "echo error: b is ill; exit 7"}))
    assert ends(outcomes) == {
        **dict.fromkeys("aef", End.DONE),
        "b": End.FAILED,
        **dict.fromkeys("cd", End.NOT_RUN),
    }
    assert log_of(tmp_path, "b").read_text() == "error: b is ill\n"
    assert stages(tmp_path) == ["a", "e", "f"]


def test_what_follows_from_outputs_that_came_out_as_they_were_is_not_run(tmp_path):
    """a is made anew with the same output, b with another; c needs a, d needs b, e needs c and has changed itself."""
    old = HEAD + entry("a", cmd="old") + entry("b") + entry("c") + entry("d") + entry("e")
    (tmp_path / "dvc.lock").write_text(old)
    new = {"a": old.replace("cmd: old", "cmd: new"), "b": old.replace(entry("b"), entry("b", "2"))}
    scripts = {stage: f"cat >dvc.lock <<'END'\n{text}END" for stage, text in new.items()}
    jobs = graph(a="", b="", c="a", d="b", e="c")
    found = ends(run(tmp_path, jobs, scripts, changed=["a", "b", "e"]))
    assert found == dict.fromkeys("abde", End.DONE) | {"c": End.UP_TO_DATE}


def test_a_killed_job_has_failed_and_its_stage_ends_too(tmp_path):
    jobs = graph(a="", b="a", c="")
    script = "sleep 1000 & echo $! >pid.new; mv pid.new pid; echo $$ >leader; wait"

    def kill():
        pid_in(tmp_path / "leader")
        os.kill(pid_in(tmp_path / "leader"), signal.SIGKILL)

    threading.Thread(target=kill).start()
    assert ends(run(tmp_path, jobs, {"a": script})) == {"a": End.FAILED, "b": End.NOT_RUN, "c": End.DONE}
    wait_until(lambda: gone(pid_in(tmp_path / "pid")))


@pytest.mark.parametrize("trap", ["", "trap '' INT; "])
def test_who_leaves_leaves_nothing_running(tmp_path, trap):
    """Also where a job does not heed Ctrl-C."""
    script = f"{trap}echo $$ >pid.new; mv pid.new pid; sleep 1000; sleep 1000"
    jobs = graph(a="", b="", c="")
    with closing(run(tmp_path, jobs, {"b": script}, slots=2)) as outcomes:
        assert {next(outcomes).stage, next(outcomes).stage} == {"a", "c"}
        pid = pid_in(tmp_path / "pid")
        group = [pid, *(child.pid for child in psutil.Process(pid).children())]
        assert not any(gone(each) for each in group)
    wait_until(lambda: all(gone(each) for each in group))


#: Runs one job and says its process: a stage on its leash.
ALONE = """
import sys
from pathlib import Path
from netpress.execute.local import execute
from netpress.execute.lock_file import LockFile
from netpress.graph.jobs import Job

STAGE = '''
import os, time
from pathlib import Path
from netpress.process.stop import end_at_once

end_at_once()
Path("pid").write_text(str(os.getpid()))
time.sleep(1000)
'''
root = Path(sys.argv[1])
list(execute({"a": Job("a", frozenset())}, ["a"], root, LockFile(root, "a"), 1, lambda stage: 1.0, print,
             lambda stage: [sys.executable, "-c", STAGE]))
"""


def test_a_stage_ends_when_the_run_is_killed(tmp_path):
    (tmp_path / "src").symlink_to(files.__file__.partition("/netpress/base")[0])
    with subprocess.Popen([sys.executable, "-c", ALONE, str(tmp_path)], env=environment()) as process:
        pid = pid_in(tmp_path / "pid")
        assert not gone(pid)
        process.kill()
    wait_until(lambda: gone(pid))
    assert "stopped: run the same command" in log_of(tmp_path, "a").read_text()


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(processes, "AHEAD_AFTER", 0.0)


def test_free_slots_make_further_seeds_of_what_runs(tmp_path, at_once):
    """The stage waits for two processes ahead of it, which alone are told what they are."""
    begun = []
    ahead = f'test "$0" = a && test ${AHEAD} = 1 && mkdir one || mkdir two; sleep 1000'
    script = f'test -z "${AHEAD}" && until [ -e one -a -e two ]; do sleep 0.02; done\n{done("a")}'
    jobs = {"a": Job("a", frozenset(), seeds=4)}
    outcomes = run(tmp_path, jobs, {"a": script}, slots=3, ahead=ahead, started=lambda *job: begun.append(job))
    (outcome,) = outcomes
    assert outcome.end is End.DONE
    assert begun == [("a", 1), ("a", 2), ("a", 3)]
    assert outcome.worked > outcome.seconds


def test_a_job_has_no_more_processes_than_seeds(tmp_path, at_once):
    jobs = {"a": Job("a", frozenset(), seeds=2), "b": Job("b", frozenset())}
    begun = []
    scripts = dict.fromkeys(jobs, "until [ -e taken ]; do sleep 0.02; done; sleep 0.2")
    ahead = "mkdir taken; sleep 1000"
    outcomes = run(tmp_path, jobs, scripts, slots=9, ahead=ahead, started=lambda *job: begun.append(job))
    assert ends(outcomes) == dict.fromkeys(jobs, End.DONE)
    assert sorted(begun) == [("a", 1), ("a", 2), ("b", 1)]


def test_jobs_come_before_further_seeds(tmp_path, at_once):
    """Both slots are taken by jobs until one has ended."""
    jobs = {stage: Job(stage, frozenset(), seeds=2) for stage in "abc"}
    scripts = {stage: f"test -e ahead && exit 1; touch {stage}; sleep 0.1" for stage in "ab"}
    scripts["c"] = "until [ -e ahead ]; do sleep 0.02; done; test -e a -a -e b"
    ahead = "touch ahead; sleep 1000"
    assert ends(run(tmp_path, jobs, scripts, slots=2, ahead=ahead)) == dict.fromkeys(jobs, End.DONE)


def test_the_most_urgent_job_gets_the_further_process(tmp_path, at_once):
    jobs = {
        "a": Job("a", frozenset(), seeds=2),
        "b": Job("b", frozenset(), seeds=2),
        "c": Job("c", frozenset("b")),
    }
    scripts = dict.fromkeys("ab", "until [ -e taken ]; do sleep 0.02; done")
    assert ends(
        run(tmp_path, jobs, scripts, slots=3, ahead='test -e taken || echo "$0" >taken; sleep 1000')
    ) == dict.fromkeys(jobs, End.DONE)
    assert (tmp_path / "taken").read_text() == "b\n"


def test_processes_ahead_end_with_their_job_and_with_the_run(tmp_path, at_once):
    ahead = "echo $$ >pid.new; mv pid.new pid; sleep 1000; sleep 1000"
    jobs = {"a": Job("a", frozenset(), seeds=2)}
    script = "until [ -e pid ]; do sleep 0.02; done"
    assert ends(run(tmp_path, jobs, {"a": f"{script}; exit 1"}, slots=2, ahead=ahead)) == {"a": End.FAILED}
    wait_until(lambda: gone(pid_in(tmp_path / "pid")))
    (tmp_path / "pid").unlink()
    jobs |= {"b": Job("b", frozenset())}
    with closing(run(tmp_path, jobs, {"a": "sleep 1000", "b": script}, slots=3, ahead=ahead)) as outcomes:
        assert next(outcomes).stage == "b"
        assert not gone(pid_in(tmp_path / "pid"))
    wait_until(lambda: gone(pid_in(tmp_path / "pid")))


def test_a_process_ahead_that_ends_is_not_begun_again_and_its_failure_is_not_the_jobs(tmp_path, at_once):
    begun = []
    jobs = {"a": Job("a", frozenset(), seeds=9)}
    scripts = {"a": "until [ -e tried ]; do sleep 0.02; done; sleep 0.3"}
    outcomes = run(tmp_path, jobs, scripts, slots=2, ahead="touch tried; exit 1", started=lambda *x: begun.append(x))
    assert ends(outcomes) == {"a": End.DONE}
    assert begun == [("a", 1), ("a", 2)]


def test_short_jobs_get_no_further_process(tmp_path):
    jobs = {"a": Job("a", frozenset(), seeds=9)}
    assert ends(run(tmp_path, jobs, {"a": "sleep 0.2; test ! -e ahead"}, slots=2, ahead="touch ahead")) == {
        "a": End.DONE
    }


def test_scripts_of_stages_are_those_of_dvc_yaml():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for section in MODEL_STAGES:
        stage = stages[section]
        name = f"{section}@net" if "foreach" in stage else section
        assert ["python", *script_of(name)] == stage.get("do", stage)["cmd"].replace("${key}", "net").split()


def test_new_entries_stand_in_the_order_of_the_graph(tmp_path):
    """Those that were there keep their places, which are not the graph's in a project with a history."""
    (tmp_path / "dvc.lock").write_text(HEAD + entry("old2") + entry("old1"))
    jobs = graph(old1="", a="", b="", old2="", c="b")
    scripts = {"a": f"until [ -e b ]; do sleep 0.02; done\n{done('a')}", "b": f"{done('b')}\ntouch b"}
    assert ends(run(tmp_path, jobs, scripts, changed="abc", slots=2))["old1"] is End.UP_TO_DATE
    assert stages(tmp_path) == ["old2", "old1", "a", "b", "c"]
    assert not (tmp_path / BEFORE).exists()


def test_the_order_is_right_too_where_a_run_was_stopped_and_another_goes_on(tmp_path):
    jobs = graph(a="", b="", c="a")
    assert ends(run(tmp_path, jobs, {"a": "exit 1"})) == {"a": End.FAILED, "b": End.DONE, "c": End.NOT_RUN}
    assert stages(tmp_path) == ["b"]
    assert ends(run(tmp_path, graph(a="", c="a"), {}, order=jobs)) == {"a": End.DONE, "c": End.DONE}
    assert stages(tmp_path) == ["a", "b", "c"]


def test_what_somebody_else_has_ended_is_left_in_its_order(tmp_path):
    (tmp_path / "dvc.lock").write_text(HEAD)
    LockFile(tmp_path, [])
    (tmp_path / "dvc.lock").write_text(HEAD + entry("b") + entry("a"))
    lock_file.forget(tmp_path)
    LockFile(tmp_path, "ab").settle(complete=True)
    assert stages(tmp_path) == ["b", "a"]


@pytest.mark.parametrize("cut", [60, len(HEAD + entry("a")), 3, 0])
def test_a_file_cut_off_by_a_dvc_that_was_ended_is_as_it_last_was(tmp_path, cut):
    path = tmp_path / "dvc.lock"
    path.write_text(HEAD + entry("b"))
    lock = LockFile(tmp_path, "ab")
    whole = HEAD + entry("b") + entry("a")
    path.write_text(whole)
    assert lock.moved("a")
    path.write_text((HEAD + entry("a") + entry("b"))[:cut])
    lock.settle(complete=False)
    assert path.read_text() == whole


@pytest.mark.parametrize("text", ["schema: '2.0'\nstages:\n  a:\n    cmd: x\ndatasets: []\n", "<<<<<<< ours\n", ""])
def test_a_file_of_another_form_is_left_alone(tmp_path, text):
    (tmp_path / "dvc.lock").write_text(text)
    lock = LockFile(tmp_path, "a")
    assert lock.moved("a")
    lock.settle(complete=True)
    assert (tmp_path / "dvc.lock").read_text() == text


def test_without_a_file_there_is_none_afterwards(tmp_path):
    LockFile(tmp_path, "a").settle(complete=True)
    assert not (tmp_path / "dvc.lock").exists()


def test_the_error_of_a_stage_is_told_without_the_noise_around_it():
    noise = ["Running stage 'train@x':", "> python stages/train.py x", ""]
    dvc = ["ERROR: failed to reproduce 'train@x': failed to run: python stages/train.py x, exited with 1", ""]
    told = ["error: params.yaml, line 3: wrong", "    and line 4 too"]
    assert fault([*noise, *told, *dvc]) == told
    assert fault([*noise, *told]) == told
    assert fault([*noise, "Traceback ...", "ValueError: x", *dvc])[-2:] == ["ValueError: x", dvc[0]]
    assert fault([f"line {k}" for k in range(40)]) == [f"line {k}" for k in range(28, 40)]
    assert fault(["", " "]) == ["it says nothing"]


@pytest.fixture(autouse=True)
def time_stands_still(monkeypatch):
    """For what is shown."""
    monkeypatch.setattr("netpress.execute.board.time", SimpleNamespace(monotonic=lambda: 100.0))


def shown(tmp_path, **console):
    """A board of three jobs, of which one has ended well and one with a failure; one runs. And all that it prints."""
    out = io.StringIO()
    board = Board(
        tmp_path, Eta(dict.fromkeys(["train@a", "train@b", "prune"], 0.0)), 3, 2, Console(file=out, **console)
    )
    board.started("train@a", 1)
    board.ended(Outcome("train@a", End.DONE, 62.0, 62.0))
    board.started("prune", 1)
    board.started("prune", 2)
    files.write_text(log_of(tmp_path, "prune"), "error: too much was cut away\n")
    board.ended(Outcome("prune", End.FAILED, 3.0, 3.0))
    board.started("train@b", 1)
    board.started("train@b", 2)
    files.write_text(log_of(tmp_path, "train@b"), "x\ntrain/b seed 0  epoch 2/9  loss 1.20  ETA 0:41\n\n")
    return board, out.getvalue()


def test_without_a_terminal_a_line_where_a_job_begins_or_ends(tmp_path):
    _, text = shown(tmp_path, width=200)
    assert text.splitlines() == [
        "3 jobs to do, at most 2 at once",
        "train@a: begins",
        "train@a: done in 1:02  (1 of 3 jobs, 0:00, about 0:04 left)",
        "prune: begins",
        "prune: 2 seeds at once",
        "prune: FAILED after 0:03",
        "    error: too much was cut away",
        "train@b: begins",
        "train@b: 2 seeds at once",
    ]


def test_on_a_terminal_a_line_for_each_job_that_runs_and_a_total(tmp_path):
    board, text = shown(tmp_path, width=90, force_terminal=True, color_system=None)
    assert "begins" not in text
    assert "train@a: done in 1:02\n" in text
    console = Console(file=io.StringIO(), width=90)
    console.print(board)
    assert [line.rstrip() for line in console.file.getvalue().splitlines()] == [
        "train@b x2  0:00  seed 0  epoch 2/9  loss 1.20  ETA 0:41",
        "2 of 3 jobs, 0:00, about 0:04 left",
    ]


def test_where_no_job_runs_there_is_the_total_alone(tmp_path):
    board, _ = shown(tmp_path, width=90, force_terminal=True)
    board.ended(Outcome("train@b", End.NOT_RUN))
    console = Console(file=io.StringIO(), width=90)
    console.print(board)
    assert console.file.getvalue().rstrip() == "3 of 3 jobs, 0:00"


def test_narrow_terminals_get_lines_that_fit(tmp_path):
    board, _ = shown(tmp_path, width=30, force_terminal=True)
    console = Console(file=io.StringIO(), width=30)
    console.print(board)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= 30
    assert lines[0].startswith("train@b") and "…" in lines[0]


def test_colours_are_left_out_where_nobody_wants_them(tmp_path, monkeypatch):
    coloured = "\x1b[32mdone"
    assert coloured in shown(tmp_path, force_terminal=True, color_system="standard")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured not in shown(tmp_path, force_terminal=True, color_system="standard")[1]


def test_the_last_line_of_a_log_is_the_last_with_words(tmp_path):
    path = tmp_path / "log"
    assert last_line(path) == ""
    path.write_bytes(b"x" * 5000 + b"\nfirst\nl\xffast \n\n")
    assert last_line(path) == "l�ast"
    path.write_bytes(b"\n")
    assert last_line(path) == ""
