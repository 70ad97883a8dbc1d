"""What changed between two commits, as Markdown: claims, accuracies with intervals, sizes; without GitHub."""

import json
import subprocess
import sys

import numpy as np
import pytest
from little import ROOT
from ruamel.yaml import YAML

from netpress.__main__ import main
from netpress.core.metrics import packed
from netpress.process.commands import environ
from netpress.verify.changes import LINES, Revision, compare

IMAGES = 2000


def model(*wrong, **changes):
    right = np.ones(IMAGES, bool)
    right[list(wrong)] = False
    answers = {"val_acc": float(right.mean()), "val_acc_right": [packed(right)], "val_images": IMAGES}
    return answers | {"params": 17_614, "onnx_bytes": 72_875, "val_images_sha256": "a" * 64} | changes


def models(old, new):
    """Return the cells of the only row, and the whole text."""
    text = compare(Revision({"train/x": old}, {}, None), Revision({"train/x": new}, {}, None))
    (line,) = [line for line in text.splitlines() if line.startswith("| train/x")]
    return [cell.strip() for cell in line.strip("| ").split(" | ")], text


OLD = model(*range(200))


@pytest.mark.parametrize(
    ("new", "difference", "word"),
    [
        (model(*range(160)), "+2.00 (+1.39 to +2.61)", "better"),
        (model(*range(240)), "-2.00 (-2.61 to -1.39)", "worse"),
        (model(*range(1, 201)), "0.00 (-0.14 to +0.14)", "equivalent"),
        (model(*range(200, 400)), "0.00 (-1.96 to +1.96)", "cannot tell"),
    ],
)
def test_a_word_for_each_interval(new, difference, word):
    cells, text = models(OLD, new)
    assert cells[2:4] == [difference, word]
    assert "\\*" not in text


def test_accuracies_and_sizes_are_shown_before_and_now_where_they_differ():
    cells, _ = models(OLD, model(*range(160), onnx_bytes=36_400))
    assert (cells[1], cells[4], cells[5]) == ("90.00 → 92.00", "17.61 k", "72.88 kB → 36.40 kB (-50.1 %)")
    cells, _ = models(OLD, OLD | {"params": 9_000})
    assert (cells[1], cells[4], cells[5]) == ("90.00", "17.61 k → 9.00 k (-48.9 %)", "72.88 kB")
    assert models(OLD, OLD | {"onnx_bytes": 72_876})[0][5] == "72.88 kB"


def test_without_the_answers_of_one_side_the_interval_is_wider_and_marked():
    old = {key: value for key, value in OLD.items() if key != "val_acc_right"}
    cells, text = models(old, model(*range(160)))
    assert cells[2:4] == ["+2.00 (+0.23 to +3.77) \\*", "better"]
    assert "\\* Not recorded on both sides which images are right" in text


def test_without_a_number_of_images_nothing_can_be_told_but_by_the_datas():
    old, new = {"val_acc": 0.9}, {"val_acc": 0.95}
    assert models(old, new)[0][2:4] == ["+5.00", "cannot tell"]
    text = compare(Revision({"train/x": old}, {}, None), Revision({"train/x": new}, {}, IMAGES))
    assert "+5.00 (+3.37 to +6.63) \\* |" in text


def test_models_are_judged_together():
    """What is real alone may be chance among many."""
    slightly, plainly = model(*range(206)), model(*range(240))
    new = {f"train/x{k}": model(*range(k, 200 + k)) for k in range(1, 12)} | {"train/a": slightly}
    old = dict.fromkeys(new, OLD)

    def verdicts(**more):
        text = compare(Revision(old | dict.fromkeys(more, OLD), {}, None), Revision(new | more, {}, None))
        rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if "/" in line]
        return {row[1]: row[4] for row in rows}

    assert models(OLD, slightly)[0][3] == "worse"
    assert verdicts()["train/a"] == "equivalent"
    assert verdicts(**{"train/b": plainly})["train/b"] == "worse"


def test_models_on_other_images_are_not_compared():
    cells, _ = models(OLD, model(*range(160)) | {"val_images_sha256": "b" * 64})
    assert cells[2:4] == ["-", "measured on other images"]


