"""dvc.yaml: each stage lists the code from which its results follow, and the params it reads."""

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from netpress.params import families, plugins, reader
from netpress.params.families import FAMILIES, code_of
from netpress.verify import imports

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMS = reader.load(ROOT / "profiles/default.yaml")


def body(stage):
    return STAGES[stage].get("do", STAGES[stage])


def an_item(stage):
    """An item of the section, where the stage makes models."""
    if stage not in FAMILIES:
        return None
    section = getattr(PARAMS, stage)
    return section if stage == "prune" else next(iter(section.values()))


def code_in_dvc_yaml(stage, item):
    """The code among the dependencies, with what dvc.yaml takes from the item."""
    deps = [dep for dep in body(stage)["deps"] if dep.startswith(("src/", "stages/"))]
    return [re.sub(r"\$\{\w+\.(\w+)\}", lambda match: getattr(item, match[1]), dep) for dep in deps]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_code_that_results_follow_from(stage):
    item = an_item(stage)
    assert sorted(code_in_dvc_yaml(stage, item)) == sorted(code_of(stage, item))


@pytest.mark.parametrize("stage", [s for s in STAGES if s != "check"])
def test_that_code_imports_nothing_else(stage):
    """Apart from process/ and params/. `check` never makes anything else, so that no code matters to it."""
    assert imports.uncovered(ROOT, code_of(stage, an_item(stage))) == []


@pytest.mark.parametrize("folder", [choice.folder for family in FAMILIES.values() for choice in family.item.choices])
def test_no_method_imports_more_than_its_stage_follows_from(folder):
    stage = next(s for s, family in FAMILIES.items() if folder in [choice.folder for choice in family.item.choices])
    for name in plugins.names(folder):
        code = [*code_of(stage, an_item(stage)), f"src/netpress/{folder}/{name}.py"]
        assert imports.uncovered(ROOT, code) == [], name


def test_what_is_exempt_carries_values_and_makes_none():
    assert imports.EXEMPT == ("process", "params")
    for stage in STAGES:
        assert not [
            dep for dep in body(stage)["deps"] if dep.startswith(("src/netpress/process", "src/netpress/params"))
        ]


def test_an_import_that_is_not_covered_is_named(tmp_path):
    """The law that the tests above rest on, on a project of three files."""
    for path, text in {
        "stages/x.py": "import netpress.core.a\n",
        "src/netpress/core/a.py": "def f():\n    from netpress.report import b\n    from netpress.params import c\n",
        "src/netpress/report/b.py": "B = 1\n",
        "src/netpress/params/c.py": "import netpress.report.b\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert imports.uncovered(tmp_path, ["stages/x.py", "src/netpress/core"]) == ["src/netpress/report/b.py"]
    assert imports.uncovered(tmp_path, ["stages/x.py"]) == ["src/netpress/core/a.py", "src/netpress/report/b.py"]


def test_packages_hold_words_and_what_is_loaded_when_asked_for():
    """So no result follows from them; see `imports._file_of`. The outermost says how threads wait: it is no value."""
    outermost = ROOT / "src/netpress/__init__.py"
    for path in (ROOT / "src/netpress").rglob("__init__.py"):
        text = path.read_text(encoding="utf-8")
        nodes = ast.parse(text).body[1:]
        if path == outermost:
            nodes = [
                node for node in nodes if ast.unparse(node) != "os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')"
            ]
        kinds = {type(node).__name__ for node in nodes}
        assert kinds <= ({"Import", "ImportFrom", "Assign", "FunctionDef"} if "_LAZY" in text else set()), path


def test_every_section_of_models_has_its_stage_and_every_stage_its_code():
    assert set(STAGES) == {*FAMILIES, *families.OTHERS}


@pytest.mark.parametrize("stage", [s for s in STAGES if s not in ("check", "prepare", "aggregate")])
def test_every_model_stage_reads_the_data_and_writes_a_metrics_file(stage):
    assert "data/prepared" in body(stage)["deps"]
    (metrics,) = body(stage)["metrics"]
    ((path, settings),) = metrics.items()
    assert path.startswith(f"metrics/{stage}/")
    assert settings == {"cache": False}


@pytest.mark.parametrize("stage", FAMILIES)
def test_every_role_of_a_parent_is_a_dependency(stage):
    parents = [m[1] for dep in body(stage)["deps"] if (m := re.fullmatch(r"models/\$\{\w+\.(\w+)\}", dep))]
    assert tuple(parents) == FAMILIES[stage].item.roles


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
    assert check["deps"] == ["stages/check.py", "params.yaml"]
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
