"""Stages by several processes: one writer, what becomes of errors and kills, and how many there may be."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from conftest import RUNTIME
from little import copy_of, make_project, results, run, start
from ruamel.yaml import YAML

from netpress.base.errors import ParamsError
from netpress.base.model_id import ModelId
from netpress.core import runtime as machine
from netpress.core.runtime import devices_of, lacking, set_up
from netpress.execute import slots
from netpress.execute.ray_tasks import share
from netpress.params.recipes import Runtime
from netpress.params.schema import parse
from netpress.process import torchrun

#: Put before a stage's script, always the same since results follow from it: every epoch leaves a checkpoint, and what
#: the environment says is done by one process in epoch 3.
PLANTED = """
import os, signal, time, netpress.core.checkpoint, netpress.core.engine as engine
from netpress.base.errors import TrainingError
netpress.core.checkpoint.SHARE = 1e9
evaluate, done = engine.evaluate, []
def planted(*given):
    done.append(given)
    if os.environ.get("RANK") == os.environ.get("PLANTED_RANK") and len(done) == 3:
        exec(os.environ.get("PLANTED", ""))
    return evaluate(*given)
engine.evaluate = planted
"""


def of(**changes):
    return RUNTIME.model_copy(update=changes)


@pytest.fixture
def plant(monkeypatch):
    """Have process `rank` do `act` in epoch 3."""

    def plant(act, rank=1):
        monkeypatch.setenv("PLANTED", act)
        monkeypatch.setenv("PLANTED_RANK", str(rank))

    return plant


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project of which two processes train each network."""
    folder = make_project(tmp_path_factory.mktemp("two") / "project")
    values = YAML(typ="safe").load((folder / "params.yaml").read_text(encoding="utf-8"))
    done = run(folder, "python", "stages/prepare.py")
    assert done.returncode == 0, done.stdout
    script = folder / "stages/train.py"
    script.write_text(PLANTED + script.read_text())
    return copy_of(folder, folder.parent / "two", runtime=values["runtime"] | {"devices": 2})


@pytest.fixture(scope="module")
def whole(project, tmp_path_factory):
    """What comes out where nothing is killed."""
    folder = copy_of(project, tmp_path_factory.mktemp("whole") / "project")
    done = run(folder, "python", "stages/train.py", "teacher")
    assert done.returncode == 0, done.stdout
    assert "on cpu, 2 devices, each with 1 threads" in done.stdout
    assert done.stdout.count("epoch 4/4") == 1  # one process alone is heard
    assert not list((folder / ".netpress/ranks").iterdir())
    records = json.loads((folder / "metrics/environments.json").read_text())
    environment = records["environments"][records["results"]["train/teacher"]["environment"]]
    assert environment["devices"] == "2" and environment["batch_norm"] == "synchronized"
    assert not [key for key in environment if key.startswith(("TORCH", "OMP"))]
    return results(folder)


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.exhaustive)])
def test_a_killed_process_ends_all_and_the_run_goes_on_to_the_same_bytes(project, whole, plant, tmp_path, rank):
    folder = copy_of(project, tmp_path / "project")
    plant("os.kill(os.getpid(), signal.SIGKILL)", rank)
    killed = run(folder, "python", "stages/train.py", "teacher")
    assert killed.returncode == 1
    assert f"error: process {rank + 1} of 2 was ended by SIGKILL, and so the others; run again" in killed.stdout
    assert killed.stdout.count("error") == 1 and "Traceback" not in killed.stdout
    assert not (folder / "models/train/teacher").exists()
    plant("")
    again = run(folder, "python", "stages/train.py", "teacher")
    assert "goes on after epoch 2 of 4" in again.stdout
    assert results(folder) == whole


def test_an_error_of_one_process_alone_is_told(project, plant, tmp_path):
    folder = copy_of(project, tmp_path / "project")
    plant("raise TrainingError('a fault of the second')")
    done = run(folder, "python", "stages/train.py", "teacher")
    assert done.returncode == 1
    assert done.stdout.endswith("\nerror: process 2 of 2: a fault of the second\n")
    assert done.stdout.count("error") == 1 and "Traceback" not in done.stdout


@pytest.mark.exhaustive  # what is said then is also tested without the processes, below
def test_an_error_of_all_processes_is_told_once(project, tmp_path):
    values = YAML(typ="safe").load((project / "params.yaml").read_text(encoding="utf-8"))
    recipes = values["recipes"] | {"plain": values["recipes"]["plain"] | {"batch_size": 3}}
    folder = copy_of(project, tmp_path / "project", recipes=recipes)
    done = run(folder, "python", "stages/train.py", "teacher")
    assert done.returncode == 1
    assert "fewer than two images for each of 2 devices" in done.stdout and "choose 7 or more" in done.stdout
    assert done.stdout.count("error") == 1 and "Traceback" not in done.stdout


