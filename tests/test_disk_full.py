"""A full disk: exit code not 0, one line, old outputs and dvc.lock as they were; with space again, the run goes on."""

import json
import shutil
import subprocess

import pytest
from little import copy_of, results, run
from ruamel.yaml import YAML

#: No file may grow beyond this, as on a disk that fills up: the second network's weights do.
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"


def change(project):
    """Ask for another teacher."""
    path = project / "params.yaml"
    params = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    params["train"]["teacher"]["epochs"] = 3
    with path.open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(params, stream)


@pytest.mark.parametrize(
    "place",
    [
        "model.onnx",
        "teacher.json",
        *(pytest.param(p, marks=pytest.mark.exhaustive) for p in ("fit_1.safetensors", "seed.json", "seeds.json")),
    ],
)
def test_no_space_wherever_a_file_is_written(server, little_run, tmp_path, place):
    project = copy_of(little_run, tmp_path / "project")
    before = results(project)
    change(project)
    patch = (
        "import errno, os, netpress.base.files as f; sync = os.fsync\n"
        "def full(handle):\n"
        f"    if os.readlink(f'/proc/self/fd/{{handle}}').endswith('.{place}.aside'):\n"
        "        raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "    sync(handle)\n"
        "os.fsync = full"
    )
    failed = server.run(project, "train", "teacher", patch=patch)
    assert failed["code"] == 1
    assert f"{place}: No space left on device; free some space and run again" in failed["output"]
    assert "Traceback" not in failed["output"]
    if place != "teacher.json":  # the metrics come last: the models are whole and in place by then
        assert results(project) == before
    server.finish(project, "train", "teacher")
    assert results(project).keys() == before.keys()


def test_files_that_cannot_grow(server, little_run, tmp_path):
    project = copy_of(little_run, tmp_path / "project")
    before = results(project)
    change(project)
    failed = server.run(project, "train", "teacher", patch=LIMIT)
    assert failed["code"] == 1
    (line,) = [line for line in failed["output"].splitlines() if line.startswith("error:")]
    assert "cannot write" in line
    assert "free some space and run again" in line
    assert "Traceback" not in failed["output"]
    assert results(project) == before
    server.finish(project, "train", "teacher")
    after = results(project)
    assert after.keys() == before.keys()
    assert (
        after["models/train/teacher/seed_0/model.safetensors"]
        != before["models/train/teacher/seed_0/model.safetensors"]
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here; test_files_that_cannot_grow stands in")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place, leave=0):
    """Leave `leave` bytes free."""
    with (place / "filler").open("ab", buffering=0) as stream:
        stream.write(b"\0" * max(0, shutil.disk_usage(place).free - leave))


@pytest.mark.e2e
@pytest.mark.parametrize("leave", [0, pytest.param(100_000, marks=pytest.mark.exhaustive)])
def test_a_disk_that_is_full(little_run, small_disk, leave):
    long = "long" * 50  # so that DVC's lock outgrows a page of 4,096 bytes
    project = copy_of(little_run, small_disk.joinpath(long, long, long, long, long, long))
    before, lock = results(project), (project / "dvc.lock").read_bytes()
    change(project)
    fill(small_disk, leave)
    failed = run(project, "python", "stages/train.py", "teacher")
    assert failed.returncode != 0
    assert "Traceback" not in failed.stdout
    assert "free some space" in failed.stdout or "No space left" in failed.stdout
    assert results(project) == before
    fill(small_disk)
    # DVC removes a stage's outputs before it runs; what it keeps in its cache comes back with `dvc checkout`.
    assert run(project, "dvc", "repro", "train@teacher").returncode != 0
    assert (project / "dvc.lock").read_bytes() == lock
    with pytest.raises(json.JSONDecodeError):
        json.loads((project / ".dvc/tmp/rwlock").read_bytes())
    (small_disk / "filler").unlink()
    assert run(project, "dvc", "repro", "train@teacher").returncode != 0, "DVC repairs its lock now: let doctor be"
    told = run(project, "python", "-m", "netpress", "doctor", "--quiet")
    assert (told.returncode, "rm .dvc/tmp/rwlock" in told.stdout) == (1, True)
    (project / ".dvc/tmp/rwlock").unlink()
    done = run(project, "dvc", "repro", "train@teacher")
    assert done.returncode == 0, done.stdout
    assert (project / "dvc.lock").read_bytes() != lock
    assert results(project).keys() == before.keys()
