"""Methods and architectures, found by file name.

A family is a package (`models`, `distill`, `lowrank`, `prune`, `quantize`, `sources`). Each of
its files whose name does not begin with an underscore is one member, named as in params.yaml. All but
data sources define `Options`, their frozen config. Nothing is registered anywhere else.
"""

import difflib
import importlib
from pathlib import Path
from types import ModuleType

from netpress.base.errors import ParamsError

WORDS = {
    "models": "architecture",
    "sources": "data source",
    "distill": "distillation method",
    "lowrank": "factorization method",
    "prune": "pruning method",
    "quantize": "quantization method",
}
#: Known words that an error lists at most.
MAX_LISTED = 40


def names(family: str) -> list[str]:
    """Return the members of `family`, sorted."""
    folder = Path(__file__).parent.parent / family
    return sorted(f.stem for f in folder.glob("*.py") if not f.stem.startswith("_"))


def load(family: str, name: str, where: str = "") -> ModuleType:
    """Import member `name` of `family`; an unknown name lists what exists."""
    known = names(family)
    if name not in known:
        prefix = f"{where}: " if where else ""
        raise ParamsError([(where, f"{prefix}unknown {WORDS[family]} '{name[:60]}'{near_or_known(name, known)}")])
    return importlib.import_module(f"netpress.{family}.{name}")


def near_or_known(word: str, known: list[str]) -> str:
    """Return `, did you mean 'x'?; known: x, y` with the nearest of the known words and the first of all of them."""
    more = f" and {len(known) - MAX_LISTED} more" if len(known) > MAX_LISTED else ""
    return f"{did_you_mean(word, known)}; known: {', '.join(known[:MAX_LISTED]) or 'none'}{more}"


def did_you_mean(word: str, known: list[str]) -> str:
    """Return `, did you mean 'x'?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean '{near[0]}'?" if near else ""