def test_the_processes_end_with_the_one_that_started_them(project, plant, tmp_path):
    folder = copy_of(project, tmp_path / "project")
    plant("time.sleep(600)")
    stage = start(folder, "python", "stages/train.py", "teacher")
    while "epoch 2/4" not in stage.stdout.readline():
        pass
    owners = [folder / f".netpress/locks/train.teacher{suffix}.owner" for suffix in ("", ".0", ".1")]
    first, *others = [json.loads(owner.read_text())["pid"] for owner in owners]
    os.kill(first, signal.SIGKILL)
    stage.communicate(timeout=60)
    assert stage.returncode
    while any(alive(pid) for pid in others):  # the test's own limit of time ends it
        time.sleep(0.1)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_folder_that_looks_like_the_project_but_for_what_the_stage_writes(tmp_path, monkeypatch):
    root, model_id = tmp_path / "project", ModelId("prune_sweep/a")
    for name in (
        *("params.yaml", "src/code.py", "metrics/x.json", "models/train/net/spec.json"),
        *("models/prune_sweep/a/spec.json", "models/prune_sweep/b/spec.json", "models/prune_sweep/.b.aside/half"),
        *(".netpress/runs/prune_sweep/a/seed_0/steps/seed.json", ".netpress/runs/train/net/seed.json"),
        *(".netpress/locks/x.lock", ".netpress/soft_targets/train/net/seed_0.json"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    monkeypatch.setenv(torchrun.PLACE, str(tmp_path / "others"))
    monkeypatch.setenv("RANK", "1")
    folder = torchrun.looking_like(root, model_id)
    seen = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    assert {name for name in seen if not (folder / name).exists()} == {
        *("metrics/x.json", "models/prune_sweep/a/spec.json", "models/prune_sweep/.b.aside/half"),
        *(".netpress/runs/train/net/seed.json", ".netpress/locks/x.lock"),
    }
    for name in ("metrics", "models/prune_sweep/a", ".netpress/runs/prune_sweep/a/seed_0", ".netpress/soft_targets"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "new").write_text("")
        assert not (root / name / "new").exists()


@pytest.mark.parametrize(
    ("code", "which", "log", "told"),
    [
        (-9, 0, "", "error: process 1 of 3 was ended by SIGKILL, and so the others; run again"),
        (1, 0, "error: heard already", ""),
        (1, 2, "warning\nerror: no\nuse yes", "error: process 3 of 3: no\nuse yes\n"),
        (1, 2, "Traceback\nKeyError: 3", "error: process 3 of 3: Traceback\nKeyError: 3\n"),
        (70, 2, "", "error: process 3 of 3: exit code 70\n"),
    ],
)
def test_what_is_said_of_a_process_that_failed(tmp_path, code, which, log, told):
    place = tmp_path / f"logs/run/attempt_0/{which}"
    place.mkdir(parents=True)
    (place / "stderr.log").write_text(log)
    found = torchrun._fault(tmp_path, which, 3, code)
    assert found.startswith(told) if code < 0 else found == told


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "runtime.devices = 0: must be a whole number at least 1 and at most 1024"),
        ("every", "runtime.devices = 'every': must be a whole number"),
        (True, "runtime.devices = True: must be a whole number"),
        (1025, "at most 1024"),
    ],
)
def test_how_many_devices_there_may_be(value, text):
    with pytest.raises(ParamsError, match=re.escape(text)):
        parse(Runtime, RUNTIME.model_dump() | {"devices": value}, "runtime")


@pytest.mark.parametrize("devices", [2, "all"])
def test_several_devices_are_not_compiled_for(devices):
    with pytest.raises(ParamsError, match="compile: true is for one device; set compile: false or devices: 1"):
        parse(Runtime, RUNTIME.model_dump() | {"devices": devices, "compile": True}, "runtime")


def test_all_devices_are_those_of_the_machine(monkeypatch):
    every = parse(Runtime, RUNTIME.model_dump() | {"devices": "all", "threads": 3}, "runtime")
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert devices_of(every) == 2
    assert devices_of(every.model_copy(update={"threads": 9})) == 1
    assert devices_of(of(devices=5)) == 5
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert devices_of(every.model_copy(update={"device": "cuda"})) == 4


def test_more_gpus_than_there_are_is_an_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert lacking(of(device="cuda", devices=2)) == []
    text = "runtime.devices = 3: PyTorch finds 2 here; set it to 2 or less, or to all"
    assert lacking(of(device="auto", devices=3)) == [("runtime.devices", text)]
    with pytest.raises(ParamsError, match=text):
        set_up(of(device="cuda", devices=3))


def test_jobs_have_the_cores_of_all_their_devices(monkeypatch):
    monkeypatch.setattr(slots, "cores", lambda: 8)
    assert [slots.slots(of(devices=n, threads=2)) for n in (0, 1, 2, 3, 5)] == [1, 4, 2, 1, 1]
    nodes = [{"CPU": 8.0}, {"CPU": 3.0, "GPU": 2.0}]
    assert share(nodes, 2, "cpu", 2) == (2, 0)
    assert share(nodes, 1, "cuda", 2) == (1, 2)
