"""Finished seeds and steps are used again only when all that they follow from is the same, and they are intact."""

import pytest

from netpress import store
from netpress.base import files


@pytest.fixture
def calls():
    return []


def finished(root, calls, print_of="p1", content="weights", seed=0):
    def make(work):
        calls.append(seed)
        files.write_text(work.files / f"seed_{seed}/model", content)
        return {"val_acc": 0.5, "content": content}

    return store.finished_seed(root, "train/x", seed, print_of, make, root / "models/train/x")


def test_a_finished_seed_is_not_made_again(tmp_path, calls, capsys):
    first = finished(tmp_path, calls)
    (tmp_path / "models/train/x/seed_0/model").unlink()
    assert finished(tmp_path, calls) == first
    assert calls == [0]
    assert (tmp_path / "models/train/x/seed_0/model").read_text() == "weights"
    assert "train/x seed 0: finished before with the same params, data and code" in capsys.readouterr().out


def test_another_fingerprint_makes_it_again_and_says_so(tmp_path, calls, capsys):
    finished(tmp_path, calls)
    capsys.readouterr()
    assert finished(tmp_path, calls, "p2", "other")["content"] == "other"
    assert calls == [0, 0]
    assert (tmp_path / "models/train/x/seed_0/model").read_text() == "other"
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "what a run with other params, data, code or environment left" in told


def test_another_seed_is_made_beside_it(tmp_path, calls):
    finished(tmp_path, calls)
    finished(tmp_path, calls, "p9", seed=1)
    finished(tmp_path, calls)
    assert calls == [0, 1]


@pytest.mark.parametrize("damage", ["change", "remove", "add", "record", "garbage", "fingerprint"])
def test_what_was_damaged_is_made_again(tmp_path, calls, damage):
    finished(tmp_path, calls)
    kept = tmp_path / store.STORE / "train/x/seed_0"
    if damage == "change":
        (kept / "files/seed_0/model").write_text("weighty")
    elif damage == "remove":
        (kept / "files/seed_0/model").unlink()
    elif damage == "add":
        (kept / "files/seed_0/more").write_text("more")
    elif damage == "record":
        (kept / "steps/seed.json").write_text("{")
    elif damage == "garbage":
        (kept / "steps/seed.json").write_text('["fingerprint"]')
    else:
        (kept / "fingerprint.json").write_text("{}")
    finished(tmp_path, calls)
    assert calls == [0, 0]


def test_an_interrupted_seed_is_not_taken_for_finished(tmp_path, calls):
    def interrupted(work):
        files.write_text(work.files / "seed_0/model", "half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.finished_seed(tmp_path, "train/x", 0, "p1", interrupted, tmp_path / "models/train/x")
    assert not (tmp_path / "models").exists()
    assert finished(tmp_path, calls)["content"] == "weights"


def test_steps_and_checkpoints_go_when_the_seed_is_finished(tmp_path):
    kept = tmp_path / store.STORE / "train/x/seed_0"

    def make(work):
        (work.files / ".model.aside").write_text("a killed process left this")
        files.write_text(work.steps / "fit.json", "{}")
        return work.once("round_1", work.files / "round_1", lambda: {"val_acc": 0.5})

    store.finished_seed(tmp_path, "train/x", 0, "p1", make, tmp_path / "out")
    assert [path.name for path in (kept / "steps").iterdir()] == ["seed.json"]


def test_strays_of_a_killed_run_are_removed_at_the_start(tmp_path):
    kept = tmp_path / store.STORE / "train/x/seed_0"

    def killed(work):
        (work.files / ".model.aside").write_text("half a model")
        raise KeyboardInterrupt

    def make(work):
        assert not list(kept.rglob(".*"))
        return {}

    with pytest.raises(KeyboardInterrupt):
        store.finished_seed(tmp_path, "train/x", 0, "p1", killed, tmp_path / "out")
    store.finished_seed(tmp_path, "train/x", 0, "p1", make, tmp_path / "out")


def test_the_fingerprint_depends_on_facts_and_on_the_code_that_is_used(tmp_path, monkeypatch):
    package = tmp_path / "netpress"
    for name in ("store.py", "engine.py", "cli/use.py", "distill/kd.py", "distill/other.py", "models/_blocks.py"):
        files.write_text(package / name, "")
    monkeypatch.setattr(store, "__file__", str(package / "store.py"))
    script = tmp_path / "distill.py"
    script.write_text("")

    def now(facts=None):
        return store.fingerprint(facts or {"seed": 0}, script, {"distill/kd.py"})

    base = now()
    assert base == now()
    assert base != now({"seed": 1})
    for unrelated in ("cli/use.py", "distill/other.py"):
        files.write_text(package / unrelated, "# edited")
        assert base == now()
    for used in ("engine.py", "distill/kd.py", "models/_blocks.py"):
        files.write_text(package / used, "# edited")
        assert base != now()
        files.write_text(package / used, "")
    script.write_text("# edited")
    assert base != now()
