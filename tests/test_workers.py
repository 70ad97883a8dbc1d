"""Pictures decoded by processes side by side: the same bytes as by one, errors as by one, and nobody left behind."""

import operator
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from itertools import repeat
from pathlib import Path

import pytest
from source_samples import paint, settings

from netpress.base.errors import DataError, NetpressError
from netpress.ingest import workers
from netpress.ingest.prepare import prepare
from netpress.ingest.sources import _pictures
from netpress.ingest.workers import in_order


@pytest.fixture
def at_once(monkeypatch):
    """Others are started for the first job, however short the work is."""
    monkeypatch.setattr(workers, "PATIENCE", 0)


@pytest.mark.parametrize("jobs", [0, 1, 5, 40])
def test_answers_come_in_the_order_of_the_jobs(at_once, jobs):
    assert list(in_order(partial(pow, 2), range(jobs), 3)) == [2**k for k in range(jobs)]


def test_jobs_and_answers_larger_than_a_pipe_do_not_wait_for_one_another(at_once):
    jobs = [bytes([k]) * 300_000 for k in range(12)]
    assert list(in_order(partial(operator.mul, 4), jobs, 2)) == [job * 4 for job in jobs]


def test_what_a_library_prints_is_no_answer(at_once, capfd):
    assert list(in_order(print, ["one", "two"], 1 + 1)) == [None, None]
    assert capfd.readouterr().out == ""


def test_short_work_and_one_core_need_no_other_process(monkeypatch):
    monkeypatch.setattr(workers, "COMMAND", ("no such program",))
    assert list(in_order(abs, range(-2, 3), 2)) == [2, 1, 0, 1, 2]
    monkeypatch.setattr(workers, "PATIENCE", 0)
    assert list(in_order(abs, range(-2, 3), 1)) == [2, 1, 0, 1, 2]
    with pytest.raises(NetpressError, match=r"no process for decoding can be started .*; run again"):
        list(in_order(abs, [1], 2))


@pytest.mark.parametrize(
    ("function", "job", "message"),
    [
        (signal.raise_signal, signal.SIGKILL, r"was killed \(signal 9\), perhaps because memory is short"),
        (os._exit, 3, "ended with code 3"),
    ],
)
def test_a_process_that_ends_is_told_in_one_line(at_once, function, job, message):
    with pytest.raises(NetpressError, match=f"one of the processes that decode pictures {message}; nothing was "):
        list(in_order(function, repeat(job, 50), 2))


def gone(pid):
    """Wait for the end of a process, which may be one that nobody asks how it ended; say whether it came."""
    stat, end = Path(f"/proc/{pid}/stat"), time.monotonic() + 20
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_processes_end_with_who_no_longer_asks(at_once):
    with closing(in_order(partial(eval, "__import__('os').getpid()"), repeat({}), 2)) as answers:
        pids = {next(answers) for _ in range(4)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert all(gone(pid) for pid in pids)


#: Starts two processes that have work for a minute each, and says who they are.
LONG = """
import time
from functools import partial
from itertools import chain, repeat
from netpress.ingest import workers
from netpress.process.stop import end_at_once
end_at_once()
workers.PATIENCE = 0
work = "__import__('os').getpid() if job else __import__('time').sleep(60)"
for pid in workers.in_order(partial(eval, work), ({"job": k < 2} for k in range(100)), 2):
    print(pid, flush=True)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_processes_end_with_the_one_that_is_killed(number, code):
    """In the middle of their work; a group, as the terminal's Ctrl-C is for all of them."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", LONG], stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    pids = [int(process.stdout.readline()) for _ in range(2)]
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    assert process.wait(timeout=20) == code
    errors = process.stderr.read()  # which all of them hold open
    assert all(gone(pid) for pid in pids)
    assert "Traceback" not in errors


@pytest.fixture
def folder(tmp_path):
    """Pictures of two classes, of which some are broken."""
    for k in range(60):
        paint(tmp_path / f"pictures/class{k % 2}/{k}.png", (40 + k, 30), (k * 4, 255 - k, k))
    for k in (3, 20, 41):
        (tmp_path / f"pictures/class{k % 2}/{k}.png").write_bytes(b"\x89PNG\r\n\x1a\n" * (k > 3))
    return tmp_path


def prepared(folder, monkeypatch, processes, **changes):
    """Prepare with so many processes, two pictures a piece; return what was written."""
    monkeypatch.setattr(_pictures, "cores", lambda: processes)
    monkeypatch.setattr(_pictures, "spans", lambda count, each: ((k, min(k + 2, count)) for k in range(0, count, 2)))
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    prepare(folder, settings("imagefolder", "pictures", **changes), out)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_prepare_over_the_cores_writes_what_one_process_writes(folder, monkeypatch, at_once):
    alone = prepared(folder, monkeypatch, 1, on_bad_image="skip")
    assert prepared(folder, monkeypatch, 3, on_bad_image="skip") == alone
    assert len(alone) == 6


def test_broken_pictures_are_told_as_by_one_process(folder, monkeypatch, at_once):
    said = []
    for processes in (1, 3):
        with pytest.raises(DataError) as told:
            prepared(folder, monkeypatch, processes)
        said.append(str(told.value))
        assert not (folder / "out").exists()
    assert said[0] == said[1]
    assert said[0].startswith("3 of 60 pictures cannot be used: pictures/class0/20.png: ")


def test_a_killed_process_leaves_what_was_there(folder, monkeypatch, at_once):
    before = prepared(folder, monkeypatch, 1, on_bad_image="skip")
    answer = workers._Worker.answer
    monkeypatch.setattr(workers._Worker, "answer", lambda worker: worker._process.kill() or answer(worker))
    monkeypatch.setattr(_pictures, "cores", lambda: 2)
    with pytest.raises(NetpressError, match="was killed"):
        prepare(folder, settings("imagefolder", "pictures", on_bad_image="skip"), folder / "out")
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == before
    assert not list(folder.glob(".out*"))
