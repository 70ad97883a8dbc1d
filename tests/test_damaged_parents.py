"""A stage whose parent is damaged ends with one line that names the file and the way out, and writes nothing."""

import hashlib
import os
import shutil

import pytest
import torch
from little import copy_of, forget, results, run

WEIGHTS = "models/train/teacher/seed_0/model.safetensors"


class Hostile:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [flipped, lambda content: content[:1000], lambda content: b"", lambda content: b"<!DOCTYPE html>", "pickle", None],
    ids=["flipped bit", "truncated", "empty", "html", "pickle", "missing"],
)
def test_the_child_refuses_it(server, little_run, tmp_path, damage):
    project = copy_of(little_run, tmp_path / "project")
    forget(project, "distill/kd")
    if damage == "pickle":
        torch.save({"weights": Hostile(tmp_path / "executed")}, project / WEIGHTS)
    elif damage is None:
        (project / WEIGHTS).unlink()
    else:
        (project / WEIGHTS).write_bytes(damage((project / WEIGHTS).read_bytes()))
    before = results(project)
    failed = server.run(project, "distill", "kd")
    assert failed["code"] == 1
    (line,) = [line for line in failed["output"].splitlines() if line.startswith("error:")]
    assert "model.safetensors" in line
    assert "run 'dvc repro'" in line
    assert "Traceback" not in failed["output"]
    assert results(project) == before
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(  # test_glue_results shows of each that the fingerprint changes
    "other", ["data", *(pytest.param(o, marks=pytest.mark.exhaustive) for o in ("params", "code", "environment"))]
)
def test_a_checkpoint_of_something_else_is_never_mixed_in(server, little_run, tmp_path, other):
    """Killed in mid training, changed, run again: the result is that of a run which knew nothing of the first."""
    project = copy_of(little_run, tmp_path / "project")
    shutil.rmtree(project / ".netpress")
    assert server.run(project, "train", "teacher", kill_at="after fit.json")["code"] < 0
    if other == "params":
        path = project / "params.yaml"
        path.write_text(path.read_text().replace("lr: 0.1\n", "lr: 0.2\n"))
    elif other == "code":
        with (project / "stages/train.py").open("a") as stream:
            stream.write("# edited\n")
    elif other == "environment":
        path = project / "params.yaml"
        path.write_text(path.read_text().replace("threads: 1", "threads: 2"))
    else:
        images = project / "data/own/train-images-idx3-ubyte"
        content = bytearray(images.read_bytes())
        content[-5] ^= 255
        images.write_bytes(content)
        server.finish(project, "prepare")
    fresh = shutil.copytree(project, tmp_path / "fresh", symlinks=True)
    shutil.rmtree(fresh / ".netpress")
    output = server.finish(project, "train", "teacher")
    (told,) = [line for line in output.splitlines() if "is not used" in line]
    assert told.startswith("train/teacher seed 0: what a run with other params, data, code or environment left in")
    assert "goes on after" not in output
    server.finish(fresh, "train", "teacher")
    assert results(project) == results(fresh)


@pytest.mark.e2e
def test_a_damaged_model_is_mended_by_dvc_repro(little_run, tmp_path):
    """In the workspace; and where DVC's own cache is damaged, by the way that the error names."""
    project = copy_of(little_run, tmp_path / "project")
    whole = results(project)
    (project / WEIGHTS).write_bytes(flipped((project / WEIGHTS).read_bytes()))
    shutil.rmtree(project / ".netpress/runs/distill")
    assert run(project, "python", "stages/distill.py", "kd").returncode == 1
    done = run(project, "dvc", "repro", "distill@kd")
    assert done.returncode == 0, done.stdout
    assert results(project) == whole

    md5 = hashlib.md5(whole[WEIGHTS], usedforsecurity=False).hexdigest()
    cached = project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    cached.chmod(0o644)
    cached.write_bytes(flipped(whole[WEIGHTS]))
    cached.chmod(0o444)
    shutil.rmtree(project / "models/train/teacher")
    (project / "metrics/distill/kd.json").unlink()
    run(project, "dvc", "checkout")
    assert (project / WEIGHTS).read_bytes() == flipped(whole[WEIGHTS])
    shutil.rmtree(project / ".netpress/runs/distill")
    refused = run(project, "dvc", "repro", "--force", "--single-item", "distill@kd")
    assert refused.returncode != 0
    assert "with --force if that does not help" in refused.stdout
    done = run(project, "dvc", "repro", "--force", "distill@kd")
    assert done.returncode == 0, done.stdout
    assert "train/teacher seed 0: finished before" in done.stdout
    assert results(project) == whole
