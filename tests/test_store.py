"""Finished seeds and steps are used again only when all that they follow from is the same, and they are intact."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from netpress.base import files
from netpress.core import resume as store
from netpress.params import reader
from netpress.params.families import code_of

ROOT = Path(__file__).parent.parent


@pytest.fixture
def calls():
    return []


def finished(root, calls, fingerprint="p1", content="weights", seed=0, wait=True):
    def make(work):
        calls.append(seed)
        files.write_text(work.models / f"seed_{seed}/model", content)
        return {"val_acc": 0.5, "content": content}

    return store.finished_seed(root, "train/x", seed, fingerprint, make, root / "models/train/x", wait)


def test_a_finished_seed_is_not_made_again(tmp_path, calls, capsys):
    first = finished(tmp_path, calls)
    (tmp_path / "models/train/x/seed_0/model").unlink()
    assert capsys.readouterr().out == ""
    assert finished(tmp_path, calls) == first
    assert calls == [0]
    assert (tmp_path / "models/train/x/seed_0/model").read_text() == "weights"
    assert "train/x seed 0: finished before with the same params, data and code" in capsys.readouterr().out


def test_another_fingerprint_makes_it_again_and_says_so(tmp_path, calls, capsys):
    def killed(work):
        files.write_text(work.steps / "fit.json", "{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.finished_seed(tmp_path, "train/x", 0, "p1", killed, tmp_path / "out")
    calls.append(0)
    assert finished(tmp_path, calls, "p2", "other")["content"] == "other"
    assert calls == [0, 0]
    assert (tmp_path / "models/train/x/seed_0/model").read_text() == "other"
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "what a run with other params, data, code or environment left" in told


def test_of_a_finished_run_under_another_fingerprint_nothing_is_said(tmp_path, calls, capsys):
    finished(tmp_path, calls)
    assert finished(tmp_path, calls, "p2", "other")["content"] == "other"
    assert calls == [0, 0]
    assert (tmp_path / "models/train/x/seed_0/model").read_text() == "other"
    assert capsys.readouterr().out == ""


def test_a_seed_that_another_process_is_at_is_left_or_waited_for(tmp_path, calls, capsys):
    def made_elsewhere(work):
        assert finished(tmp_path, calls, wait=False) is None  # a lock is per handle, as it is per process
        files.write_text(work.models / "seed_0/model", "weights")
        return {"val_acc": 0.5, "content": "weights"}

    row = store.finished_seed(tmp_path, "train/x", 0, "p1", made_elsewhere, None)
    assert not (tmp_path / "models").exists()
    assert finished(tmp_path, calls, wait=False) == row
    assert calls == [] and "taken from" in capsys.readouterr().out
    assert (tmp_path / "models/train/x/seed_0/model").read_text() == "weights"


def test_another_seed_is_made_beside_it(tmp_path, calls):
    finished(tmp_path, calls)
    finished(tmp_path, calls, "p9", seed=1)
    finished(tmp_path, calls)
    assert calls == [0, 1]


@pytest.mark.parametrize("damage", ["change", "remove", "add", "record", "garbage", "fingerprint"])
def test_what_was_damaged_is_made_again(tmp_path, calls, capsys, damage):
    finished(tmp_path, calls)
    kept = tmp_path / store.STORE / "train/x/seed_0"
    if damage == "change":
        (kept / "models/seed_0/model").write_text("weighty")
    elif damage == "remove":
        (kept / "models/seed_0/model").unlink()
    elif damage == "add":
        (kept / "models/seed_0/more").write_text("more")
    elif damage == "record":
        (kept / "steps/seed.json").write_text("{")
    elif damage == "garbage":
        (kept / "steps/seed.json").write_text('["fingerprint"]')
    else:
        (kept / "fingerprint.json").write_text("{}")
    finished(tmp_path, calls)
    assert calls == [0, 0]
    assert "finished before" not in capsys.readouterr().out


def test_an_interrupted_seed_is_not_taken_for_finished(tmp_path, calls):
    def interrupted(work):
        files.write_text(work.models / "seed_0/model", "half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.finished_seed(tmp_path, "train/x", 0, "p1", interrupted, tmp_path / "models/train/x")
    assert not (tmp_path / "models").exists()
    assert finished(tmp_path, calls)["content"] == "weights"


def test_steps_and_checkpoints_go_when_the_seed_is_finished(tmp_path):
    kept = tmp_path / store.STORE / "train/x/seed_0"

    def make(work):
        (work.models / ".model.aside").write_text("a killed process left this")
        files.write_text(work.steps / "fit.json", "{}")
        return work.once("round_1", work.models / "round_1", lambda: {"val_acc": 0.5})

    store.finished_seed(tmp_path, "train/x", 0, "p1", make, tmp_path / "out")
    assert [path.name for path in (kept / "steps").iterdir()] == ["seed.json"]


def test_strays_of_a_killed_run_are_removed_at_the_start(tmp_path):
    kept = tmp_path / store.STORE / "train/x/seed_0"

    def killed(work):
        (work.models / ".model.aside").write_text("half a model")
        raise KeyboardInterrupt

    def make(work):
        assert not list(kept.rglob(".*"))
        return {}

    with pytest.raises(KeyboardInterrupt):
        store.finished_seed(tmp_path, "train/x", 0, "p1", killed, tmp_path / "out")
    store.finished_seed(tmp_path, "train/x", 0, "p1", make, tmp_path / "out")


def test_a_seed_that_was_killed_at_its_very_start_is_made_without_a_word(tmp_path, calls, capsys):
    (tmp_path / store.STORE / "train/x/seed_0").mkdir(parents=True)
    finished(tmp_path, calls)
    assert calls == [0]
    assert capsys.readouterr().out == ""


def test_code_is_that_of_the_files_and_folders_named(tmp_path):
    for name in (
        "stages/distill.py",
        "src/netpress/core/engine.py",
        "src/netpress/cli/use.py",
        "src/kd.py",
        "src/other.py",
    ):
        files.write_text(tmp_path / name, "")

    def now():
        return store.code_hashes(tmp_path, ["stages/distill.py", "src/netpress/core", "src/kd.py"])

    base = now()
    assert base.keys() == {"stages/distill.py", "src/netpress/core/engine.py", "src/kd.py"}
    for unrelated in ("src/netpress/cli/use.py", "src/other.py"):
        files.write_text(tmp_path / unrelated, "# edited")
        assert base == now()
    for used in base:
        files.write_text(tmp_path / used, "# edited")
        assert base != now()
        files.write_text(tmp_path / used, "")


def test_an_edit_of_one_family_leaves_the_seeds_of_another(tmp_path):
    """What each section's seeds follow from: pruning's code is no part of train's."""
    items = reader.load(ROOT / "profiles/default.yaml").items()
    code = {name.split("/")[0]: code_of(name.split("/")[0], item) for name, item in items.items()}
    for section, files_of in code.items():
        assert ("src/netpress/prune/run.py" in files_of) == section.startswith("prune"), section
        assert ("src/netpress/core" in files_of) and "src/netpress/params" not in files_of, section


