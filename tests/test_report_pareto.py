from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from netpress.report.pareto import Point, dominates, dominator, front

# Few distinct values, so that ties are common.
PLANES = st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])), max_size=12).map(
    lambda pairs: [Point(f"m{i}", "pruned", size, accuracy) for i, (size, accuracy) in enumerate(pairs)]
)


@given(PLANES)
def test_front_is_exactly_what_nothing_dominates(points: list[Point]) -> None:
    expected = {p.id for p in points if not any(dominates(q, p) for q in points)}
    assert {p.id for p in front(points)} == expected


@given(PLANES)
def test_front_rises_with_size(points: list[Point]) -> None:
    chosen = front(points)
    for small, large in pairwise(chosen):
        equal = (small.onnx_bytes, small.val_acc) == (large.onnx_bytes, large.val_acc)
        assert equal or (small.onnx_bytes < large.onnx_bytes and small.val_acc < large.val_acc)


@given(PLANES)
def test_every_other_point_has_a_dominator_on_the_front(points: list[Point]) -> None:
    chosen = front(points)
    for point in points:
        better = dominator(point, chosen)
        assert (better is None) == (point in chosen)
        assert better is None or dominates(better, point)


def test_equal_points_do_not_dominate_each_other() -> None:
    a, b = Point("a", "pruned", 10, 0.5), Point("b", "pruned", 10, 0.5)
    assert not dominates(a, b)
    assert front([a, b]) == [a, b]


def test_one_strict_advantage_is_enough() -> None:
    assert dominates(Point("a", "pruned", 9, 0.5), Point("b", "pruned", 10, 0.5))
    assert dominates(Point("a", "pruned", 10, 0.6), Point("b", "pruned", 10, 0.5))
    assert not dominates(Point("a", "pruned", 11, 0.6), Point("b", "pruned", 10, 0.5))
