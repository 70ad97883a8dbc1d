"""What DVC runs again after an edit: each file of the package that no trained network follows from, edited in turn."""

import json
import shutil
import subprocess
import sys

import pytest
from little import ROOT, copy_of, environment

#: Edits each file named, asks DVC what is stale, and takes the edit back; prints file -> stages.
SCRIPT = """
import json, sys
from pathlib import Path
from dvc.repo import Repo

repo, found = Repo("."), {}
for name in sys.argv[1:]:
    path = Path(name)
    text = path.read_bytes()
    path.write_bytes(text + b"# edited\\n")
    found[name] = sorted(repo.status())
    path.write_bytes(text)
found["nothing"] = sorted(repo.status())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def stale(little_run, tmp_path_factory):
    """File -> the stages that are stale once it is edited, in a project that is up to date."""
    folder = copy_of(little_run, tmp_path_factory.mktemp("stale") / "project")
    (folder / "src").unlink()
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    package = folder / "src/netpress"
    chosen = [path for part in ("process", "params", "ingest") for path in sorted((package / part).rglob("*.py"))]
    chosen += [package / name for name in ("prune/run.py", "distill/losses/kd.py", "core/engine.py", "report/write.py")]
    names = [path.relative_to(folder).as_posix() for path in chosen]
    command = [sys.executable, "-c", SCRIPT, *names]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        name.removeprefix("src/netpress/"): found for name, found in json.loads(done.stdout.splitlines()[-1]).items()
    }


def test_without_an_edit_nothing_is_stale(stale):
    assert stale["nothing"] == []


def test_an_edit_of_process_or_params_makes_nothing_stale(stale):
    edited = [name for name in stale if name.startswith(("process/", "params/"))]
    assert len(edited) > 12
    assert [name for name in edited if stale[name]] == []


def test_an_edit_of_ingest_makes_prepare_stale_alone(stale):
    edited = [name for name in stale if name.startswith("ingest/")]
    assert len(edited) > 12
    assert [name for name in edited if stale[name] != ["prepare"]] == []


def test_an_edit_of_a_family_or_a_method_makes_its_stages_stale(stale):
    assert stale["prune/run.py"] == ["prune"]
    assert stale["distill/losses/kd.py"] == ["distill@kd"]
    assert stale["report/write.py"] == ["aggregate"]


def test_an_edit_of_core_makes_every_model_stale_and_neither_data_nor_tables(stale):
    models = {"train@teacher", "distill@kd", "lowrank@depthwise", "factorize@tucker", "prune", "quantize@int8"}
    assert models <= set(stale["core/engine.py"])
    assert not {"check", "prepare", "aggregate"} & set(stale["core/engine.py"])
