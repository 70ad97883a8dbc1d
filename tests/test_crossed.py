"""The crossed test against its golden value, against others' tests, and over made-up answers whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from netpress.report.crossed import Crossed, Needed, Seeds, crossed, expected, needed, pooled


def answers(rng, k, n, difference=0.017, seed_effect=0.0, networks=2):
    """Return which of n images the k seeds of each network name right, as (networks, k, n) bool.

    Networks differ by `difference`, one from the next; each seed of each network is off by a draw of `seed_effect`.
    """
    easy = rng.normal(1.2, 1.5, n)
    gain = difference / 0.13  # a step of a probit is about 0.13 of accuracy here
    level = gain * np.arange(networks)[:, None, None] + seed_effect / 0.13 * rng.normal(size=(networks, k, 1))
    taste = 0.3 * rng.normal(size=(networks, 1, n))  # what images are harder for one network than for another
    return easy + level + taste + 0.5 * rng.normal(size=(networks, k, n)) > 0


def test_golden_value():
    """RJafroc's dataset02: five readers, 114 cases, two modalities; their mean squares are half their difference's."""
    seeds, images, error = 0.0628175, 0.0998481, 0.0399716
    variance = seeds + images - error
    difference = math.sqrt(4.4563187 * 2 * variance / (5 * 114))
    found = Crossed(5, 114, difference, Seeds(2 * seeds, 4), 2 * images, 2 * error)
    assert found.degrees == pytest.approx(15.259675, rel=1e-6)
    assert found.p_value() == pytest.approx(0.0516657, rel=1e-5)


def test_mean_squares_are_those_of_an_analysis_of_variance():
    """Seeds and images as crossed factors without repeats, by sums of squares of marginal means."""
    one, two = answers(np.random.default_rng(0), 4, 50)
    d = two.astype(float) - one
    rows, columns, total = d.mean(1), d.mean(0), ((d - d.mean()) ** 2).sum()
    of_seeds, of_images = 50 * ((rows - d.mean()) ** 2).sum(), 4 * ((columns - d.mean()) ** 2).sum()
    found = crossed(one, two)
    assert found.seeds.square == pytest.approx(of_seeds / 3)
    assert found.images == pytest.approx(of_images / 49)
    assert found.error == pytest.approx((total - of_seeds - of_images) / (3 * 49))
    assert found.difference == pytest.approx(d.mean())


@pytest.mark.parametrize(("k", "n"), [(1, 109), (1, 2000), (3, 2000)])
def test_equal_answers_everywhere_leave_room_for_one_that_differs(k, n):
    right, _ = answers(np.random.default_rng(2), k, n)
    found = crossed(right, right)
    assert found.difference == 0 and found.p_value() == 1
    assert found.standard_error == pytest.approx(1 / (k * n))
    assert found.half_width() == pytest.approx(1.96 / (k * n), rel=2e-2)
    other = right.copy()
    other[0, 0] ^= True
    assert crossed(right, other).standard_error == pytest.approx(1 / (k * n), rel=1e-2)


def test_with_one_seed_it_is_the_interval_of_paired_proportions():
    """McNemar's: two networks differ only where one alone is right, b and c images of n."""
    one, two = answers(np.random.default_rng(1), 1, 2000)
    b, c, n = int((two & ~one).sum()), int((one & ~two).sum()), 2000
    error = math.sqrt(b + c - (b - c) ** 2 / n) / n
    found = crossed(one, two)
    assert found.difference == pytest.approx((b - c) / n)
    assert found.half_width() == pytest.approx(1.96 * error, rel=2e-3)
    mcnemar = stats.chi2.sf((b - c) ** 2 / (b + c), 1)
    assert found.p_value() == pytest.approx(mcnemar, rel=0.05)


def test_with_ten_seeds_a_bootstrap_over_seeds_and_images_agrees():
    rng = np.random.default_rng(2)
    one, two = answers(rng, 10, 1000, seed_effect=0.01)
    d = two.astype(float) - one
    drawn = [d[np.ix_(rng.integers(10, size=10), rng.integers(1000, size=1000))].mean() for _ in range(4000)]
    found = crossed(one, two)
    # Drawing seeds and images again counts what is left of both twice; taken out, the variances are the same.
    variance = np.var(drawn) - found.error / (10 * 1000)
    assert math.sqrt(variance) == pytest.approx(found.standard_error, rel=0.1)


@pytest.mark.parametrize("seed_effect", [0.0, 0.005, 0.015])
@pytest.mark.parametrize("k", [2, 3, 5, 10])
def test_pooled_over_a_table_the_intervals_hold_the_truth(k, seed_effect):
    """At most 5 % may miss it; 200 tables of five networks, so below 91 % is beyond chance."""
    rng = np.random.default_rng(100 * k + int(1000 * seed_effect))
    inside = total = 0
    for _ in range(200):
        table = answers(rng, k, 500, 0.0, seed_effect, networks=5)
        seeds = pooled([table])
        found = crossed(table[0], table[1], seeds)
        inside += abs(found.difference) <= found.half_width()
        total += 1
    assert inside / total >= 0.91


