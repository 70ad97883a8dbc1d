"""Accuracies measured again, image by image: agreement, interval, margin; and metrics that do not say enough."""

import numpy as np
import pytest

from netpress.core.metrics import packed
from netpress.verify.equivalence import MARGIN, again, same
from netpress.verify.outcome import Verdict, compare_metrics

IMAGES = 2000


def row(*seeds):
    """Metrics of networks that name right all images but those given, a range a seed."""
    right = np.ones((len(seeds), IMAGES), bool)
    for answers, wrong in zip(right, seeds, strict=True):
        answers[list(wrong)] = False
    return {"val_acc": float(right.mean()), "val_acc_right": [packed(answers) for answers in right]}


def compared(old, new):
    found = again(old, new, "val_acc", IMAGES)
    assert found is not None
    return found


def test_agreement_and_difference_are_those_of_the_images():
    found = compared(row(range(240)), row([*range(220), *range(300, 318)]))
    assert found.agree == 1 - (20 + 18) / IMAGES
    # McNemar's: sqrt(b + c - (b - c)^2 / n) / n
    error = np.sqrt((38 - 2**2 / IMAGES) / (IMAGES - 1) / IMAGES)
    assert found.crossed.difference == pytest.approx(0.001)
    assert found.crossed.half_width(0.90) == pytest.approx(1.6456 * error, rel=1e-3)
    assert found.words == "98.1 % of the answers agree, right or wrong; difference +0.10 points (-0.41 to +0.61)"
    assert found.equivalent(MARGIN) is True


@pytest.mark.parametrize(("lost", "expected"), [(0, True), (12, True), (20, None), (60, False)])
def test_a_margin_is_held_left_or_neither(lost, expected):
    assert compared(row(range(200)), row(range(200 + lost))).equivalent(MARGIN) is expected
    assert compared(row(range(200 + lost)), row(range(200))).equivalent(MARGIN) is expected


def test_networks_that_disagree_on_many_images_are_not_equivalent_although_as_accurate():
    found = compared(row(range(200)), row(range(200, 400)))
    assert (found.was, found.agree) == (found.now, 0.8)
    assert found.equivalent(MARGIN) is None
    assert found.equivalent(0.02) is True


def test_seeds_are_paired_and_widen_the_interval():
    old = row(range(200), range(200))
    agreeing, differing = row(range(190), range(190)), row(range(150), range(230))
    assert compared(old, agreeing).crossed.difference == compared(old, differing).crossed.difference
    assert compared(old, agreeing).equivalent(MARGIN) is True
    assert compared(old, differing).equivalent(MARGIN) is None


def test_accuracies_of_equal_images_are_the_same_and_of_others_are_not():
    assert same(row(range(200)), row(range(200)), "val_acc")
    assert not same(row(range(200)), row(range(1, 201)), "val_acc")


FULL = row(range(200))


@pytest.mark.parametrize(
    "bits",
    [None, [], ["AAAA"], ["*"], [1], FULL["val_acc_right"] * 2, FULL["val_acc_right"][0]],
    ids=["none", "empty", "of other images", "no base64", "no text", "other seeds", "no list"],
)
def test_without_the_answers_of_both_the_interval_is_that_of_two_samples(bits):
    damaged = {"val_acc": 0.9, "val_acc_right": bits}
    for found in (compared(FULL, damaged), compared(damaged, FULL)):
        assert found.agree is None
        assert found.crossed.standard_error == pytest.approx(np.sqrt(2 * 0.9 * 0.1 / IMAGES))
        assert "which images are right is not recorded on both sides" in found.words


@pytest.mark.parametrize("value", [None, "0.9", True, 1.5, float("nan"), [0.9]])
def test_what_is_no_accuracy_is_not_compared(value):
    assert again({"val_acc": 0.9}, {"val_acc": value}, "val_acc", IMAGES) is None
    assert again({"val_acc": value}, {"val_acc": 0.9}, "val_acc", IMAGES) is None


def test_the_worst_round_stands_for_the_curve():
    committed = FULL | {"val_images": IMAGES, "rounds": [FULL, FULL]}
    made = committed | {"rounds": [row(range(205)), row(range(260))]}
    verdict, detail = compare_metrics(committed, made, MARGIN)
    assert verdict == Verdict.DRIFTED
    assert detail.startswith("round 1: val_acc: 97.0 % of the answers agree")
    verdict, detail = compare_metrics(committed, committed | {"rounds": [row(range(205)), FULL]}, MARGIN)
    assert verdict == Verdict.EQUIVALENT
    assert detail.startswith("round 0: val_acc: 99.8 %")
