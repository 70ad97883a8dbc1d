"""dvc.yaml: each stage lists the code it imports and the params it reads."""

import re
from pathlib import Path

import pytest
from imports import local_imports
from ruamel.yaml import YAML

from netpress.base import plugins

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
#: What `${...}` in a dependency stands for: the family of plugins below that folder.
FAMILIES = {"models": "models", "distill": "distill", "lowrank": "lowrank", "prune": "prune", "quantize": "quantize"}


def body(stage):
    return STAGES[stage].get("do", STAGES[stage])


def script(stage):
    return ROOT / body(stage)["cmd"].split()[1]


def covered(path, deps):
    name = path.relative_to(ROOT).as_posix()
    return any(name == dep or name.startswith(f"{dep}/") for dep in deps)


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_the_imports_of_the_stage_and_of_its_methods(stage):
    deps = body(stage)["deps"]
    needed = local_imports(script(stage))
    for dep in deps:
        templated = re.fullmatch(r"src/netpress/(\w+)/\$\{[\w.]+\}\.py", dep)
        if templated:
            family = FAMILIES[templated[1]]
            for member in plugins.names(family):
                needed |= local_imports(ROOT / "src/netpress" / family / f"{member}.py")
    missing = sorted(path.relative_to(ROOT).as_posix() for path in needed if not covered(path, deps))
    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_no_code_that_is_not_imported(stage):
    """An edit re-runs what it must and nothing else."""
    imported = local_imports(script(stage)) | {script(stage)}
    for dep in body(stage)["deps"]:
        if not dep.startswith(("src/", "stages/")) or "$" in dep or dep == "src/netpress/sources":
            continue
        path = ROOT / dep
        assert path.exists(), dep
        used = path in imported or any(path in other.parents for other in imported)
        by_plugins = dep == "src/netpress/models/_blocks.py"
        assert used or by_plugins, f"{stage} depends on {dep} without need"


@pytest.mark.parametrize("stage", [s for s in STAGES if s not in ("prepare", "aggregate")])
def test_every_model_stage_reads_the_data_and_writes_a_metrics_file(stage):
    assert "data/prepared" in body(stage)["deps"]
    (metrics,) = body(stage)["metrics"]
    ((path, settings),) = metrics.items()
    assert path.startswith(f"metrics/{stage}/")
    assert settings == {"cache": False}


@pytest.mark.parametrize("stage", STAGES)
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
        assert {"seeds", "runtime"} <= set(params)


def test_aggregate_never_depends_on_models():
    """In a clean clone models are not there, and a dependency on them would turn the gate red."""
    assert not [dep for dep in body("aggregate")["deps"] if dep.startswith("models")]


def test_nothing_prunes_by_an_alias():
    """DVC's -S does not update YAML aliases."""
    for path in [ROOT / "params.yaml", *(ROOT / "profiles").glob("*.yaml")]:
        text = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
        assert not re.search(r"(^|[\s:])[&*]\w", text), path
