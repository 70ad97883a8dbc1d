"""What docs/methods.md tells to write, written: the method runs as an item of params.yaml."""

import ast
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from little import DESIGN, environment, make_project
from ruamel.yaml import YAML

from netpress.base.errors import ConfigError
from netpress.params import plugins
from netpress.params.schema import parse

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/methods.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def blocks():
    """The tutorial's blocks: the method's file, its entry of params.yaml, the line of the contract test."""
    found = re.findall(r"```(python|yaml)\n(.*?)```", TEXT, re.S)
    method, entry, options = found[:3]
    assert [kind for kind, _ in (method, entry, options)] == ["python", "yaml", "python"]
    return method[1], entry[1], options[1]


def test_the_tutorials_method_trains_a_student(blocks, tmp_path):
    method, entry, _ = blocks
    items = YAML(typ="safe").load("distill:\n" + entry)["distill"]
    teacher = DESIGN | {"options": {"width": 2.0}, "epochs": 1, "init": "none", "arch": "compact_cnn"}
    folder = make_project(
        tmp_path / "project", train={"resnet18_strong": teacher, "teacher": teacher}, distill=items, final=[]
    )
    (folder / "src").unlink()
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    place = re.match(r"# (\S+)\n", method)[1]
    (folder / place).write_text(method, encoding="utf-8")
    for stage, variant in (("prepare", []), ("train", ["resnet18_strong"]), ("distill", list(items))):
        command = [sys.executable, f"stages/{stage}.py", *variant]
        env = environment() | {"PYTHONPATH": str(folder / "src")}
        done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
    assert "epoch 7/7" in done.stdout
    assert (folder / f"metrics/distill/{next(iter(items))}.json").is_file()


def test_the_line_of_the_contract_test_has_the_options_of_every_method(blocks):
    method, _, line = blocks
    module = types.ModuleType("logits_mse")
    exec(method, module.__dict__)
    options = ast.literal_eval(line.partition("=")[2].strip())
    assert set(options) == {*plugins.names("distill/losses"), module.__name__}
    assert parse(module.Options, options[module.__name__], "logits_mse").weight == 0.5
    with pytest.raises(ConfigError, match=r"logits_mse\.weight = 2: must be .*share of the teacher in the loss"):
        parse(module.Options, {"weight": 2}, "logits_mse")
