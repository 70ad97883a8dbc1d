"""A stage run by hand says what is wrong with its own item with file, line, column and full key, as `check` does."""

import json

import pytest
from little import SECTIONS, copy_of
from ruamel.yaml import YAML


@pytest.fixture(scope="module")
def trained(little_run, tmp_path_factory):
    """A copy whose params.yaml each test changes and puts back."""
    return copy_of(little_run, tmp_path_factory.mktemp("faults") / "project")


def changed(project, change):
    """Edit params.yaml, one key a line, and return what undoes it."""
    path = project / "params.yaml"
    kept = path.read_bytes()
    params = YAML(typ="safe").load(kept.decode())
    change(params)
    yaml = YAML()
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(json.loads(json.dumps(params)), stream)
    return lambda: path.write_bytes(kept)


def place_of(text, key):
    """Line and column of a dotted key in a file of one key a line."""
    parts, depth = key.split("."), 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(f"{'  ' * depth}{parts[depth]}:"):
            depth += 1
            if depth == len(parts):
                return f"params.yaml, line {number}, column {2 * depth - 1}: "
    raise AssertionError(key)


FAULTS = [
    ("train", "teacher", "train.teacher.options.width", "wide", "must be a number"),
    ("train", "teacher", "train.teacher.arch", "compact_cn", "unknown architecture 'compact_cn', did you mean"),
    ("train", "teacher", "train.teacher.init", "resnet.pt", "no file data/weights/resnet.pt"),
    ("distill", "kd", "distill.kd.method_options.temperature", -1.0, "must be a number above 0"),
    ("distill", "kd", "distill.kd.teacher", "train/nobody", "no model 'train/nobody'"),
    ("factorize", "tucker", "factorize.tucker.method_options.rank", 1.5, "must be a number above 0"),
    ("factorize", "tucker", "factorize.tucker.method_options.min_channels", 4096, "leaves all 7 layers"),
    ("prune", "main", "prune.method_options.norm", 3, "must be one of 1, 2"),
    (
        "prune",
        "main",
        "prune.epochs",
        1,
        "the curve takes 2 rounds, each of an epoch or more; raise",
    ),
    ("prune", "main", "prune.control_rounds", [7], "no round 7"),
    ("prune", "main", "prune.until", 0.0001, "removes no further channel"),
    ("quantize", "int8", "quantize.int8.method_options.calibration", "magic", "must be one of"),
    ("quantize", "int8", "quantize.int8.from", "prune/mian", "no model 'prune/mian', did you mean 'prune/main'"),
    ("test", "distill/kd", "runtime.threads", 0, "must be a whole number at least 1"),
    ("prepare", None, "data.source", "imagefoldr", "unknown data source 'imagefoldr', did you mean 'imagefolder'"),
    ("prepare", None, "data.root", "data/nowhere", "does not exist"),
    ("prepare", None, "data.root", "models", "the stages write into models"),
]


@pytest.mark.parametrize(("stage", "variant", "key", "value", "message"), FAULTS, ids=lambda v: str(v)[:40])
def test_the_fault_has_its_place_and_its_full_key(server, trained, stage, variant, key, value, message):
    *parents, last = key.split(".")

    def change(params):
        for part in parents:
            params = params[part]
        params[last] = value

    undo = changed(trained, change)
    try:
        text = (trained / "params.yaml").read_text(encoding="utf-8")
        failed = server.run(trained, stage, *([variant] if variant else []))
    finally:
        undo()
    assert failed["code"] == 1
    (line,) = [line for line in failed["output"].splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: {place_of(text, key)}{key}"), line
    assert message in line
    assert "Traceback" not in failed["output"]


def test_a_student_as_large_as_its_teacher_is_named_by_the_key_that_allows_it(server, trained):
    undo = changed(trained, lambda p: p["distill"]["kd"].update(options=SECTIONS["train"]["teacher"]["options"]))
    try:
        failed = server.run(trained, "distill", "kd")
    finally:
        undo()
    assert failed["code"] == 1
    assert ": distill.kd.allow_larger = false: the student (compact_cnn, " in failed["output"]
