"""`netpress run --on ray`: the same dvc.lock on two nodes, killed workers, a lost head, and what is refused."""

import os
import shutil
import signal
import socket
from contextlib import closing, suppress
from importlib.util import find_spec

import psutil
import pytest
from little import ROOT, copy_of, forget, results, run, start
from project import stages_run
from ruamel.yaml import YAML
from test_execute import gone, wait_until
from test_stop import MESSAGE

from netpress.base.errors import ConfigError, NetpressError
from netpress.execute import ray_tasks
from netpress.execute.ray import OnRay
from netpress.execute.ray_tasks import RETRIES, LostError, insist, refusal, share, stage, wait_for_loss

ON_RAY = ("python", "-m", "netpress", "run", "--on", "ray")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra: requirements-ray.txt")


def insisted(*attempts):
    """Return the exit code and what is said where the attempts go so: what they give, then perhaps an error."""
    left = list(attempts)

    def attempt():
        for said in left.pop(0):
            if isinstance(said, Exception):
                raise said
            yield said

    told = []
    code = insist(attempt, told.append)
    assert not left
    return code, b"".join(told).decode()


def test_a_stage_that_fails_by_itself_is_not_begun_again():
    assert insisted([b"error: ill\n", 3]) == (3, "error: ill\n")


def test_a_lost_stage_is_begun_again():
    code, told = insisted([b"a\n", LostError("node x died")], [b"b\n", 0])
    assert code == 0
    assert told == "a\nlost: node x died; it is begun again and goes on from its last checkpoint\nb\n"


def test_a_stage_that_is_lost_every_time_has_failed():
    code, told = insisted(*[[LostError("killed")]] * RETRIES, [b"c\n"])
    assert (code, told.count("lost: killed; it is begun again")) == (1, RETRIES)
    assert told.endswith(
        "error: lost 3 times, the last time: its task gave no exit code; is there memory enough on the nodes?\n"
    )


@pytest.mark.parametrize(
    ("nodes", "threads", "device", "expected"),
    [
        ([{"CPU": 4}, {"CPU": 3.0}], 2, "cpu", (3, 0)),
        ([{"CPU": 4, "GPU": 1}, {"CPU": 16}], 2, "cpu", (10, 0)),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 16}, {"CPU": 1, "GPU": 4}], 2, "cuda", (2, 1)),
        ([{"CPU": 8, "GPU": 1}, {"CPU": 16}], 1, "auto", (1, 1)),
        ([{"CPU": 8}, {}], 1, "auto", (8, 0)),
    ],
)
def test_how_many_stages_the_nodes_take(nodes, threads, device, expected):
    assert share(nodes, threads, device) == expected


@pytest.mark.parametrize(
    ("nodes", "threads", "device", "said"),
    [
        (
            [{"CPU": 4}, {"CPU": 2}],
            8,
            "cpu",
            r"8 cores \(runtime.threads\), which no node .*\(4 cores, 0 GPUs; 2 ",
        ),
        ([{"CPU": 4}], 1, "cuda", r"1 cores \(runtime.threads\) and a GPU \(runtime.device\), which no node"),
        ([], 1, "cpu", r"which no node of the Ray cluster has \(none\)"),
    ],
)
def test_nodes_that_cannot_run_a_stage_are_refused(nodes, threads, device, said):
    with pytest.raises(ConfigError, match=said):
        share(nodes, threads, device)


def test_a_node_that_does_not_see_the_folder_is_named(tmp_path):
    told, code = stage(str(tmp_path), str(tmp_path / "token"), ["-c", ""], {}, 0.0)
    assert code == 1
    assert told.decode().startswith(f"error: node {socket.gethostname()} does not see {tmp_path} as it is where")
    assert "must lie in a folder that all nodes share at the same path" in told.decode()


