"""dvc.lock as data: order, ancestors, choice, and what changed."""

import pytest

from netpress.base.errors import ArtifactError
from netpress.verify import plan
from netpress.verify.dvc_lock import Entry, changed_inputs, changed_values, in_order, parents, read_lock, with_ancestors
from netpress.verify.quick_graph import lineage


def entry(deps=(), outs=(), cmd="cmd", params=None):
    deps = deps if isinstance(deps, dict) else dict.fromkeys(deps, "1")
    return Entry(cmd, deps, params or {}, dict.fromkeys(outs, "1"))


LOCK = {
    "aggregate": entry(["metrics/train", "metrics/test", "src/report"], ["metrics/summary.md"]),
    "quantize@q": entry(["models/prune/main/round_2", "data/prepared"], ["models/quantize/q"]),
    "test@train/a": entry(["models/train/a", "data/prepared"], ["metrics/test/train/a.json"]),
    "prune": entry(["models/train/a", "data/prepared"], ["models/prune/main"]),
    "train@a": entry(["data/prepared", "src/a.py"], ["models/train/a", "metrics/train/a.json"]),
    "train@ab": entry(["data/prepared", "src/a.py"], ["models/train/ab", "metrics/train/ab.json"]),
    "prepare": entry(["data/raw"], ["data/prepared"]),
}


def test_parents_are_found_by_path_by_part_and_by_folder():
    assert parents(LOCK, "prune") == {"train@a", "prepare"}
    assert parents(LOCK, "quantize@q") == {"prune", "prepare"}
    assert parents(LOCK, "aggregate") == {"train@a", "train@ab", "test@train/a"}


def test_every_stage_stands_after_its_parents():
    order = in_order(LOCK)
    assert sorted(order) == sorted(LOCK)
    for number, stage in enumerate(order):
        assert parents(LOCK, stage) <= set(order[:number])


def test_a_circle_is_an_error():
    with pytest.raises(ArtifactError, match="circle"):
        in_order({"a": entry(["x"], ["y"]), "b": entry(["y"], ["x"])})


def test_ancestors_are_all_that_is_needed_and_no_more():
    assert with_ancestors(LOCK, ["quantize@q"]) == {"quantize@q", "prune", "train@a", "prepare"}


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("train@a", {"train@a"}),
        ("train", {"train@a", "train@ab"}),
        ("train/ab", {"train@ab"}),
        ("prune/main", {"prune"}),
        ("prune", {"prune"}),
    ],
)
def test_a_name_means_a_stage_a_section_or_a_model(name, stages):
    assert plan.named(LOCK, [name]) == stages


def test_an_unknown_stage_names_the_nearest():
    with pytest.raises(plan.UsageError, match=r"no such stage, did you mean 'quantize@q'\?; known: aggregate"):
        plan.named(LOCK, ["quantise@q"])


def test_a_sample_is_drawn_by_the_commit_among_the_stages_that_make_models():
    makers = {"quantize@q", "prune", "train@a", "train@ab"}
    draws = {frozenset(plan.drawn(LOCK, 1, str(number))) for number in range(40)}
    assert draws == {frozenset([maker]) for maker in makers}
    assert plan.drawn(LOCK, 2, "x") == plan.drawn(LOCK, 2, "x")
    assert plan.drawn(LOCK, 99, "x") == makers


def test_changed_values_name_every_key():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    new = {"a": {"b": 2, "c": [1, 2]}, "d": True, "e": None}
    assert list(changed_values(old, new, "k")) == [("k.a.b", 1, 2), ("k.d", 1, True)]
    assert list(changed_values(old, old, "k")) == []


def test_inputs_that_other_stages_made_are_left_to_them():
    old = Entry("cmd", {"src/a.py": "1", "models/train/a/round_1": "1"}, {"train.a": {"epochs": 1}}, {})
    new = Entry("cmd x", {"src/a.py": "2", "models/train/a/round_1": "2", "b": "1"}, {"train.a": {"epochs": 2}}, {})
    assert changed_inputs(old, new, {"models/train/a"}) == [
        "another command",
        "b is read too",
        "src/a.py changed",
        "train.a.epochs: 1 became 2",
    ]
    assert changed_inputs(old, old, ()) == []


def test_lineage_names_the_stage_that_read_another_content():
    lock = dict(LOCK)
    assert lineage(lock) == []
    lock["prune"] = entry({"models/train/a": "0123456789abcdef", "data/prepared": "1"}, ["models/prune/main"])
    (finding,) = lineage(lock)
    assert finding.where == "dvc.lock: prune"
    assert "models/train/a 0123456789ab, but train@a made 1" in finding.text


def test_read_lock_takes_what_dvc_writes(tmp_path):
    path = tmp_path / "dvc.lock"
    assert read_lock(path) == {}
    path.write_text(
        "schema: '2.0'\nstages:\n  a:\n    cmd: python a.py\n    deps:\n    - path: x\n      hash: md5\n      md5: 12\n"
        "      size: 3\n    params:\n      params.yaml:\n        k: 1.5\n      other.yaml:\n        k: 2\n"
        "    outs:\n    - path: y\n      md5: '34'\n".replace("md5: 12", "md5: 'aa'")
    )
    assert read_lock(path) == {"a": Entry("python a.py", {"x": "aa"}, {"k": 1.5, "other.yaml:k": 2}, {"y": "34"})}


@pytest.mark.parametrize(
    "text", ["<<<<<<< HEAD\nstages:\n", "stages: [1]", "stages: {a: {deps: 3}}", "\x00", "a: b: c"]
)
def test_a_damaged_lock_is_one_error_with_a_remedy(tmp_path, text):
    path = tmp_path / "dvc.lock"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=r"dvc\.lock cannot be read .*restore it from Git"):
        read_lock(path)
