"""Claims on made-up accuracies: what holds, what fails, what nobody can tell."""

import json
import re

import pytest
from report_samples import right, sample_params, study_in, write, write_metrics
from scipy.stats import t

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.params.whole import Claim
from netpress.report import claims_figure, style
from netpress.report.claims import (
    FAILS,
    HOLDS,
    OPEN,
    Comparison,
    Judged,
    as_metrics,
    claims_table,
    judge,
)
from netpress.report.crossed import Crossed, Seeds
from netpress.report.write import write_report

pytestmark = pytest.mark.usefixtures("tables_alone")


def seen(difference, half=0.01, k=3, degrees=20):
    """A comparison with this difference and half of this 95 % interval."""
    error = half / t.ppf(0.975, 4 * degrees)  # half of the variance is the seeds', so Hillis's are four times as many
    whole = k * 2000 * error**2
    if k == 1:
        return Crossed(k, 2000, difference, None, whole, 0.0)
    return Crossed(k, 2000, difference, Seeds(whole / 2, degrees), whole / 2, 0.0)


@pytest.mark.parametrize(
    ("difference", "expected"),
    [(0.03, HOLDS), (0.011, HOLDS), (0.009, OPEN), (0.0, OPEN), (-0.009, OPEN), (-0.03, FAILS)],
)
def test_an_order_is_judged_by_the_interval(difference, expected):
    assert verdict(difference) == expected


def test_a_comparison_says_what_it_found():
    said = str(Comparison("a", "b", None, 0.03, seen(0.03)))
    assert said == "b > a: +3.00 points (+2.00 to +4.00), holds"
    assert re.fullmatch(
        r"b = a: \+0\.10 points \(90 %: .*\), holds", str(Comparison("a", "b", 0.02, 0.001, seen(0.001)))
    )
    assert str(Comparison("a", "b", None, 0.03, None)) == "b > a: +3.00 points, cannot tell"


def verdict(difference, margin=None, **options):
    return Comparison("a", "b", margin, difference, seen(difference, **options)).verdict


@pytest.mark.parametrize(
    ("difference", "margin", "expected"),
    [
        (0.0, 0.02, HOLDS),
        (0.0, 0.0095, HOLDS),  # within by the 90 % interval of two one-sided tests, not by that of 95 %
        (0.0, 0.005, OPEN),
        (0.019, 0.02, OPEN),
        (0.025, 0.02, OPEN),
        (0.035, 0.02, FAILS),
        (-0.035, 0.02, FAILS),
    ],
)
def test_equality_is_two_one_sided_tests(difference, margin, expected):
    assert verdict(difference, margin) == expected


def test_one_seed_decides_of_two_networks():
    assert verdict(0.05, k=1) == HOLDS
    assert verdict(0.005, k=1) == OPEN


def test_what_would_decide_is_said_where_it_is_open_and_something_would():
    said = Comparison("a", "b", None, 0.009, seen(0.009)).would_decide
    assert re.fullmatch(r"\d+ seeds or [\d,]+ images", said)
    assert Comparison("a", "b", None, 0.05, seen(0.05)).would_decide == "-"
    assert re.fullmatch(r"\d+ seeds", Comparison("a", "b", 0.01, 0.004, seen(0.004)).would_decide)
    assert re.fullmatch(r"[\d,]+ images", Comparison("a", "b", 0.01, 0.004, seen(0.004, k=1)).would_decide)
    assert Comparison("a", "b", 0.009, 0.009, seen(0.009)).would_decide == "-"  # as large as the margin
    assert re.fullmatch(r"\d+ seeds or [\d,]+ images", Comparison("a", "b", 0.01, 0.018, seen(0.018)).would_decide)
    assert Comparison("a", "b", None, 0.009, None).would_decide == "-"
    assert re.fullmatch(r"[\d,]+ images", Comparison("a", "b", None, 0.009, seen(0.009, k=1)).would_decide)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [((HOLDS, HOLDS), HOLDS), ((HOLDS, OPEN), OPEN), ((OPEN, FAILS), FAILS), ((HOLDS, FAILS), FAILS)],
)
def test_a_claim_is_as_good_as_its_worst_comparison(verdicts, expected):
    middle = {HOLDS: 0.02, FAILS: -0.02, OPEN: 0.0}
    compared = tuple(Comparison("a", "b", None, middle[verdict], seen(middle[verdict])) for verdict in verdicts)
    assert Judged("c", "text", compared).verdict == expected


