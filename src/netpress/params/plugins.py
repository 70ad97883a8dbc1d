"""Methods and architectures, found by file name.

A family is a folder of the package, such as `models` or `distill/losses`. Each of
its files whose name does not begin with an underscore is one member, named as in params.yaml. All but
data sources define `Options`, their frozen config. Nothing is registered anywhere else.
"""

import importlib
from pathlib import Path
from types import ModuleType

from netpress.base.errors import ParamsError
from netpress.base.words import near_or_known

WORDS = {
    "models": "architecture",
    "ingest/sources": "data source",
    "distill/losses": "distillation method",
    "factorize/methods": "factorization method",
    "prune/scores": "pruning score",
    "prune/schedules": "pruning schedule",
    "quantize/methods": "quantization method",
}


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
    return importlib.import_module(f"netpress.{family.replace('/', '.')}.{name}")
