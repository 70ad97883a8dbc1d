"""How often the intervals of a difference hold the truth, and how wide they are, over made-up answers.

Networks that differ by a true step of 1.7 points answer 2,000 images, over k seeds; the seeds of a network differ by a
given number of points. The table shows, for the paired t-test over seeds, for the crossed test and for the crossed test
pooled over a table of eight comparisons, the share of nominal 95 % intervals that hold the true difference, and the
median of half their width in points. docs/statistics.md has the table.

    python benchmarks/coverage.py [--repeats 400] [--seeds 2 3 5 10]    two minutes
"""

import argparse
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from netpress.report.crossed import crossed, pooled

IMAGES, COMPARISONS, STEP = 2000, 8, 0.017
#: In points: seeds that differ in nothing but single images, by about half a point, by more.
SEED_EFFECTS = (0.0, 0.5, 1.5)
#: Standard deviations of how hard images are, of what one network finds harder than another, of what is left to chance.
HARD, TASTE, CHANCE = 1.5, 0.35, 0.45
MEAN = 2.0


def slope() -> float:
    """Return by how much the accuracy of these networks rises with their level."""
    spread = math.sqrt(HARD**2 + TASTE**2 + CHANCE**2)
    return float(stats.norm.pdf(MEAN / spread)) / spread


def table_of_answers(rng: np.random.Generator, k: int, seed_effect: float) -> NDArray[np.bool_]:
    """Return (networks, k, images): the first network, and as many others as comparisons, each a step above it."""
    networks = COMPARISONS + 1
    level = np.full((networks, 1, 1), STEP / slope())
    level[0] = 0.0
    level = MEAN + level + seed_effect / 100 / slope() * rng.normal(size=(networks, k, 1))
    taste = TASTE * rng.normal(size=(networks, 1, IMAGES))
    hard = HARD * rng.normal(size=IMAGES)
    return hard + taste + CHANCE * rng.normal(size=(networks, k, IMAGES)) + level > 0


def true_difference() -> float:
    """Return the difference of accuracies over all seeds and images that there could be."""
    spread = math.sqrt(HARD**2 + TASTE**2 + CHANCE**2)
    return float(stats.norm.cdf((MEAN + STEP / slope()) / spread) - stats.norm.cdf(MEAN / spread))


def intervals(answers: NDArray[np.bool_]) -> Iterator[tuple[float, float]]:
    """Yield difference and half-width by each test: paired t, crossed, crossed and pooled."""
    one, two = answers[0], answers[1]
    by_seed = two.mean(1) - one.mean(1)
    k = len(by_seed)
    yield float(by_seed.mean()), float(stats.t.ppf(0.975, k - 1) * by_seed.std(ddof=1) / math.sqrt(k))
    for seeds in (None, pooled([list(answers)])):
        found = crossed(one, two, seeds)
        yield found.difference, found.half_width()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400, help="made-up tables of each row (default 400)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 5, 10], help="numbers of seeds")
    args = parser.parse_args()
    truth = true_difference()
    print("| seeds differ by | seeds | paired t | crossed | crossed, pooled over 8 |\n|---|---|---|---|---|")
    for effect in SEED_EFFECTS:
        for k in args.seeds:
            rng = np.random.default_rng([k, int(10 * effect)])
            found = np.array([list(intervals(table_of_answers(rng, k, effect))) for _ in range(args.repeats)])
            covered = (abs(found[:, :, 0] - truth) <= found[:, :, 1]).mean(0)
            half = 100 * np.median(found[:, :, 1], axis=0)
            cells = " | ".join(f"{100 * share:.0f} %, {width:.2f}" for share, width in zip(covered, half, strict=True))
            print(f"| {effect} points | {k} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