def test_a_node_has_the_variables_of_the_run_and_not_those_of_ray(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (tmp_path / "token").touch()
    script = "import os; print(os.getenv('OMP_NUM_THREADS'), os.environ['OMP_WAIT_POLICY'], os.getcwd()); exit(3)"
    said = list(stage(str(tmp_path), str(tmp_path / "token"), ["-c", script], {"OMP_WAIT_POLICY": "ACTIVE"}, 0.0))
    assert said[1:] == [f"None ACTIVE {tmp_path}\n".encode(), 3]


def test_a_head_that_is_gone_is_noticed(monkeypatch):
    monkeypatch.setattr(ray_tasks, "LOOK", 0.01)
    monkeypatch.setattr(ray_tasks, "PATIENCE", 0.05)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        head = server.getsockname()
    wait_for_loss(head)


def test_without_ray_the_error_says_how_to_install_it(tmp_path, monkeypatch, runtime):
    monkeypatch.setattr("netpress.execute.ray.find_spec", lambda name: None)
    with pytest.raises(NetpressError, match=r"needs the package ray; run: .*install -r requirements-ray.txt"):
        OnRay(tmp_path, "local", runtime)


def test_an_address_for_clients_outside_is_refused(tmp_path, runtime):
    with pytest.raises(ConfigError, match="ray:// is for clients outside of the cluster; run this on a node of it"):
        OnRay(tmp_path, "ray://head:10001", runtime)


def test_an_address_without_on_is_a_mistake_of_usage(tmp_path):
    done = run(tmp_path, "python", "-m", "netpress", "run", "--address", "auto")
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == "python -m netpress run: error: --address needs --on ray"


def test_a_head_that_asks_for_a_token_is_told_as_such():
    refused = ConnectionError("Failed to connect to Ray cluster at head:6379")
    refused.__cause__ = RuntimeError(
        "Failed to connect to GCS. Last: Traceback ... ray.exceptions.AuthenticationError: RPC"
    )
    assert refusal(refused).endswith("set RAY_AUTH_MODE=token, with the ~/.ray/auth_token of its head here")
    assert "'ray start --head" in refusal(ConnectionError("nobody there"))


@needs_ray
def test_an_address_where_there_is_no_ray_is_an_error(tmp_path, runtime):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    (tmp_path / "src").symlink_to(ROOT / "src")
    with pytest.raises(NetpressError, match=rf"no Ray to work with at '127.0.0.1:{port}': .*'ray start --head"):
        OnRay(tmp_path, f"127.0.0.1:{port}", runtime).__enter__()


@pytest.fixture
def cluster():
    """Two nodes on this machine, of a core each; a head that takes no work beside them."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def project(little_run, tmp_path):
    """A project in which all is to do, for DVC; but for one model, which is trained again, each stage is quick."""
    folder = copy_of(little_run, tmp_path / "project")
    (folder / "dvc.lock").unlink()
    shutil.rmtree(folder / ".dvc/cache")
    forget(folder, "train/teacher")
    return folder


def at_work(variant):
    """The process on a node that trains the variant, whose parent is Ray's worker; None if there is none."""
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            words = process.info["cmdline"] or []
            if words[-2:] == ["stages/train.py", variant] and "ray::" in process.parent().name():
                return process
    return None


def training(project, process):
    """Wait until the teacher's training has begun; return the process that trains it."""
    log = project / ".netpress/logs/train@teacher.log"
    log.unlink(missing_ok=True)
    wait_until(lambda: process.poll() is not None or at_work("teacher"), 120)
    assert process.poll() is None, process.communicate()[0]
    found = at_work("teacher")
    wait_until(lambda: process.poll() is not None or "epoch " in log.read_text(), 120)
    return found


@needs_ray
@pytest.mark.e2e
def test_a_killed_worker_is_replaced_and_goes_on_to_the_same_lock(project, little_run, cluster, server):
    assert server.run(project, "train", "teacher", kill_at="after fit.json")["code"] == -signal.SIGKILL
    process = start(project, *ON_RAY, "--address", cluster.address, "train/teacher")
    stage = training(project, process)
    stage.parent().kill()
    told = process.communicate(timeout=240)[0]
    log = (project / ".netpress/logs/train@teacher.log").read_text()
    assert process.returncode == 0, told + log
    assert "3 jobs to do, at most 2 at once" in told
    assert log.count("lost: ") == 1 and log.count("goes on after epoch") == 2, log
    assert gone(stage.pid)
    for model in ("models/train/teacher", "metrics/train/teacher"):
        ours, whole = ({k: v for k, v in results(at).items() if k.startswith(model)} for at in (project, little_run))
        assert ours == whole and ours
    ours, whole = (YAML(typ="safe").load(at / "dvc.lock")["stages"] for at in (project, little_run))
    assert ours == {stage: whole[stage] for stage in ("check", "prepare", "train@teacher")}


@needs_ray
@pytest.mark.e2e
@pytest.mark.exhaustive
def test_stopped_and_without_its_head_a_run_goes_on_to_what_dvc_repro_leaves(project, little_run, cluster):
    process = start(project, *ON_RAY, "--address", cluster.address)
    stage = training(project, process)
    os.kill(process.pid, signal.SIGINT)
    told = process.communicate(timeout=30)[0]
    assert (process.returncode, told.count(MESSAGE)) == (130, 1), told
    assert "Traceback" not in told
    wait_until(lambda: gone(stage.pid))

    process = start(project, *ON_RAY, "--address", cluster.address)
    stage = training(project, process)
    cluster.remove_node(cluster.head_node, allow_graceful=False)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert told.splitlines()[-1].startswith("error: ") and "run again to go on" in told.splitlines()[-1], told
    assert "Traceback" not in told
    cluster.shutdown()
    wait_until(lambda: gone(stage.pid))

    done = run(project, *ON_RAY)  # on a Ray of its own
    assert done.returncode == 0, done.stdout
    assert results(project) == results(little_run)
    assert (project / "dvc.lock").read_bytes() == (little_run / "dvc.lock").read_bytes()
    again = run(project, "dvc", "repro")
    assert again.returncode == 0 and stages_run(again.stdout) == set(), again.stdout
    assert run(project, *ON_RAY).stdout == "everything is up to date\n"


@needs_ray
@pytest.mark.e2e
@pytest.mark.exhaustive
def test_a_stage_that_is_killed_every_time_has_failed(project, cluster):
    process = start(project, *ON_RAY, "--address", cluster.address, "train/teacher")
    for _ in range(RETRIES + 1):
        wait_until(lambda: process.poll() is not None or at_work("teacher"), 120)
        found = at_work("teacher")
        found.kill()
        wait_until(lambda pid=found.pid: gone(pid))
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "error: lost 3 times, the last time: its process was killed; is there memory enough" in told
    assert told.splitlines()[-1] == "error: failed: train@teacher; what they printed is in .netpress/logs"


@needs_ray
@pytest.mark.e2e
@pytest.mark.exhaustive
def test_a_stage_that_fails_is_told_in_its_own_words_and_once(project, cluster):
    (project / "data/own/train-labels-idx1-ubyte").write_bytes(b"not labels")
    done = run(project, *ON_RAY, "--address", cluster.address, "train")
    assert done.returncode == 1
    log = (project / ".netpress/logs/prepare.log").read_text()
    assert log.count("error: ") == 1 and "lost" not in log
    assert "error: failed: prepare; not run, since they need it: train@teacher" in done.stdout.splitlines()[-1]