def claim(**changes):
    values = {"text": "one beats the other", "order": [], "equal": [], "margin": 0.01} | changes
    return Claim.model_validate(values)


CLAIMS = {
    "up": claim(order=["train/student_alone", "distill/kd_weak", "distill/kd_strong"]),
    "down": claim(order=["lowrank/compact_plain", "lowrank/compact_depthwise"]),
    "same": claim(equal=["train/large_cnn", "train/resnet18_strong"]),
    "round": claim(order=["prune/main/round_2", "train/resnet18_strong"]),
}


def test_claims_are_written_and_shown(tmp_path):
    params = sample_params(claims=CLAIMS)
    write_metrics(tmp_path, params, seeds=3)
    write_report(tmp_path, study_in(tmp_path, params))
    found = json.loads((tmp_path / "metrics/claims.json").read_text())
    assert {name: entry["verdict"] for name, entry in found.items()} == {
        "up": OPEN,  # by 0.4 points, of which 2,000 images tell nothing
        "down": FAILS,
        "same": HOLDS,
        "round": HOLDS,
    }
    first = found["up"]["distill/kd_weak > train/student_alone"]
    assert (first["n"], first["difference"]) == (3, pytest.approx(0.0038, abs=1e-3))
    assert first["low"] < first["difference"] < first["high"]
    report = (tmp_path / "metrics/summary.md").read_text()
    assert "## Claims" in report
    assert "crossed test" in report


def test_metrics_that_do_not_say_which_images_are_right_decide_nothing(tmp_path):
    params = sample_params(claims=CLAIMS)
    made = write_metrics(tmp_path, params, seeds=3)
    for model_id in {model for entry in CLAIMS.values() for model in (*entry.order, *entry.equal)} & made.keys():
        rows = made[model_id], *made[model_id].get("rounds", [])
        for row in rows:
            row.pop("val_acc_right")
        write(tmp_path, model_id, made[model_id])
    judged = judge(study_in(tmp_path, params))
    assert {entry.verdict for entry in judged if entry.name != "round"} == {OPEN}
    assert "low" not in as_metrics(judged)["up"]["distill/kd_weak > train/student_alone"]


def with_controls(made, **accuracies):
    """Give rounds of prune/main controls of these accuracies, one a seed."""
    for number, accuracy in accuracies.items():
        row = made["prune/main"]["rounds"][int(number.removeprefix("round_"))]
        by_seed = [accuracy] * 3
        row |= {"control_val_acc": accuracy, "control_val_acc_by_seed": by_seed}
        row["control_val_acc_right"] = right(f"control {number}", by_seed)
    return made["prune/main"]


def test_a_claim_may_be_about_controls(tmp_path):
    rounds = ["prune/main/round_1/control", "prune/main/round_1"]
    last = ["prune/main", "prune/main/control"]
    params = sample_params(claims={"half": claim(order=rounds), "twentieth": claim(order=last)})
    made = write_metrics(tmp_path, params, seeds=3)
    number = made["prune/main"]["rounds"][-1]["round"]
    main = with_controls(made, round_1=0.8, **{f"round_{number}": 0.95})
    write(tmp_path, "prune/main", main)
    half, twentieth = judge(study_in(tmp_path, params))
    assert (half.verdict, twentieth.verdict) == (HOLDS, HOLDS)
    assert half.comparisons[0].difference == pytest.approx(main["rounds"][1]["val_acc"] - 0.8, abs=1e-3)
    assert twentieth.comparisons[0].difference == pytest.approx(0.95 - main["val_acc"], abs=1e-3)
    assert "prune/main/round_1 > prune/main/round_1/control" in claims_table([half])


def test_a_claim_about_a_control_that_is_not_made_says_what_to_run(tmp_path):
    for name in ("prune/main/round_1/control", "prune/main/control"):
        params = sample_params(claims={"half": claim(order=["train/student_alone", name])})
        write_metrics(tmp_path, params)
        with pytest.raises(
            ArtifactError, match=r"prune/main\.json lists no control of 'prune/main/round_\d'; run 'dvc"
        ):
            judge(study_in(tmp_path, params))


