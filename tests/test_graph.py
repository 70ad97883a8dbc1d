"""dvc.yaml: each stage lists the code it imports and the params it reads."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from netpress.verify.imports import missing_deps, needless_deps

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def body(stage):
    return STAGES[stage].get("do", STAGES[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_the_imports_of_the_stage_and_of_its_methods(stage):
    assert missing_deps(ROOT, body(stage)) == []


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_no_code_that_is_not_imported(stage):
    """An edit re-runs what it must and nothing else."""
    assert needless_deps(ROOT, body(stage)) == []


@pytest.mark.parametrize("stage", [s for s in STAGES if s not in ("check", "prepare", "aggregate")])
def test_every_model_stage_reads_the_data_and_writes_a_metrics_file(stage):
    assert "data/prepared" in body(stage)["deps"]
    (metrics,) = body(stage)["metrics"]
    ((path, settings),) = metrics.items()
    assert path.startswith(f"metrics/{stage}/")
    assert settings == {"cache": False}


@pytest.mark.parametrize("stage", [s for s in STAGES if s != "check"])
def test_params_are_those_that_the_stage_reads(stage):
    """Items are named one by one, so that an edit of one variant re-runs that one alone."""
    params = body(stage)["params"]
    if "foreach" in STAGES[stage] and stage != "test":
        assert params[0] == f"{stage}.${{key}}"
        assert stage not in params
    if stage in ("train", "distill", "lowrank", "factorize", "prune_sweep"):
        assert "recipes.${item.recipe}" in params
    if stage != "prune":
        assert not any(p.startswith("prune.") for p in params)
    if stage not in ("prepare", "aggregate"):
        assert "runtime" in params
        assert ("seeds" in params) == (stage != "test")  # the test stage takes the seeds that its model has


def test_check_reads_all_of_params_and_stands_before_all_other_stages():
    """The whole file, so that unknown keys are seen; not the data, whose absence DVC would name first, in its words."""
    check = body("check")
    assert "params.yaml" in check["deps"]
    assert not [dep for dep in check["deps"] if dep.startswith(("models", "data", "$"))]
    ((out, settings),) = check["outs"][0].items()
    assert settings == {"persist": True}  # without it DVC would take an earlier run's word for params that it knows
    assert out in body("prepare")["deps"]


def test_aggregate_never_depends_on_models():
    """In a clean clone models are not there, and a dependency on them would turn the gate red."""
    assert not [dep for dep in body("aggregate")["deps"] if dep.startswith("models")]


def test_nothing_prunes_by_an_alias():
    """DVC's -S does not update YAML aliases."""
    for path in [ROOT / "params.yaml", *(ROOT / "profiles").glob("*.yaml")]:
        text = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
        assert not re.search(r"(^|[\s:])[&*]\w", text), path


def test_no_stage_depends_on_the_record_of_environments():
    """A hash must not depend on the host, nor may a folder that holds the record be a dependency."""
    for stage in STAGES:
        paths = [*body(stage)["deps"], *body(stage).get("outs", [])]
        names = [path if isinstance(path, str) else next(iter(path)) for path in paths]
        assert not {"metrics", "metrics/environments.json", "."} & set(names), stage
