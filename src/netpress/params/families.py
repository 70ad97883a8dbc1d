"""The families of models: a row for each section of params.yaml, and which files a result follows from."""

from dataclasses import dataclass
from typing import Any

from netpress.params.items import Design, Distill, Factorize, Item, Prune, Quantize, Train

PACKAGE = "src/netpress"
#: What every stage that makes or measures a model computes with.
SHARED = ("base", "core")


@dataclass(frozen=True)
class Family:
    """One section of params.yaml whose items are models.

    Attributes:
        stage: the script that makes them, a file of stages/.
        title: under which the report shows them.
        item: what an item may say; it names its methods (`choices`) and its parents (`roles`).
        code: the family's own files and folders below src/netpress.
    """

    stage: str
    title: str
    item: type[Item]
    code: tuple[str, ...]


#: Of a training that a teacher takes part in.
_TAUGHT = "distill/teaching"
_PRUNING = ("prune/run.py", "prune/common", _TAUGHT)
#: In the order of the graph.
FAMILIES = {
    "train": Family("train", "trained alone", Train, ("train",)),
    "distill": Family("distill", "distilled", Distill, ("distill/run.py", _TAUGHT)),
    "lowrank": Family("lowrank", "compact design", Design, ("train",)),
    "factorize": Family("factorize", "factorized", Factorize, ("factorize/run.py", "factorize/common", _TAUGHT)),
    "prune": Family("prune", "pruned", Prune, _PRUNING),
    "prune_sweep": Family("prune", "pruned", Prune, _PRUNING),
    "quantize": Family("quantize", "quantized", Quantize, ("quantize/run.py", "quantize/common", _TAUGHT)),
}
#: The code of the stages that make no model. The output of `check` never changes, so no code matters to it.
OTHERS: dict[str, tuple[str, ...]] = {
    "check": (),
    "prepare": ("base", "ingest", "core/dataset.py", "report/data_line.py"),
    "test": (*SHARED, "final"),
    "aggregate": ("base", "core/metrics.py", "report"),
}


def code_of(stage: str, item: Any = None) -> list[str]:
    """Return the files and folders of the project from whose code a stage's results follow.

    `process/` and `params/` are in none: they carry values, which DVC tracks as params, and make none.

    Args:
        stage: a stage of dvc.yaml, without its variant.
        item: the variant's item, for a stage that makes models.
    """
    if stage in OTHERS:
        return [f"stages/{stage}.py", *(f"{PACKAGE}/{part}" for part in OTHERS[stage])]
    family = FAMILIES[stage]
    members = [f"{choice.folder}/{getattr(item, choice.key)}.py" for choice in family.item.choices]
    if family.item.choices[0].folder == "models":
        members.append("models/_blocks.py")  # of a parent's architecture nothing: it enters through the parent's files
    return [f"stages/{family.stage}.py", *(f"{PACKAGE}/{part}" for part in (*SHARED, *family.code, *members))]
