"""Finished seeds are used again only when all that they follow from is the same, and they are intact."""

import json

import pytest

from netpress import store


@pytest.fixture
def calls():
    return []


def finished(root, calls, print_of="p1", content="weights", seed=0):
    def make(folder):
        calls.append(seed)
        (folder / f"seed_{seed}").mkdir(parents=True)
        (folder / f"seed_{seed}" / "model").write_text(content)
        return {"val_acc": 0.5, "content": content}

    return store.finished_seed(root, "train/x", seed, print_of, make)


def test_a_finished_seed_is_not_made_again(tmp_path, calls, capsys):
    first = finished(tmp_path, calls)
    (tmp_path / "models/train/x/seed_0/model").unlink()
    assert finished(tmp_path, calls) == first
    assert calls == [0]
    assert (tmp_path / "models/train/x/seed_0/model").read_text() == "weights"
    assert "train/x seed 0: finished before with the same params, data and code" in capsys.readouterr().out


def test_another_fingerprint_makes_it_again(tmp_path, calls):
    finished(tmp_path, calls)
    assert finished(tmp_path, calls, "p2", "other")["content"] == "other"
    assert calls == [0, 0]
    assert (tmp_path / "models/train/x/seed_0/model").read_text() == "other"


def test_another_seed_is_made_beside_it(tmp_path, calls):
    finished(tmp_path, calls)
    finished(tmp_path, calls, "p9", seed=1)
    finished(tmp_path, calls)
    assert calls == [0, 1]


@pytest.mark.parametrize("damage", ["change", "remove", "record", "garbage"])
def test_what_was_damaged_is_made_again(tmp_path, calls, damage):
    finished(tmp_path, calls)
    kept = tmp_path / store.STORE / "train/x/seed_0"
    if damage == "change":
        (kept / "files/seed_0/model").write_text("weighty")
    elif damage == "remove":
        (kept / "files/seed_0/model").unlink()
    elif damage == "record":
        (kept / store.RECORD).write_text("{")
    else:
        (kept / store.RECORD).write_text(json.dumps(["fingerprint"]))
    finished(tmp_path, calls)
    assert calls == [0, 0]


def test_an_interrupted_seed_is_not_taken_for_finished(tmp_path, calls):
    def interrupted(folder):
        (folder / "seed_0").mkdir(parents=True)
        (folder / "seed_0" / "model").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.finished_seed(tmp_path, "train/x", 0, "p1", interrupted)
    assert not (tmp_path / "models").exists()
    assert finished(tmp_path, calls)["content"] == "weights"


def test_the_fingerprint_depends_on_facts_and_code(tmp_path, monkeypatch):
    base = store.fingerprint({"seed": 0}, tmp_path)
    assert base == store.fingerprint({"seed": 0}, tmp_path)
    assert base != store.fingerprint({"seed": 1}, tmp_path)
    (tmp_path / "distill.py").write_text("# edited")
    edited = store.fingerprint({"seed": 0}, tmp_path)
    assert base != edited
    monkeypatch.setattr(store, "version", lambda name: "0")
    assert edited != store.fingerprint({"seed": 0}, tmp_path)