def test_what_is_kept_is_computed_once_until_something_changes(tmp_path, calls):
    def make():
        calls.append("made")
        return b"logits %d" % len(calls)

    path = tmp_path / "targets/seed_0.bin"
    assert [store.kept(path, "p1", "targets", make) for _ in range(2)] == [b"logits 1"] * 2
    assert [store.kept(path, "p2", "targets", make) for _ in range(2)] == [b"logits 2"] * 2
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["seed_0.bin", "seed_0.json"])
def test_what_is_kept_and_damaged_is_made_again_and_said(tmp_path, capsys, name):
    path = tmp_path / "targets/seed_0.bin"
    store.kept(path, "p1", "targets", lambda: b"logits")
    harmed = path.with_name(name)
    harmed.write_bytes(harmed.read_bytes().replace(b"1", b"2").replace(b"s", b"z"))
    assert capsys.readouterr().out == ""
    assert store.kept(path, "p1", "targets", lambda: b"again") == b"again"
    assert f"targets: {harmed} " in capsys.readouterr().out


def test_of_two_that_want_the_same_at_once_one_makes_it(tmp_path, calls):
    begun = threading.Event()

    def make():
        begun.set()
        calls.append("made")
        time.sleep(0.2)  # so that the other comes while it is being made
        return b"logits"

    def second():
        begun.wait(30)
        return want()

    def want():
        return store.kept(tmp_path / "seed_0.bin", "p1", "targets", make)

    with ThreadPoolExecutor(2) as pool:
        assert [found.result() for found in (pool.submit(want), pool.submit(second))] == [b"logits"] * 2
    assert calls == ["made"]
