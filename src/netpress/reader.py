"""params.yaml read and validated: the whole of it, or what one stage reads, so that an edit elsewhere cannot stop it.

`graph.load_checked` also checks what its parts say of one another; the checks at the end are those that stages repeat.
"""

from pathlib import Path
from typing import Any

from netpress.base import params_file, plugins
from netpress.base.errors import ParamsError
from netpress.config import (
    IMAGENET,
    ITEM_TYPES,
    RECIPE_KEYS,
    Data,
    Distill,
    Params,
    Recipe,
    Runtime,
    Shared,
    VariantConfig,
)


def read(path: Path) -> dict[str, Any]:
    """Read params.yaml or a profile as it stands; its keys are not validated."""
    document = params_file.read(path)
    with document.located():
        document.refuse_doubtful()
    return document.values


def load(path: Path) -> Params:
    """Read the whole file and validate every key; see `graph.load_checked` for the cross-references."""
    document = params_file.read(path)
    with document.located():
        return document.whole(Params)


def for_data(path: Path) -> Data:
    """Return the `data` section alone."""
    document = params_file.read(path)
    with document.located():
        return document.section(Data, "data")


def for_shared(path: Path) -> Shared:
    """Return the seeds and the runtime alone."""
    document = params_file.read(path)
    with document.located():
        return document.part(Shared, Shared.model_fields)


def for_final(path: Path, model_id: str) -> Runtime:
    """Return the runtime for a model of `final`; of no other is the test accuracy looked at."""
    document = params_file.read(path)
    with document.located():
        final = document.values.get("final")
        known = [str(entry) for entry in final] if isinstance(final, list) else []
        if model_id not in known:
            raise ParamsError([("final", f"final: no model '{model_id}'{plugins.near_or_known(model_id, known)}")])
        return document.section(Runtime, "runtime")


def for_variant(path: Path, stage: str, variant: str) -> VariantConfig:
    """Return what the stage of one variant reads: its item, its recipe, the seeds and the runtime."""
    document = params_file.read(path)
    with document.located():
        section = document.values.get(stage)
        if not isinstance(section, dict) or stage not in ITEM_TYPES:
            raise ParamsError([(stage, f"no section '{stage}'")])
        known = ["main"] if stage == "prune" else list(section)
        if variant not in known:
            raise ParamsError([(stage, f"{stage}: no variant '{variant}'{plugins.near_or_known(variant, known)}")])
        where = stage if stage == "prune" else f"{stage}.{variant}"
        item: Any = document.section(ITEM_TYPES[stage], where)
        recipes: dict[str, Recipe | None] = dict.fromkeys(RECIPE_KEYS)
        for key in (key for key in RECIPE_KEYS if hasattr(item, key)):
            check_recipe(getattr(item, key), document.values.get("recipes"), where, key)
            recipes[key] = document.section(Recipe, f"recipes.{getattr(item, key)}")
        shared = document.part(Shared, Shared.model_fields)
    return VariantConfig(seeds=item.seeds or shared.seeds, runtime=shared.runtime, item=item, **recipes)


def check_recipe(name: str, recipes: Any, where: str, key: str) -> None:
    """Raise unless `name`, which stands at `key` of `where`, is one of the `recipes`, which are not validated."""
    known = list(recipes) if isinstance(recipes, dict) else []
    if name not in known:
        key = f"{where}.{key}"
        raise ParamsError([(key, f"{key}: no recipe '{name}'{plugins.near_or_known(name, known)}")])


def check_imagenet(arch: str, where: str) -> None:
    """Raise unless torchvision has weights for the architecture; `where` is the key that asks for them."""
    known = [name for name in plugins.names("models") if hasattr(plugins.load("models", name), "IMAGENET")]
    if arch not in known:
        text = f"{where} = {IMAGENET}: torchvision has weights for {', '.join(known)} and not for {arch}"
        raise ParamsError([(where, f"{text}; set it to none, or put a file into data/weights and name it")])


def refuse_larger_student(item: Distill, student: int, teacher: int, where: str) -> None:
    """Raise when a student of `student` parameters is not smaller than its teacher, unless it says it may be."""
    if student >= teacher and not item.allow_larger:
        text = (
            f"{where}: the student ({item.arch}, {student:,} parameters) is not smaller than its teacher "
            f"{item.teacher} ({teacher:,}); choose a smaller student or set allow_larger: true"
        )
        raise ParamsError([(where, text)])
