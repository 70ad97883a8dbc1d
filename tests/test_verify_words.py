"""What `verify` prints: for people, and the JSON that says the same."""

import json

from netpress.base.words import some
from netpress.verify.findings import Finding
from netpress.verify.full import Result
from netpress.verify.outcome import Output, StageOutcome, Verdict
from netpress.verify.surroundings import Surroundings
from netpress.verify.words import SHOWN, findings_json, findings_text, result_json, result_text

GOOD = StageOutcome("prepare", (Output("data/prepared", Verdict.BIT_EXACT, "1", "1"),), (), 2.04)
BAD = StageOutcome("train@x", (Output("models/train/x", Verdict.DRIFTED, "1", "2", "why"),), ("src/a.py changed",), 9.0)
NOTHING = Surroundings()
NOT_RUN = StageOutcome("aggregate", (), (), None, "was not run, since a stage before it failed")


def result(*outcomes, around=NOTHING, **changes):
    settings = {"commit": "c", "targets": ("train@x",), "margin": 0.02, "left_out": ()} | changes
    return Result(outcomes=outcomes, surroundings=around, **settings)


def test_all_is_well_is_one_line():
    assert result_text(result(GOOD)) == "bit-exact: 1 outputs of 1 stages, 1 bit-exact"


def test_the_first_divergence_its_causes_and_the_environment_are_named():
    around = Surroundings({"cpu": ("A", "B")}, ())
    text = result_text(result(GOOD, BAD, NOT_RUN, around=around))
    assert text.splitlines() == [
        "train@x: models/train/x  drifted  why",
        "aggregate: was not run, since a stage before it failed",
        "drifted: 2 outputs of 3 stages, 1 bit-exact, 1 drifted",
        "equivalent means equal sizes, and accuracies whose difference has its 90 % interval within +-2 points "
        "(--margin); drifted, that it lies beyond; cannot tell, neither",
        "first stage that diverged: train@x; all it reads from other stages was bit-exact",
        "  since the results were made: src/a.py changed",
        "environment, when the results were made and now:",
        "  cpu: A -> B",
    ]


def test_a_divergence_without_a_change_leaves_the_environment():
    same = StageOutcome("train@x", BAD.outputs)
    assert result_text(result(same)).splitlines()[-2:] == [
        "  its code, params and data are those of dvc.lock",
        "environment: the same as when the results were made",
    ]
    unknown = result_text(result(same, around=Surroundings({}, ("train/x",))))
    assert unknown.splitlines()[-1] == "environment: not recorded for train/x"


def test_many_differences_are_cut_in_the_text_and_whole_in_json():
    around = Surroundings({f"key{number:02}": ("a", "b") for number in range(SHOWN + 3)}, ())
    found = result(GOOD, BAD, around=around)
    assert "  and 3 more (--json names them)" in result_text(found)
    assert len(result_json(found)["environment"]["differences"]) == SHOWN + 3


def test_json_holds_every_output_and_can_be_written():
    document = json.loads(json.dumps(result_json(result(GOOD, BAD, NOT_RUN, left_out=("a.py",))), allow_nan=False))
    assert document["verdict"] == "drifted"
    assert document["first_diverged"] == "train@x"
    assert document["not_looked_at"] == ["a.py"]
    assert [stage["seconds"] for stage in document["stages"]] == [2.0, 9.0, None]
    assert document["stages"][1]["outputs"] == [
        {"path": "models/train/x", "verdict": "drifted", "expected": "1", "found": "2", "detail": "why"}
    ]
    assert document["stages"][2]["error"] == "was not run, since a stage before it failed"


def test_findings_name_place_fault_and_remedy():
    finding = Finding("error", "params.yaml", "is wrong", "fix it")
    assert findings_text([finding]) == "error: params.yaml: is wrong\n    fix it\nverify --quick: 1 found"
    assert "nothing found" in findings_text([])
    assert findings_json([])["verdict"] == "passed"
    assert findings_json([finding])["findings"][0]["where"] == "params.yaml"


def test_many_names_are_counted():
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
