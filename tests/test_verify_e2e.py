"""`python -m netpress verify` on a finished run: it comes out again, and what is planted is found and named."""

import json
import os

import pytest
from project import ALL_STAGES

from netpress.base import files

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("smoke_run")]

VERIFY = ("python", "-m", "netpress", "verify")


def verify(project, *arguments):
    """Run the command with --json; return its exit code, its document and what it said on the way."""
    done = project.call(*VERIFY, "--json", *arguments)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def findings(project):
    code, document, _ = verify(project, "--quick")
    assert code == (1 if document["findings"] else 0)
    return {f"{f['where']}: {f['text']}" for f in document["findings"]}


def edit_json(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


CHAIN = {"check", "prepare", "train@teacher", "distill@kd", "quantize@student_fp16"}


@pytest.mark.parametrize(
    ("arguments", "stages"),
    [
        (["--stage", "quantize@student_fp16"], CHAIN),
        pytest.param([], ALL_STAGES, marks=pytest.mark.exhaustive),  # over a minute; CI runs other committed results
    ],
    ids=["a chain", "all"],
)
def test_a_run_comes_out_bit_exact(project, arguments, stages):
    code, document, progress = verify(project, *arguments)
    not_exact = [o for s in document["stages"] for o in s["outputs"] if o["verdict"] != "bit-exact"]
    assert (code, document["verdict"], document["first_diverged"], not_exact) == (0, "bit-exact", None, [])
    assert {stage["stage"] for stage in document["stages"]} == stages
    assert all(stage["outputs"] and stage["seconds"] > 0 for stage in document["stages"])
    assert document["environment"]["differences"] == {}
    assert document["commit"] == project.head
    assert progress.count(" bit-exact ") == len(stages)
    assert f"{len(stages)}/{len(stages)}" in progress
    assert project._git("status", "--porcelain") == ""


@pytest.mark.exhaustive  # CI runs a sample of the committed results besides
def test_a_sample_runs_what_the_commit_draws(project):
    code, document, progress = verify(project, "--sample", "1")
    assert code == 0
    (target,) = document["targets"]
    assert target.split("@")[0] in ("train", "distill", "lowrank", "factorize", "prune", "prune_sweep", "quantize")
    assert document["stages"][-1]["stage"] == target
    assert f"for {target}" in progress


def test_quick_finds_nothing_here_and_in_a_clone_with_nothing_pulled(project, tmp_path):
    assert findings(project) == set()
    project.run("git", "clone", "-q", ".", str(tmp_path / "clone"))
    done = project.call("sh", "-c", f"cd {tmp_path}/clone && PYTHONPATH=$PWD/src python -m netpress verify --quick")
    assert (done.returncode, "nothing found" in done.stdout) == (0, True)


def test_one_weight_changed_in_a_model_is_named_although_dvc_sees_nothing(project):
    path = project.folder / "models/distill/kd/seed_0/model.safetensors"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    try:
        (found,) = findings(project)
    finally:
        path.unlink()  # so that the next checkout brings the true one
    assert found.startswith("models/distill/kd: models/distill/kd/seed_0/model.safetensors is not what was written")


@pytest.mark.exhaustive  # test_verify_quick changes each file in turn in every suite
def test_one_metric_changed_is_named(project):
    edit_json(project.folder / "metrics/train/student_alone.json", lambda m: m.update(val_acc=m["val_acc"] + 0.01))
    found = findings(project)
    assert "metrics/train/student_alone.json: is not what train@student_alone made" in found
    assert any("its seal does not fit" in text for text in found)


def test_one_metric_changed_with_its_seal_is_named_with_its_tables(project):
    path = project.folder / "metrics/train/student_alone.json"
    metrics = files.read_sealed(path, "")
    files.write_sealed(path, metrics | {"val_acc": metrics["val_acc"] + 0.01})
    found = findings(project)
    assert "metrics/train/student_alone.json: is not what train@student_alone made" in found
    assert "metrics/summary.md: does not follow from params.yaml and metrics/" in found


@pytest.mark.exhaustive  # likewise
def test_one_param_changed_is_named_with_its_stages(project):
    project.edit(lambda params: params["distill"]["kd"]["method_options"].update(weight=0.2))
    project.commit("a param, and no run")
    assert findings(project) == {
        "params.yaml: changed since check ran",
        "params.yaml: distill.kd.method_options.weight changed from 0.7 to 0.2 since distill@kd, aggregate ran",
    }


def test_one_stages_code_changed_is_named_with_its_stages(project):
    with (project.folder / "stages/lowrank.py").open("a", encoding="utf-8") as stream:
        stream.write("# a comment\n")
    project.commit("code, and no run")
    assert findings(project) == {"stages/lowrank.py: changed since lowrank@compact_groups2 ran"}


@pytest.mark.exhaustive  # test_verify_equivalence has the verdict, the tests here the names
def test_code_that_changes_one_weight_is_equivalent_and_named(project):
    with (project.folder / "src/netpress/core/artifacts.py").open("a", encoding="utf-8") as stream:
        stream.write(
            "\n\n_exact = weights_as_bytes\n\n\ndef weights_as_bytes(network: nn.Module) -> bytes:\n"
            "    with torch.no_grad():\n        next(network.parameters()).view(-1)[0] += 1e-3\n"
            "    return _exact(network)\n"
        )
    project.commit("one weight, and no run")
    code, document, _ = verify(project, "--stage", "train/student_alone")
    assert (code, document["verdict"], document["first_diverged"]) == (3, "equivalent", "train@student_alone")
    _, prepare, train = document["stages"]
    assert prepare["verdict"] == "bit-exact"
    assert train["changed"] == ["src/netpress/core changed"]
    assert {o["path"]: o["verdict"] for o in train["outputs"]} == {
        "models/train/student_alone": "equivalent",
        "metrics/train/student_alone.json": "equivalent",
    }


@pytest.mark.exhaustive  # --quick names it in every suite, and test_verify_outcome judges the drift
def test_a_param_changed_without_a_run_has_drifted_and_is_named(project):
    project.edit(lambda params: params["train"]["student_alone"].update(epochs=2))
    project.commit("a param, and no run")
    done = project.call(*VERIFY, "--stage", "train@student_alone")
    assert done.returncode == 1
    assert "metrics/train/student_alone.json  drifted  epochs 1 became 2" in done.stdout
    assert "first stage that diverged: train@student_alone" in done.stdout
    assert "since the results were made: train.student_alone.epochs: 1 became 2" in done.stdout
