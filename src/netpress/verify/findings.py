"""One thing that does not agree."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and how it is fixed.

    Attributes:
        severity: `error` where results do not follow from what is written, `warning` for what is left over.
        where: file, or file and key.
        text: what is wrong.
        remedy: what to do.
    """

    severity: Literal["error", "warning"]
    where: str
    text: str
    remedy: str