def test_pooled_is_the_mean_over_all_pairs():
    table = answers(np.random.default_rng(3), 3, 400, seed_effect=0.01, networks=4)
    pairs = [crossed(table[i], table[j]).seeds.square for i in range(4) for j in range(i)]
    found = pooled([table])
    assert found.square == pytest.approx(np.mean(pairs))
    assert found.degrees == 3 * 2


def test_groups_add_up():
    """Of pairs, each a group, it is the mean of their mean squares."""
    table = answers(np.random.default_rng(10), 3, 400, seed_effect=0.01, networks=6)
    pairs = [table[:2], table[2:4], table[4:]]
    found = pooled(pairs)
    assert found.square == pytest.approx(np.mean([crossed(*pair).seeds.square for pair in pairs]))
    assert found.degrees == 3 * 2


def test_networks_of_unequal_spreads_are_not_pooled():
    rng = np.random.default_rng(4)
    steady = answers(rng, 8, 2000, networks=3)
    wild = answers(rng, 8, 2000, seed_effect=0.15, networks=1)
    assert pooled([[*steady, *wild]]) is None
    assert pooled([steady]) is not None
    assert pooled([[network[:1] for network in steady]]) is None


def test_pooling_narrows_the_intervals_of_two_seeds():
    table = answers(np.random.default_rng(5), 2, 2000, seed_effect=0.01, networks=8)
    alone, together = crossed(table[0], table[1]), crossed(table[0], table[1], pooled([table]))
    assert together.degrees > alone.degrees
    assert together.difference == alone.difference


@given(k=st.integers(1, 4), n=st.integers(2, 40), data=st.data())
def test_laws(k, n, data):
    bits = st.lists(st.booleans(), min_size=k * n, max_size=k * n)
    one, two = (np.array(data.draw(bits)).reshape(k, n) for _ in range(2))
    found, back = crossed(one, two), crossed(two, one)
    assert found.difference == pytest.approx(two.mean() - one.mean())
    assert back.difference == -found.difference
    assert back.half_width() == pytest.approx(found.half_width())
    assert 0 <= found.p_value() <= 1
    assert found.half_width(0.9) <= found.half_width(0.95)
    assert found.variance >= found.images  # what other images would show is always in it
    order = data.draw(st.permutations(range(n)))
    assert crossed(one[:, order], two[:, order]).half_width() == pytest.approx(found.half_width())


def test_what_would_decide_does():
    one, two = answers(np.random.default_rng(7), 3, 400, 0.005, seed_effect=0.005)
    found = crossed(one, two)
    assert found.half_width() > abs(found.difference) > 0
    need = needed(found)
    for k, n in ((need.seeds, 400), (3, need.images)):
        assert k is None or n is None or expected(found, k, n).half_width() < abs(found.difference)
    assert need.seeds is None or expected(found, need.seeds - 1, 400).half_width() >= abs(found.difference)
    assert need.seeds is not None or need.images is not None


def test_what_would_decide_that_two_are_equal_does():
    one, two = answers(np.random.default_rng(7), 3, 400, 0.005, seed_effect=0.005)
    found = crossed(one, two)
    margin = abs(found.difference) + 0.01
    need = needed(found, margin)
    assert need.images is not None
    assert abs(found.difference) + expected(found, 3, need.images).half_width(0.9) < margin
    assert abs(found.difference) + expected(found, 3, need.images - 1).half_width(0.9) >= margin
    assert needed(found, abs(found.difference)) == Needed(None, None)


@pytest.mark.parametrize("k", [1, 3])
def test_what_would_decide_that_two_are_not_equal_does(k):
    found = crossed(*answers(np.random.default_rng(9), k, 2000, 0.02))
    apart = abs(found.difference)
    margin = apart - found.half_width() / 2
    assert 0 < margin < apart
    need = needed(found, margin)
    assert need.images is not None
    assert apart - expected(found, k, need.images).half_width() > margin
    assert apart - expected(found, k, need.images - 1).half_width() <= margin


def test_what_would_decide_with_one_seed_are_images_of_equality_too():
    found = crossed(*answers(np.random.default_rng(10), 1, 400, 0.005))
    margin = abs(found.difference) + found.half_width(0.9) / 2
    need = needed(found, margin)
    assert need.seeds is None
    assert need.images is not None
    assert abs(found.difference) + expected(found, 1, need.images).half_width(0.9) < margin
    assert abs(found.difference) + expected(found, 1, need.images - 1).half_width(0.9) >= margin


def test_what_would_decide_at_no_difference_or_with_one_seed():
    one, two = answers(np.random.default_rng(8), 1, 500, 0.005)
    assert needed(crossed(one, two)).seeds is None
    assert needed(crossed(one, two)).images > 500
    level = np.zeros((2, 4), bool)
    level[:, 0], other = True, np.roll(level, 1, axis=1)
    other[:, 1] = True
    assert needed(crossed(level, other)).seeds is None
    assert needed(crossed(level, other)).images is None


def test_what_is_expected_of_the_same_seeds_and_images_is_what_was_seen():
    one, two = answers(np.random.default_rng(9), 4, 300, seed_effect=0.05)
    found = crossed(one, two)
    assert found.seeds.square > found.error  # else it is taken to be as large by chance
    assert expected(found, 4, 300).half_width() == pytest.approx(found.half_width(), rel=1e-9)