def seeded(made, model_id, *accuracies, seeds=(0, 1, 2)):
    """Return the metrics of a model with these accuracies."""
    mean, bits = sum(accuracies) / len(accuracies), right(model_id, accuracies)
    values = {"val_acc": mean, "val_acc_by_seed": list(accuracies), "val_acc_right": bits, "seeds": list(seeds)}
    return made[model_id] | values


def test_the_ends_of_an_order_can_contradict_it_where_its_neighbours_cannot(tmp_path):
    order = ["train/student_alone", "distill/kd_weak", "distill/kd_strong"]
    params = sample_params(claims={"up": claim(order=order)})
    made = write_metrics(tmp_path, params, seeds=3)
    for model_id, values in zip(order, [(0.80, 0.80, 0.80), (0.78, 0.81, 0.79), (0.78, 0.78, 0.78)], strict=True):
        write(tmp_path, model_id, seeded(made, model_id, *values))
    (up,) = judge(study_in(tmp_path, params))
    assert [c.verdict for c in up.comparisons] == [OPEN, FAILS, OPEN]
    assert (up.comparisons[1].first, up.comparisons[1].second) == (order[0], order[2])
    assert up.verdict == FAILS


def test_both_kinds_of_one_claim_give_the_worse_verdict(tmp_path):
    both = claim(
        order=["lowrank/compact_depthwise", "lowrank/compact_plain"], equal=["train/plain_cnn", "train/large_cnn"]
    )
    params = sample_params(claims={"both": both})
    write_metrics(tmp_path, params, seeds=3)
    (judged,) = judge(study_in(tmp_path, params))
    assert [c.verdict for c in judged.comparisons] == [HOLDS, FAILS]
    assert judged.verdict == FAILS


def test_a_claim_without_common_seeds_cannot_be_told(tmp_path):
    params = sample_params(claims={"up": claim(order=["train/student_alone", "distill/kd_weak"])})
    made = write_metrics(tmp_path, params)
    write(tmp_path, "distill/kd_weak", seeded(made, "distill/kd_weak", 0.95, 0.97, seeds=(7, 8)) | {"n_seeds": 2})
    (up,) = judge(study_in(tmp_path, params))
    assert (up.verdict, up.comparisons[0].n) == (OPEN, 0)
    assert up.comparisons[0].difference == pytest.approx(0.96 - 0.8895)


@pytest.mark.parametrize("missing", [("seeds",), ("seeds", "val_acc_right"), ("val_acc_right",)])
def test_metrics_that_name_no_seeds_are_no_pair(tmp_path, missing):
    params = sample_params(claims=CLAIMS)
    made = write_metrics(tmp_path, params, seeds=3)
    for model_id in CLAIMS["up"].order[1:]:
        write(tmp_path, model_id, {key: value for key, value in made[model_id].items() if key not in missing})
    up = judge(study_in(tmp_path, params))[0]
    assert [(c.n, c.verdict) for c in up.comparisons] == [(0, OPEN), (0, OPEN)]
    assert up.comparisons[0].difference == pytest.approx(0.8930 - 0.8895)


@pytest.mark.parametrize(("seeds", "words"), [([0, 1], "3 values for 2 seeds"), ([0, 1, 1], "twice")])
def test_accuracies_of_other_seeds_than_the_metrics_name_are_refused(tmp_path, seeds, words):
    params = sample_params(claims=CLAIMS)
    made = write_metrics(tmp_path, params, seeds=3)
    write(tmp_path, "distill/kd_weak", made["distill/kd_weak"] | {"seeds": seeds})
    with pytest.raises(ArtifactError, match=rf"metrics/distill/kd_weak\.json is damaged .*{words}.*dvc repro"):
        study_in(tmp_path, params)


def test_a_claim_about_a_model_that_params_lack_names_it(tmp_path):
    params = sample_params(claims={"up": claim(order=["train/gone", "train/large_cnn"])})
    write_metrics(tmp_path, params)
    with pytest.raises(ArtifactError, match=r"params\.yaml has no model 'train/gone'"):
        judge(study_in(tmp_path, params))


def test_what_is_written_has_fewer_digits_than_computers_disagree_on():
    found = as_metrics([Judged("c", "text", (Comparison("a", "b", None, 0.1 + 0.2, seen(0.1 + 0.2, 1 / 30)),))])
    assert found["c"]["b > a"] == {"n": 3, "difference": 0.3, "low": 0.266667, "high": 0.333333}


