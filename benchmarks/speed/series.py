"""Measurements of one thing, and what a table says of them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """What the rounds gave, in their order."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def over(self, other: "Series") -> "Series":
        """Return the ratios of rounds that followed one another: a drift of the machine touches both."""
        return Series(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def cell(self, form: str = ",.0f", unit: str = "") -> str:
        """Return `median (lowest to highest)`, each in `form`, the median with its unit."""
        low, high = min(self.values), max(self.values)
        return f"{self.median:{form}}{unit} ({low:{form}} to {high:{form}})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
