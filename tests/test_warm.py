"""Stages in forks of a process that has PyTorch loaded end as they would by themselves, whoever is killed."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from netpress.process import stop, warm
from netpress.process.warm import WARM, Warm, handed_over

#: Hands its work over, as stages do; then what follows is the work.
SCRIPT = """
import os, signal, sys, time
from netpress.process.warm import handed_over
from netpress.process.stop import end_at_once
if (code := handed_over()) is not None:
    sys.exit(code)
print("pid", os.getpid(), flush=True)
"""


@pytest.fixture(scope="module")
def server():
    with Warm():
        yield os.environ[WARM]
    assert WARM not in os.environ


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Starts a script with this work, for the server at `path` if there is one; all are ended in the end."""
    processes = []

    def start(work, *args, path="", folder=tmp_path, **options):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT + work)
        env = {key: value for key, value in os.environ.items() if key != WARM} | {"GIVEN": "as given"}
        env |= {WARM: path} if path else {}
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | options
        command = [sys.executable, str(script), *args]
        processes.append(subprocess.Popen(command, cwd=folder, env=env, text=True, **streams))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()  # not for its streams, which a fork may hold
        for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
            stream.close()


def pid_of(process):
    """The process at work, which says its number first."""
    return int(process.stdout.readline().split()[1])


def test_who_need_not_wait_does_the_work_itself_until_all_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv(WARM, str(tmp_path / "socket"))
    connected = []
    monkeypatch.setattr(warm.socket.socket, "connect", lambda _, path: connected.append(path) or 1 / 0)
    assert handed_over(wait=False) is None
    assert not connected
    Path(f"{tmp_path}/socket{warm.READY}").touch()
    with pytest.raises(ZeroDivisionError):
        handed_over(wait=False)
    assert connected == [str(tmp_path / "socket")]


def gone(pid):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_fork_has_the_arguments_folder_environment_and_streams_of_who_asked(server, started, tmp_path):
    (tmp_path / "below").mkdir()
    work = """
own = [name for name in sys.modules if name.startswith("netpress")]
print(sys.argv[1:], os.getcwd(), os.environ["GIVEN"], "NETPRESS_WARM" in os.environ, sys.stdin.read())
print("torch" in sys.modules, sorted(own), sys.path[0], file=sys.stderr)
sys.exit(3)
"""
    said = []
    for path in (server, ""):
        process = started(work, "a", "b c", path=path, folder=tmp_path / "below")
        assert (pid_of(process) == process.pid) == (not path)
        out, err = process.communicate("typed in")
        assert process.returncode == 3
        said.append((out, err))
    assert said[0][0] == said[1][0] == f"['a', 'b c'] {tmp_path / 'below'} as given False typed in\n"
    own = ["netpress", "netpress.process", "netpress.process.stop", "netpress.process.warm"]
    assert said[0][1] == f"True {own} {tmp_path}\n"
    assert said[1][1] == f"False {own} {tmp_path}\n"


def test_a_fork_reads_the_code_of_who_asked(server, started, tmp_path, monkeypatch):
    (tmp_path / "copy").symlink_to(Path(warm.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "copy"))
    process = started("import netpress.cli\nprint(netpress.__file__, netpress.cli.__file__)", path=server)
    pid_of(process)
    out = process.stdout.read()  # not communicate, which would leave out what came with the first line
    assert out == f"{tmp_path}/copy/netpress/__init__.py {tmp_path}/copy/netpress/cli/__init__.py\n"


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ("", 0),
        ("sys.exit(None)", 0),
        ("sys.exit('words')", 1),
        ("raise ValueError('words')", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os._exit(5)", 5),
    ],
)
def test_who_asked_ends_as_the_fork_ends(server, started, work, code):
    for path in (server, ""):
        process = started(work, path=path)
        _, err = process.communicate()
        assert process.returncode == code
        assert ("words" in err) == ("words" in work), err


@pytest.mark.parametrize("work", ["raise ValueError('words')", "sys.exit('words')"])
def test_who_asked_ends_as_the_fork_ends_also_when_nobody_reads_what_it_says(server, started, work):
    process = started(f"sys.stdin.read()\n{work}", path=server)
    pid_of(process)
    process.stderr.close()
    process.stdin.close()
    assert process.wait(timeout=60) == 1


@pytest.fixture
def loading():
    """Listens as the process does that has not loaded everything yet."""
    with tempfile.TemporaryDirectory(prefix="netpress-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen()
        yield listener


def catches(pid, number):
    """Whether a process has set a handler for a signal."""
    mask = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1]
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_who_waits_for_it_to_load(loading, started, number):
    process = started("", path=loading.getsockname())
    with loading.accept()[0]:
        while not catches(process.pid, signal.SIGTERM):  # Python itself has one for SIGINT
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (128 + number, "", stop.MESSAGE)


def test_where_it_ends_while_it_loads_the_work_is_done_alone(loading, started):
    process = started("", path=loading.getsockname())
    loading.accept()[0].close()
    assert pid_of(process) == process.pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("begin", ["end_at_once()", ""])
def test_signals_reach_the_fork(server, started, number, begin):
    """Also one that has not come to the line that sees to them."""
    process = started(f"{begin}\nprint('ready', flush=True)\ntime.sleep(600)", path=server)
    pid = pid_of(process)
    process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "stopped: run the same command" in err
    assert gone(pid)


def test_a_fork_ends_with_who_asked(server, started):
    process = started("time.sleep(600)", path=server)
    pid = pid_of(process)
    process.kill()
    assert gone(pid)


def test_forks_work_side_by_side(server, started):
    first, second = (started("print(sys.stdin.readline(), flush=True)", path=server) for _ in range(2))
    forks = [pid_of(process) for process in (first, second)]
    assert [os.getsid(fork) for fork in forks] == forks != forks[::-1]  # each has a session, and a share of the cores
    for process, word in ((second, "two"), (first, "one")):
        out, _ = process.communicate(word)
        assert (process.returncode, out.strip()) == (0, word)


def test_when_the_loaded_process_is_killed_work_in_progress_fails_with_a_line_and_later_work_is_done_alone(started):
    with Warm() as loaded:
        path = os.environ[WARM]
        process = started("time.sleep(600)", path=path)
        pid = pid_of(process)
        loaded._process.kill()
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (
            1,
            "error: the process that loads PyTorch for all stages was killed; run again\n",
        )
        assert gone(pid)
        later = started("", path=path)
        assert pid_of(later) == later.pid


def test_the_loaded_process_ends_with_who_started_it(tmp_path):
    code = "import time\nfrom netpress.process.warm import Warm\n"
    code += "with Warm() as warm: print(warm._process.pid, flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate()
    assert gone(pid)


def test_without_a_loaded_process_nothing_is_handed_over(monkeypatch, tmp_path):
    monkeypatch.delenv(WARM, raising=False)
    assert handed_over() is None
    monkeypatch.setenv(WARM, str(tmp_path / "none"))
    assert warm.handed_over() is None
