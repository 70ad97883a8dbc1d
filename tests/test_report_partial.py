"""`python -m netpress report`: the tables of what is made so far."""

import json
import sys
from types import SimpleNamespace

import pytest
from little import make_project, run

from netpress.cli.report import up_to_date

CLAIMS = {
    "there": {
        "text": "wide beats narrow",
        "order": ["train/narrow", "train/teacher"],
        "equal": [],
        "margin": 0.01,
    },
    "not_there": {"text": "taught beats alone", "order": ["train/narrow", "distill/kd"], "equal": [], "margin": 0.01},
}
EXPERIMENTS = {
    "both": {
        "title": "Two of three",
        "note": "",
        "rows": [
            {"model": name, "label": name, "val_acc": None, "size": ""}
            for name in ("train/teacher", "distill/kd", "train/narrow")
        ],
    },
    "none": {
        "title": "None yet",
        "note": "",
        "rows": [{"model": "prune/main/round_1", "label": "pruned", "val_acc": None, "size": ""}],
    },
}


def model(parent=None):
    """An item with one role, or none."""
    roles = ("from",) if parent else ()
    return SimpleNamespace(roles=roles, model_dump=lambda by_alias: {"from": parent})


def test_a_model_needs_its_own_stage_and_those_of_its_ancestors():
    items = {
        "distill/last": model("distill/first"),  # a teacher may stand below its student
        "distill/first": model("train/a"),
        "train/a": model(),
        "train/b": model(),
        "prune/main": model("train/b"),
        "quantize/q": model("prune/main/round_2"),
    }
    assert list(up_to_date(items, ())) == list(items)
    assert list(up_to_date(items, {"train@a", "aggregate"})) == ["train/b", "prune/main", "quantize/q"]
    assert list(up_to_date(items, {"prune"})) == ["distill/last", "distill/first", "train/a", "train/b"]
    assert up_to_date(items, {"prepare"}) == {}


@pytest.mark.e2e
def test_one_experiment_gets_its_tables_before_the_rest_is_made(server, tmp_path):
    narrow = {"arch": "compact_cnn", "options": {"width": 0.25}, "recipe": "plain", "epochs": 4, "init": "none"}
    teacher = narrow | {"options": {"width": 0.5}}
    project = make_project(
        tmp_path / "project", train={"teacher": teacher, "narrow": narrow}, claims=CLAIMS, experiments=EXPERIMENTS
    )
    report = (sys.executable, "-m", "netpress", "report")

    nothing = run(project, *report)
    assert nothing.returncode == 1
    assert "no model of params.yaml is up to date; make some, as by 'dvc repro train@narrow'" in nothing.stdout
    assert not (project / "metrics/summary.md").exists()

    ran = [("check", ""), ("prepare", ""), ("train", "teacher"), ("train", "narrow")]
    for stage, variant in ran:
        server.finish(project, stage, *filter(None, [variant]))
    made = run(project, "dvc", "commit", "-q", "-f", *(f"{stage}@{variant}".strip("@") for stage, variant in ran))
    assert made.returncode == 0, made.stdout
    told = run(project, *report)
    assert told.returncode == 0, told.stdout
    assert "left out, since not made or changed since: distill/kd, lowrank/depthwise" in told.stdout
    text = (project / "metrics/summary.md").read_text(encoding="utf-8")
    assert "**Not all models of params.yaml are made yet.** Left out: distill/kd, lowrank/depthwise" in text
    assert "## Two of three" in text and "None yet" not in text
    assert "wide beats narrow" in text and "taught beats alone" not in text
    assert list(json.loads((project / "metrics/summary.json").read_text())["train"]) == ["narrow", "teacher"]
    assert list(json.loads((project / "metrics/claims.json").read_text())) == ["there"]
    assert (project / "plots/claims.png").read_bytes().startswith(b"\x89PNG")

    params = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "params.yaml").write_text(params.replace("width: 0.5", "width: 0.75"), encoding="utf-8")
    changed = run(project, *report)
    assert changed.returncode == 0, changed.stdout
    assert "left out, since not made or changed since: train/teacher, distill/kd" in changed.stdout
