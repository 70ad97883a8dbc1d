"""What docs/methods.md tells to write, written: every file and entry runs, and the contract tests take the files in."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from little import DESIGN, environment, make_project
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
#: Path -> content of every file that the page tells to write.
FILES = {m[1]: m[0] for m in re.finditer(r"# (src/\S+)\n.*?(?=```)", TEXT, re.S)}
#: (section, its entry) of every entry that the page tells to add.
ENTRIES = re.findall(r"```yaml\n# params\.yaml, in the section (\w+)\n(.*?)```", TEXT, re.S)
TESTS = {
    "distill/losses": "test_distillation.py",
    "factorize/methods": "test_factorization.py",
    "prune/scores": "test_pruning_scores.py",
    "quantize/methods": "test_quantization.py",
    "models": "test_models.py",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A little project with those files and entries, and a copy of the tests."""
    sections = {section: {} for section, _ in ENTRIES}
    for section, entry in ENTRIES:
        sections[section] |= YAML(typ="safe").load(f"{section}:\n{entry}")[section]
    small = DESIGN | {"options": {"width": 1.0}, "epochs": 1, "init": "none"}
    large = {"arch": "mobile_student", "options": {"width": 0.5}, "epochs": 1}
    sections["train"] = {"resnet18_strong": small | large, "teacher": small}
    sections["lowrank"] |= {"compact_groups2": DESIGN | {"epochs": 1}}
    options = {"temperature": 4.0, "weight": 0.5, "standardize": False}
    kd = sections["distill"]["mse_strong"] | {"method": "kd", "method_options": options}
    sections["distill"] |= {"kd_strong": kd | {"epochs": 1}}
    for name in ("mse_strong", "similarity_strong"):
        sections["distill"][name]["epochs"] = 1
    sections["prune_sweep"]["slimmed"]["until"] = 0.4
    folder = make_project(tmp_path_factory.mktemp("docs") / "project", **sections, final=[])
    (folder / "src").unlink()
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path, content in FILES.items():
        assert not (ROOT / path).exists(), f"{path} is in the project already"
        (folder / path).write_text(content, encoding="utf-8")
    run(folder, "stages/prepare.py")
    for stage, variant in (("train", "resnet18_strong"), ("lowrank", "compact_groups2"), ("distill", "kd_strong")):
        run(folder, f"stages/{stage}.py", variant)
    return folder


def run(folder, *command):
    env = environment() | {"PYTHONPATH": str(folder / "src")}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_page_has_a_file_and_an_entry_of_each_kind():
    folders = {str(Path(path).parent.relative_to("src/netpress")) for path in FILES}
    assert folders == set(TESTS)
    assert {section for section, _ in ENTRIES} == {"distill", "factorize", "prune_sweep", "quantize", "lowrank"}


@pytest.mark.parametrize(("section", "entry"), ENTRIES, ids=[section for section, _ in ENTRIES])
def test_every_entry_runs(project, section, entry):
    name = re.match(r" +(\w+):", entry)[1]
    stage = "prune" if section == "prune_sweep" else section
    said = run(project, f"stages/{stage}.py", name)
    assert f"{section}/{name}  val " in said
    assert (project / f"metrics/{section}/{name}.json").is_file()


def test_the_contract_tests_run_over_every_file_without_a_change_to_them(project):
    names = [Path(path).stem for path in FILES]
    tests = [f"tests/{name}" for name in TESTS.values()]
    chosen = f"({' or '.join(names)}) and not mobile_student and not resnet18"  # of networks, the smallest
    said = run(project, "-m", "pytest", "-v", "-n", "0", "-p", "no:cacheprovider", *tests, "-k", chosen)
    for path in FILES:
        test = TESTS[Path(path).parent.relative_to("src/netpress").as_posix()]
        assert re.search(rf"{test}::test_\w*contract\w*\[.*{Path(path).stem}.*PASSED", said), f"{path}\n{said}"


def test_every_file_is_covered_by_the_dependencies_of_its_stage(project):
    code = "from pathlib import Path; from netpress.verify.quick_graph import code_findings as f; print(f(Path('.')))"
    assert run(project, "-c", code) == "[]\n"