def test_models_that_come_and_go_are_named_and_equal_ones_counted():
    same = {"train/a": OLD, "train/b": OLD}
    text = compare(Revision(same | {"train/old": OLD}, {}, None), Revision(same | {"train/new": OLD}, {}, None))
    found = [[cell.strip() for cell in line.split("|")[1:5]] for line in text.splitlines() if "train/" in line]
    assert found == [["train/new", "90.00", "-", "new"], ["train/old", "90.00", "-", "gone"]]
    assert "Models as they were: 2." in text
    assert compare(Revision(same, {}, None), Revision(same, {}, None)) == "Models as they were: 2.\n"
    assert compare(Revision({}, {}, None), Revision({}, {}, None)) == "The results are the same.\n"


def test_claims_have_their_verdicts_and_intervals_before_and_now():
    old = {"c": {"verdict": "cannot tell", "b > a": {"difference": 0.0075, "n": 1}}, "gone": {"verdict": "holds"}}
    new = {"c": {"verdict": "holds", "b > a": {"difference": 0.0125, "n": 3, "low": 0.002, "high": 0.023}}}
    text = compare(Revision({}, old, None), Revision({}, new, None))
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()[2:]]
    assert cells == [
        ["c", "cannot tell", "holds", "changed"],
        ["", "+0.75", "+1.25 (+0.20 to +2.30)", "b > a"][1:],
        ["gone", "holds", "-", "changed"],
    ]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with DVC whose first commit has the tag `one`."""
    (tmp_path / "dvc.yaml").write_text("metrics:\n- metrics/summary.json\n")
    call(tmp_path, "git", "init", "-q")
    call(tmp_path, "git", "config", "user.name", "x")
    call(tmp_path, "git", "config", "user.email", "x@x")
    call(tmp_path, sys.executable, "-m", "dvc", "init", "-q")
    commit(tmp_path, OLD, {"train": {"x": {"val_acc": 0.9}}})
    call(tmp_path, "git", "tag", "one")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(root, *command):
    subprocess.run(command, cwd=root, env=environ(root), check=True, capture_output=True)


def commit(root, metrics, summary, test="{}"):
    for name, text in (("train/x", json.dumps(metrics)), ("summary", json.dumps(summary)), ("test/train/x", test)):
        path = root / "metrics" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    call(root, "git", "add", "-A")
    call(root, "git", "commit", "-qm", "x")


def test_two_commits_are_compared_and_dvcs_table_follows(project, capsys):
    many = {f"k{number}": number for number in range(LINES)}
    commit(project, model(*range(160)), {"train": {"x": {"val_acc": 0.92}}} | many, test="no JSON, and not read")
    (project / "metrics/train/x.json").write_text("not committed, so not read")
    assert main(["diff", "one"]) == 0
    out = capsys.readouterr().out
    assert "| train/x | 90.00 → 92.00 | +2.00 (+1.39 to +2.61) |  better |" in out
    assert "<details><summary>dvc metrics diff</summary>" in out
    assert "and 3 more lines" in out  # two of the header, and one accuracy
    assert main(["diff", "one", "one"]) == 0
    assert capsys.readouterr().out == "Models as they were: 1.\n"


def test_what_cannot_be_compared_is_said(project, capsys):
    assert main(["diff", "nowhere"]) == 1
    assert "Git knows no commit 'nowhere' here; name a commit, branch or tag" in capsys.readouterr().err
    commit(project, [1], {})
    assert main(["diff", "one"]) == 1
    assert "metrics/train/x.json of HEAD is no JSON object; name another commit" in capsys.readouterr().err


def test_no_code_of_a_pull_request_runs_where_a_token_may_write():
    workflow = YAML(typ="safe").load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    writing = {name: job for name, job in workflow["jobs"].items() if "permissions" in job}
    assert [job["permissions"] for job in writing.values()] == [{"pull-requests": "write"}]
    uses = {step.get("uses", "").partition("@")[0] for step in writing["comment"]["steps"]}
    assert uses == {"actions/download-artifact", ""}
    assert "head.repo.full_name == github.repository" in writing["comment"]["if"]
