"""Whether a network made again is as accurate as the committed one: image by image, within a margin."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netpress.core.metrics import RIGHT, unpacked
from netpress.report import units
from netpress.report.crossed import WITHIN, Crossed, Right, crossed

#: Largest difference of two accuracies that counts as none; a fraction, so one point.
MARGIN = 0.01


@dataclass(frozen=True)
class Again:
    """An accuracy that was measured again.

    Attributes:
        was, now: the accuracies, fractions.
        crossed: now minus was over seeds and images; None where it is not known of how many images they are.
        agree: share of the images and seeds that both name right, or both wrong; None where the metrics do not say.
    """

    was: float
    now: float
    crossed: Crossed | None
    agree: float | None

    def equivalent(self, margin: float) -> bool | None:
        """Say whether the 90 % interval lies within +- `margin`; None where it lies on both sides of its ends."""
        if self.crossed is None:
            return None
        half, distance = self.crossed.half_width(WITHIN), abs(self.crossed.difference)
        # Not 0.87 - 0.86 > 0.01: the last digit of a difference is not the point to fail on.
        if distance + half <= margin + 1e-9:
            return True
        return False if distance - half > margin + 1e-9 else None

    @property
    def words(self) -> str:
        """Say how many answers agree, and the difference in points with its 90 % interval."""
        if self.crossed is None:
            return f"{self.was:.4f} became {self.now:.4f}, of how many images is not recorded"
        apart, half = self.crossed.difference, self.crossed.half_width(WITHIN)
        if self.agree is None:
            how = f"{self.was:.4f} became {self.now:.4f}; which images are right is not recorded on both sides"
        else:
            how = f"{100 * self.agree:.1f} % of the answers agree, right or wrong"
        return f"{how}; difference {units.points(apart)} points ({units.interval(apart, half)})"


def same(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> bool:
    """Say whether accuracy `name` and the images it is made of are equal in two rows of metrics."""
    return all(old.get(key) == new.get(key) for key in (name, f"{name}_by_seed", f"{name}{RIGHT}"))


def again(old: Mapping[str, Any], new: Mapping[str, Any], name: str, images: int | None) -> Again | None:
    """Compare accuracy `name` of two rows of metrics; None where one of them has none.

    Where a row does not say which images are right, the interval is that of accuracies on different images. It is
    wider than that of the same images, on which two networks agree more than by chance.

    Args:
        images: of how many images both speak, if it is known.
    """
    was, now = (_fraction(row.get(name)) for row in (old, new))
    if was is None or now is None:
        return None
    if images is None:
        return Again(was, now, None, None)
    one, two = (_right(row.get(f"{name}{RIGHT}"), images) for row in (old, new))
    if one is None or two is None or one.shape != two.shape:
        apart = Crossed(1, images, now - was, None, was * (1 - was) + now * (1 - now), 0.0)
        return Again(was, now, apart, None)
    return Again(was, now, crossed(one, two), float((one == two).mean()))


def _fraction(value: Any) -> float | None:
    """Return what can be an accuracy, else None: the metrics of a commit may be damaged."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if known else None


def _right(texts: Any, images: int) -> Right | None:
    """Return (seeds, images) bool; None where there are none, or they are not of as many images."""
    if not isinstance(texts, list) or not texts:
        return None
    try:
        sizes = {len(base64.b64decode(text, validate=True)) for text in texts}
    except (TypeError, ValueError):
        return None
    return unpacked(texts, images) if sizes == {math.ceil(images / 8)} else None
