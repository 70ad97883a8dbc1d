"""Pairs of layers that a loss compares: one of the student, one of the teacher."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from netpress.base.errors import ParamsError
from netpress.core.taps import Taps

Pair = Annotated[list[str], Field(min_length=2, max_length=2, description="a layer of the student, one of the teacher")]


def taps_of_pairs(pairs: Sequence[Pair]) -> Taps:
    """Return what looks at one layer of each network for every pair."""
    return Taps(tuple(ours for ours, _ in pairs), tuple(theirs for _, theirs in pairs))


def no_maps(layer: str, whose: str, shape: tuple[int, ...]) -> ParamsError:
    """Return the refusal of a layer whose output for one image is of `shape`, and not (channels, height, width)."""
    text = f"layer '{layer}' of the {whose} gives {shape}; name one that gives (channels, height, width)"
    return ParamsError([("method_options", f"method_options: {text}")])
