"""Claims on made-up accuracies: what holds, what fails, what nobody can tell."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import sample_params, study_in, write, write_metrics

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.params.items import Claim
from netpress.report import claims_figure, style
from netpress.report.claims import (
    FAILS,
    HOLDS,
    OPEN,
    Comparison,
    Judged,
    as_metrics,
    claims_table,
    compare,
    judge,
    t_quantile,
)
from netpress.report.write import write_report


def by_seed(*values):
    return dict(enumerate(values))


def verdict(one, two, margin=None):
    return compare("a", "b", by_seed(*one), by_seed(*two), margin).verdict


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ((0.70, 0.71, 0.72), (0.75, 0.76, 0.78), HOLDS),
        ((0.75, 0.76, 0.78), (0.70, 0.71, 0.72), FAILS),
        ((0.70, 0.76, 0.72), (0.74, 0.73, 0.75), OPEN),  # too noisy
        ((0.70,), (0.90,), OPEN),  # one seed tells nothing
        ((0.70, 0.80), (0.71, 0.81), HOLDS),  # seed by seed the same step, however far the seeds lie apart
        ((0.70, 0.71), (0.70, 0.71), OPEN),  # not more accurate, not less
    ],
)
def test_an_order_is_judged_by_the_interval_of_the_paired_differences(one, two, expected):
    assert verdict(one, two) == expected


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ((0.700, 0.710, 0.720), (0.701, 0.710, 0.721), HOLDS),
        ((0.70, 0.71, 0.72), (0.75, 0.76, 0.77), FAILS),
        ((0.70, 0.71, 0.72), (0.71, 0.70, 0.74), OPEN),
        ((0.70,), (0.70,), OPEN),
        ((0.70, 0.71), (0.70, 0.71), HOLDS),
    ],
)
def test_equality_asks_for_an_interval_within_the_margin(one, two, expected):
    assert verdict(one, two, margin=0.01) == expected


def test_the_interval_is_that_of_a_paired_t_test():
    found = compare("a", "b", by_seed(0.5, 0.5, 0.5), by_seed(0.51, 0.52, 0.53), None)
    assert t_quantile(2) == pytest.approx(4.302653)
    assert found.difference == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((0.02 - 4.302653 * 0.01 / 3**0.5, 0.02 + 4.302653 * 0.01 / 3**0.5))


def test_only_seeds_that_both_have_are_compared():
    found = compare("a", "b", {0: 0.5, 1: 0.9}, {0: 0.6, 2: 0.1}, None)
    assert (found.n, found.difference, found.low) == (1, pytest.approx(0.1), None)


accuracies = st.lists(st.floats(0.1, 0.8), min_size=2, max_size=5)


@given(one=accuracies, two=accuracies, shift=st.floats(-0.05, 0.05))
def test_a_common_shift_of_all_seeds_changes_nothing_and_turning_round_reverses(one, two, shift):
    plain = compare("a", "b", by_seed(*one), by_seed(*two), None)
    moved = compare("a", "b", by_seed(*(v + shift for v in one)), by_seed(*(v + shift for v in two)), None)
    assert moved.difference == pytest.approx(plain.difference, abs=1e-9)
    assert (moved.low, moved.high) == pytest.approx((plain.low, plain.high), abs=1e-9)
    turned = compare("b", "a", by_seed(*two), by_seed(*one), None)
    assert (turned.difference, turned.low, turned.high) == (-plain.difference, -plain.high, -plain.low)
    assert turned.verdict == {HOLDS: FAILS, FAILS: HOLDS, OPEN: OPEN}[plain.verdict]


thousandths = st.lists(st.integers(100, 900), min_size=2, max_size=5)


@given(one=thousandths, two=thousandths, shift=st.integers(-100, 100), margin=st.sampled_from([None, 0.0505]))
def test_a_verdict_does_not_change_with_a_common_shift(one, two, shift, margin):
    # Of whole numbers, so that no interval ends on a bound by rounding alone.
    def judged(by):
        return verdict([(v + by) / 1000 for v in one], [(v + by) / 1000 for v in two], margin)

    assert judged(0) == judged(shift)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [((HOLDS, HOLDS), HOLDS), ((HOLDS, OPEN), OPEN), ((OPEN, FAILS), FAILS), ((HOLDS, FAILS), FAILS)],
)
def test_a_claim_is_as_good_as_its_worst_comparison(verdicts, expected):
    ends = {HOLDS: (0.01, 0.02), FAILS: (-0.02, -0.01), OPEN: (-0.01, 0.01)}
    compared = tuple(Comparison("a", "b", None, 3, 0.0, *ends[verdict]) for verdict in verdicts)
    assert Judged("c", "text", compared).verdict == expected


def claim(**changes):
    values = {"text": "one beats the other", "order": [], "equal": [], "margin": 0.01} | changes
    return Claim.model_validate(values)


CLAIMS = {
    "up": claim(order=["train/student_alone", "distill/kd_weak", "distill/kd_strong"]),
    "down": claim(order=["lowrank/compact_plain", "lowrank/compact_depthwise"]),
    "same": claim(equal=["train/large_cnn", "train/resnet18_strong"]),
    "round": claim(order=["prune/main/round_1", "train/resnet18_strong"]),
}


def test_claims_are_written_and_shown(tmp_path):
    params = sample_params(claims=CLAIMS)
    write_metrics(tmp_path, params, seeds=3)
    write_report(tmp_path, study_in(tmp_path, params))
    found = json.loads((tmp_path / "metrics/claims.json").read_text())
    assert {name: entry["verdict"] for name, entry in found.items()} == {
        "up": HOLDS,
        "down": FAILS,
        "same": HOLDS,
        "round": HOLDS,
    }
    first = found["up"]["distill/kd_weak > train/student_alone"]
    assert first == {"n": 3, **{key: pytest.approx(0.0038) for key in ("difference", "low", "high")}}
    report = (tmp_path / "metrics/summary.md").read_text()
    assert "## Claims" in report
    assert "paired t-test" in report


def test_one_seed_is_never_enough(tmp_path):
    params = sample_params(claims=CLAIMS)
    write_metrics(tmp_path, params)
    judged = judge(study_in(tmp_path, params))
    assert {entry.verdict for entry in judged} == {OPEN}
    assert "low" not in as_metrics(judged)["up"]["distill/kd_weak > train/student_alone"]


def seeded(made, model_id, *accuracies, seeds=(0, 1, 2)):
    """Return the metrics of a model with these accuracies."""
    mean = sum(accuracies) / len(accuracies)
    return made[model_id] | {"val_acc": mean, "val_acc_by_seed": list(accuracies), "seeds": list(seeds)}


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
    assert up.comparisons[0].difference == pytest.approx(0.96 - 0.8893)


@pytest.mark.parametrize("missing", [("seeds",), ("seeds", "val_acc_by_seed"), ("val_acc_by_seed",)])
def test_metrics_that_name_no_seeds_are_no_pair(tmp_path, missing):
    params = sample_params(claims=CLAIMS)
    made = write_metrics(tmp_path, params, seeds=3)
    for model_id in CLAIMS["up"].order[1:]:
        write(tmp_path, model_id, {key: value for key, value in made[model_id].items() if key not in missing})
    up = judge(study_in(tmp_path, params))[0]
    assert [(c.n, c.verdict) for c in up.comparisons] == [(0, OPEN), (0, OPEN)]
    assert up.comparisons[0].difference == pytest.approx(0.8931 - 0.8893)


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
    found = as_metrics([Judged("c", "text", (Comparison("a", "b", None, 3, 0.1 + 0.2, 1 / 3, 2 / 3),))])
    assert found["c"]["b > a"] == {"n": 3, "difference": 0.3, "low": 0.333333, "high": 0.666667}


def test_the_figure_shows_every_kind_of_comparison_and_cuts_no_text_off():
    ends = [(0.01, 0.02), (-0.02, -0.01), (-0.01, 0.01), (None, None)]
    names = "lowrank/compact_depthwise_9mb", "lowrank/compact_plain"
    compared = tuple(Comparison(*names, margin, 3, 0.0, *end) for margin in (None, 0.005) for end in ends)
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
    assert found[1] == [HOLDS, FAILS, OPEN, "95 % interval", "counts as equal"]


def test_models_with_seeds_of_their_own_are_paired_by_seed(tmp_path):
    params = sample_params(claims=CLAIMS)
    made = write_metrics(tmp_path, params, seeds=3)
    path = tmp_path / "metrics/distill/kd_strong.json"
    alone = made["distill/kd_strong"] | {"seeds": [1], "n_seeds": 1, "val_acc_by_seed": [0.95]}
    write(tmp_path, "distill/kd_strong", alone)
    assert files.read_sealed(path, "")["seeds"] == [1]
    up = judge(study_in(tmp_path, params))[0]
    assert [comparison.n for comparison in up.comparisons] == [3, 1]
    assert up.verdict == OPEN


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