def test_the_figure_shows_every_kind_of_comparison_and_cuts_no_text_off():
    tests = [seen(0.03), seen(-0.03), seen(0.0), None]
    names = "lowrank/compact_depthwise_9mb", "lowrank/compact_plain"
    compared = tuple(
        Comparison(*names, margin, test.difference if test else 0.0, test) for margin in (None, 0.005) for test in tests
    )
    lines = [(Judged("strong_distilled", "text", compared), comparison) for comparison in compared]
    found = []

    def draw(figure):
        claims_figure._draw(lines, figure)
        figure.draw_without_rendering()
        (axes,), (legend,) = figure.axes, figure.legends
        boxes = [text.get_window_extent() for text in (axes.xaxis.label, *axes.get_yticklabels(), legend)]
        found.append([box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes])
        found.append([text.get_text() for text in legend.get_texts()])

    style.render(draw, (9.6, 5.0))
    assert found[0] == [True] * 10
    assert found[1] == [HOLDS, FAILS, OPEN, "95 % interval", "90 %, within: equal", "margin"]


def test_the_figure_draws_the_interval_that_equality_is_judged_by():
    close = Comparison("train/a", "train/b", 0.0095, 0.0, seen(0.0))
    found = []

    def draw(figure):
        claims_figure._draw([(Judged("same", "text", (close,)), close)], figure)
        axes = figure.axes[0]
        found.extend(sorted(max(line.get_xdata()) for line in axes.lines if len(set(line.get_xdata())) == 2))

    style.render(draw, (9.6, 5.0))
    assert close.verdict == HOLDS
    inner, outer = found
    assert inner < 0.95 < outer == pytest.approx(1.0)


def test_models_with_seeds_of_their_own_are_paired_by_seed(tmp_path):
    params = sample_params(claims=CLAIMS)
    made = write_metrics(tmp_path, params, seeds=3)
    path = tmp_path / "metrics/distill/kd_strong.json"
    alone = seeded(made, "distill/kd_strong", 0.95, seeds=(1,)) | {"n_seeds": 1}
    write(tmp_path, "distill/kd_strong", alone)
    assert files.read_sealed(path, "")["seeds"] == [1]
    up = judge(study_in(tmp_path, params))[0]
    assert [comparison.n for comparison in up.comparisons] == [3, 1]


def test_pairs_are_of_one_seed_wherever_it_stands_in_the_list(tmp_path):
    params = sample_params(claims={"down": CLAIMS["down"]})
    made = write_metrics(tmp_path, params, seeds=3)
    first, second = CLAIMS["down"].order
    write(tmp_path, first, seeded(made, first, 0.5, 0.6, 0.7, seeds=(5, 2, 9)))
    write(tmp_path, second, seeded(made, second, 0.9, 0.61, 0.53, seeds=(1, 2, 5)))
    (found,) = judge(study_in(tmp_path, params))[0].comparisons
    assert (found.n, found.difference) == (2, pytest.approx((0.01 + 0.03) / 2))


@pytest.mark.parametrize(("margin", "expected"), [(0.05, HOLDS), (0.02, FAILS)])
def test_equality_is_judged_by_the_margin_of_the_claim(tmp_path, margin, expected):
    pair = ["train/large_cnn", "train/resnet18_strong"]
    params = sample_params(claims={"same": claim(equal=pair, margin=margin)})
    made = write_metrics(tmp_path, params, seeds=3)
    for model_id, values in zip(pair, [(0.800, 0.810, 0.820), (0.830, 0.841, 0.850)], strict=True):
        write(tmp_path, model_id, seeded(made, model_id, *values))
    assert judge(study_in(tmp_path, params))[0].verdict == expected


def test_without_claims_there_is_an_empty_file_and_no_section(tmp_path):
    params = sample_params(claims={})
    write_metrics(tmp_path, params)
    write_report(tmp_path, study_in(tmp_path, params))
    assert json.loads((tmp_path / "metrics/claims.json").read_text()) == {}
    assert "## Claims" not in (tmp_path / "metrics/summary.md").read_text()
    assert claims_table([]) == ""
    assert claims_figure.draw([]).startswith(b"\x89PNG")
