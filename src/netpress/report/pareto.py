"""Which models no other model beats in both accuracy and size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netpress.report.collect import Study
from netpress.report.differences import BETTER, Accuracy, Differences


@dataclass(frozen=True)
class Point:
    """One network on the plane of size (bytes) and accuracy (a fraction)."""

    id: str
    family: str
    onnx_bytes: int
    val_acc: float
    is_round: bool = False


def dominates(a: Point, b: Point) -> bool:
    """Return whether `a` is at least as accurate and as small as `b`, and better in one of the two."""
    at_least = a.val_acc >= b.val_acc and a.onnx_bytes <= b.onnx_bytes
    return at_least and (a.val_acc > b.val_acc or a.onnx_bytes < b.onnx_bytes)


def front(points: Sequence[Point], costs: Mapping[str, float] | None = None) -> list[Point]:
    """Return the points that no other dominates, from small to large; equal points all stay.

    `costs` (id -> cost) takes the place of the size.
    """

    def cost(point: Point) -> float:
        return point.onnx_bytes if costs is None else costs[point.id]

    chosen: list[Point] = []
    # Sorted so, a point is on the front unless a smaller or equally small one is at least as accurate.
    for point in sorted(points, key=lambda p: (cost(p), -p.val_acc)):
        last = chosen[-1] if chosen else None
        equal = last is not None and (cost(last), last.val_acc) == (cost(point), point.val_acc)
        if last is None or equal or point.val_acc > last.val_acc:
            chosen.append(point)
    return chosen


def dominator(point: Point, on_front: Sequence[Point]) -> Point | None:
    """Return the most accurate point of the front that dominates `point`; None if it is on the front itself."""
    better = [p for p in on_front if dominates(p, point)]
    return max(better, key=lambda p: (p.val_acc, -p.onnx_bytes)) if better else None


def behind(study: Study, points: Sequence[Point], on_front: Sequence[Point]) -> dict[str, tuple[Point, bool]]:
    """Return id -> its dominator, and whether that is more accurate by a difference that is real, Holm's over all.

    Where it is not, the two are level in accuracy, and differ in size alone.
    """
    found = {point.id: better for point in points if (better := dominator(point, on_front))}
    differences = Differences(study, [(Accuracy(name), Accuracy(better.id)) for name, better in found.items()])
    return {
        name: (better, differences.verdict(Accuracy(name), Accuracy(better.id)) == BETTER)
        for name, better in found.items()
    }


def intervals(study: Study, points: Sequence[Point]) -> dict[str, float]:
    """Return id -> half of the 95 % interval of its difference from the most accurate point, where one can be told."""
    if not points:
        return {}
    best = Accuracy(max(points, key=lambda p: (p.val_acc, -p.onnx_bytes)).id)
    others = [Accuracy(point.id) for point in points if point.id != best.model_id]
    differences = Differences(study, [(best, other) for other in others])
    return {other.model_id: found.half_width() for other in others if (found := differences.of(best, other))}


def points_of(study: Study, drawn_curves: Sequence[str]) -> list[Point]:
    """Return every model as a point, and the rounds of the curves `drawn_curves` (model ids) between them.

    Round 0 is the parent and the last round the variant itself, so neither counts twice.
    """
    points = [Point(m.id, m.family, m.measured.onnx_bytes, m.measured.val_acc) for m in study.models]
    for model_id in drawn_curves:
        family = study.by_id[model_id].family
        for row in study.rounds(model_id)[1:-1]:
            name = f"{model_id}/round_{row.round}"
            if name not in study.by_id:
                points.append(Point(name, family, row.onnx_bytes, row.val_acc, is_round=True))
    return points
