"""README's caption says what the committed metrics say, and nothing that they do not allow.

After a run that is to be committed: `git add metrics`, run these tests, which print the caption's new figures. Where
a sentence no longer holds, rewrite it together with its line in `phrases`. The figures come from metrics/summary.json,
that of the pruned shape trained from scratch from metrics/prune/main.json, images from metrics/data.json, the processor
from metrics/environments.json. Results that are not in Git's index, as of a run of one's own, are not README's.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest

from netpress.base.model_id import ModelId
from netpress.params.reader import load
from netpress.report.collect import collect
from netpress.report.curves import CONTROL_VAL_ACC
from netpress.report.differences import BETTER, WORSE, Accuracy, Differences

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def committed_metrics():
    """Leave the tests out where the results are a reader's own, made on another processor or with other params."""
    if not (ROOT / ".git").exists():
        pytest.skip("without Git nobody knows whether the results are the committed ones")
    if subprocess.run(["git", "diff", "--quiet", "--", "metrics"], cwd=ROOT, check=False).returncode:
        pytest.skip("metrics/ is not what Git has: README is held to what is committed")


def committed(name):
    return json.loads((ROOT / f"metrics/{name}.json").read_text(encoding="utf-8"))


def caption():
    """What stands below the first figure, on one line."""
    return " ".join(re.search(r"^\*The default profile.*?(?=^## )", README, re.M | re.S)[0].split())


def models():
    return {f"{stage}/{name}": row for stage, rows in committed("summary").items() for name, row in rows.items()}


def points(one, other):
    """How many points of validation accuracy the first model is better."""
    return 100 * (models()[one]["val_acc"] - models()[other]["val_acc"])


def times(small, large):
    return models()[large]["onnx_bytes"] / models()[small]["onnx_bytes"]


def from_scratch(number):
    """How many points the shape of a round of prune/main is better when it is trained from scratch."""
    row = committed("prune/main")["rounds"][number]
    return 100 * (row["control_val_acc"] - row["val_acc"])


def processor():
    records = committed("environments")
    found = records["environments"][records["results"]["train/resnet18_strong"]["environment"]]
    return f"{found['cpu']}, {found['cpu_capability']}"


INT8, STRONG, PLAIN, PRUNED = "quantize/resnet18_int8", "train/resnet18_strong", "train/plain_cnn", "prune/main"
KD_STRONG, KD_WEAK, GPTQ = "distill/kd_strong", "distill/kd_weak", "quantize/student_gptq4"
IN_WORDS = {1: "one seed", 3: "three seeds"}


def larger_round():
    """The smallest round of prune/main that is as large as the plain network."""
    rows = [r for r in committed(PRUNED)["rounds"] if r["onnx_bytes"] >= models()[PLAIN]["onnx_bytes"]]
    return min(rows, key=lambda r: r["onnx_bytes"])


def percent(model):
    return f"{100 * models()[model]['val_acc']:.2f} %"


def kilobytes(row):
    return f"{row['onnx_bytes'] / 1000:.0f} kB"


def phrases():
    """What the caption says in figures, made from the metrics."""
    images = f"{committed('data')['val_images']:,} validation images"
    pruned = larger_round()
    half, whole = committed(PRUNED)["rounds"][1], models()[STRONG]["macs"]
    return [
        f"{len(models())} models, {IN_WORDS[models()[STRONG]['n_seeds']]} of all that its claims compare",
        f"28x28 pixels, {images}",
        f"made on {processor()}",
        f"ResNet18 at an eighth of its width ({percent(STRONG)}) in int8 is {times(INT8, STRONG):.1f} times smaller",
        f"in 4 bits is {times(GPTQ, KD_STRONG):.1f} times smaller",
        f"pruned to half of its parameters ({100 * half['val_acc']:.2f} %)",
        f"with {100 * half['macs'] / whole:.0f} % of its multiply-adds left",
        f"its shape trained from scratch is {from_scratch(1):.2f} points better among the rounds of this curve",
        f"smallest shape is {from_scratch(-1):.2f} points better when it is trained from scratch",
        f"({percent(PLAIN)}, {kilobytes(models()[PLAIN])}) is level with ResNet18 pruned to {kilobytes(pruned)}",
        f"a stronger teacher's student is {points(KD_STRONG, KD_WEAK):.2f} points better than a weaker one's",
    ]


def test_every_figure_of_the_caption_is_that_of_the_metrics():
    missing = [phrase for phrase in phrases() if phrase not in caption()]
    assert not missing


def test_the_caption_holds_no_figure_that_is_not_checked():
    rest = caption()
    for phrase in phrases():
        rest = rest.replace(phrase, "")
    assert re.findall(r"\d+(?:\.\d+)?", re.sub("ResNet18|int8|4 bits", "", rest)) == []


def verdict(one, other):
    """What the second is beside the first, by the crossed test of these two alone."""
    params = load(ROOT / "params.yaml")
    study = collect(ROOT, params.items(), params.final)
    return Differences(study, [(one, other)]).verdict(one, other)


def test_what_is_told_as_a_difference_is_one_and_what_is_not_is_none():
    last, half = (Accuracy(f"{PRUNED}/round_{number}") for number in (committed(PRUNED)["rounds"][-1]["round"], 1))
    assert verdict(last, Accuracy(last.model_id, CONTROL_VAL_ACC)) == BETTER
    assert verdict(half, Accuracy(half.model_id, CONTROL_VAL_ACC)) == BETTER
    assert verdict(half, Accuracy(STRONG)) not in (BETTER, WORSE)
    assert verdict(Accuracy(f"{PRUNED}/round_{larger_round()['round']}"), Accuracy(PLAIN)) not in (BETTER, WORSE)


def test_claims_are_told_as_they_came_out():
    """Which models they compare, and what they say, is in params.yaml."""
    claims = load(ROOT / "params.yaml").claims
    assert claims["int8"].margin == claims["four_bits"].margin == 0.005
    assert {name: committed("claims")[name]["verdict"] for name in claims} == {
        "distillation": "cannot tell",
        "teacher_strength": "holds",
        "fewer_groups": "cannot tell",
        "pruned_to_half": "cannot tell",
        "pruned_to_a_twentieth": "holds",
        "int8": "holds",
        "four_bits": "holds",
    }


def test_all_that_claims_compare_has_as_many_seeds():
    claims = load(ROOT / "params.yaml").claims.values()
    named = {ModelId(name).base for claim in claims for name in (*claim.order, *claim.equal)}
    assert {models()[name]["n_seeds"] for name in named} == {models()[STRONG]["n_seeds"]}
