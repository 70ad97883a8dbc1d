"""params.yaml read and validated: the whole of it, or what one stage reads, so that an edit elsewhere cannot stop it.

`graph.load_checked` also checks what its parts say of one another; the checks at the end are those that stages repeat.
"""

import posixpath
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from netpress.base.errors import ParamsError
from netpress.base.project import MODEL_STAGES, WEIGHTS
from netpress.params import plugins
from netpress.params.document import Document, read_document
from netpress.params.items import (
    IMAGENET,
    ITEM_TYPES,
    NONE,
    RECIPE_KEYS,
    Data,
    Distill,
    Params,
    Recipe,
    Runtime,
    Shared,
    VariantConfig,
    parent_of,
)
from netpress.params.schema import parse

#: Folders that stages write.
WRITTEN = ("data/prepared", "data/checked", "models", "metrics", "plots")
#: Where DVC runs queued experiments.
COPIES = ".dvc/tmp/exps/"


def read(path: Path) -> dict[str, Any]:
    """Read params.yaml or a profile as it stands; its keys are not validated."""
    document = read_document(path)
    with document.located():
        document.refuse_doubtful()
    return document.values


def load(path: Path) -> Params:
    """Read the whole file and validate every key; see `graph.load_checked` for the cross-references."""
    document = read_document(path)
    with document.located():
        return document.whole(Params)


def for_data(path: Path) -> Data:
    """Return the `data` section alone."""
    document = read_document(path)
    with document.located():
        data = document.section(Data, "data")
        check_source(data)
        check_root(data.root)
        require_root(path.parent, data.root)
    return data


def for_shared(path: Path) -> Shared:
    """Return the seeds and the runtime alone."""
    document = read_document(path)
    with document.located():
        return document.part(Shared, Shared.model_fields)


def for_final(path: Path, model_id: str) -> Runtime:
    """Return the runtime for a model of `final`; of no other is the test accuracy looked at."""
    document = read_document(path)
    with document.located():
        final = document.values.get("final")
        known = [str(entry) for entry in final] if isinstance(final, list) else []
        if model_id not in known:
            raise ParamsError([("final", f"final: no model '{model_id}'{plugins.near_or_known(model_id, known)}")])
        place = known.index(model_id)
        check_model_id(model_id, f"final.{place}", f"final[{place}]", *models_named(document))
        return document.section(Runtime, "runtime")


def for_variant(path: Path, stage: str, variant: str) -> VariantConfig:
    """Return what the stage of one variant reads: its item, its recipe, the seeds and the runtime."""
    document = read_document(path)
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
        for check in member_checks(item, where):
            check()
        check_init(path.parent, item, where)
        check_parent(item, where, *models_named(document))
        shared = document.part(Shared, Shared.model_fields)
    return VariantConfig(seeds=item.seeds or shared.seeds, runtime=shared.runtime, item=item, **recipes)


def check_recipe(name: str, recipes: Any, where: str, key: str) -> None:
    """Raise unless `name`, which stands at `key` of `where`, is one of the `recipes`, which are not validated."""
    known = list(recipes) if isinstance(recipes, dict) else []
    if name not in known:
        key = f"{where}.{key}"
        raise ParamsError([(key, f"{key}: no recipe '{name}'{plugins.near_or_known(name, known)}")])


def check_source(data: Data) -> None:
    """Raise unless there is a source of this name."""
    known = [name.replace("_", "-") for name in plugins.names("ingest/sources")]
    if data.source not in known:
        near = plugins.near_or_known(data.source, known)
        raise ParamsError([("data.source", f"data.source: unknown data source '{data.source[:60]}'{near}")])


def check_root(root: str) -> None:
    """Raise when the images lie above or in a folder that stages write: the graph would be a circle."""
    folder = posixpath.normpath(root)
    above = folder == "." or set(folder.split("/")) == {".."}
    for written in WRITTEN:
        if above or f"{written}/".startswith(f"{folder}/") or f"{folder}/".startswith(f"{written}/"):
            text = f"data.root = {root!r}: the stages write into {written}; put the images into a folder apart from it"
            raise ParamsError([("data.root", text)])


def require_root(root: Path, folder: str) -> None:
    """Raise unless there is something at `folder`, which `data.root` names, of the project in `root`."""
    place = root / folder
    what = "does not exist" if not place.exists() else ""
    if place.is_dir() and not any(place.iterdir()):
        what = "is an empty folder"
    if what:
        text = f"data.root = {folder!r} {what}; put the images there, or name the folder or archive that holds them"
        if COPIES in root.resolve().as_posix():
            text += f". This experiment runs in a copy of the project: run 'dvc add {folder}', or name an absolute path"
        raise ParamsError([("data.root", text)])


def member_checks(item: Any, where: str) -> list[Callable[[], None]]:
    """Return checks that raise unless the architecture and the method of `item` exist and take its options."""

    def check(family: str, name: str, options: Any, keys: tuple[str, str]) -> None:
        parse(plugins.load(family, name, f"{where}.{keys[0]}").Options, options, f"{where}.{keys[1]}")

    checks: list[Callable[[], None]] = []
    if hasattr(item, "arch"):
        checks.append(lambda: check("models", item.arch, item.options, ("arch", "options")))
    if hasattr(item, "method"):
        checks.append(lambda: check(item.family, item.method, item.method_options, ("method", "method_options")))
    return checks


def check_parent(item: Any, where: str, models: Collection[str], stages: Collection[str]) -> None:
    """Raise unless the parent or teacher of `item`, if any, is a model that can be one."""
    parent, key = parent_of(item), parent_key(item, where)
    if parent is None:
        return
    check_model_id(parent, key, key, models, stages)
    if parent.startswith("quantize/"):
        raise ParamsError([(key, f"{key}: '{parent}' is quantized; name the model it was made from")])


def parent_key(item: Any, where: str) -> str:
    """Return the dotted key that names the parent or teacher of `item`."""
    return f"{where}.teacher" if isinstance(item, Distill) else f"{where}.from"


def check_model_id(model_id: str, key: str, shown: str, models: Collection[str], stages: Collection[str]) -> None:
    """Raise unless `model_id`, which stands at `key`, is one of `models` or a round of one.

    `stages` are those whose models are known; `shown` is what messages call `key`.
    """
    base = without_round(model_id)
    if base.split("/")[0] not in stages:
        return  # no stage at all is the schema's complaint
    if base not in models:
        near = plugins.near_or_known(base, list(models))
        raise ParamsError([(key, f"{shown}: no model '{model_id[:80]}'{near}")])
    if base != model_id and not base.startswith(("prune/", "prune_sweep/")):
        raise ParamsError([(key, f"{shown}: '{model_id[:80]}' names a round, but only pruning has rounds")])


def without_round(model_id: str) -> str:
    """Return the model id without its round."""
    return "/".join(model_id.split("/")[:2])


def models_named(document: Document) -> tuple[list[str], list[str]]:
    """Return the models of a file that is not validated, and the stages whose sections can be read."""
    stages = [stage for stage in MODEL_STAGES if isinstance(document.values.get(stage), dict)]
    names = {stage: ["main"] if stage == "prune" else list(document.values[stage]) for stage in stages}
    return [f"{stage}/{name}" for stage in stages for name in names[stage]], stages


def check_init(root: Path, item: Any, where: str) -> None:
    """Raise unless the weights that `init` of `item` asks for, if any, can be had."""
    init = getattr(item, "init", NONE)
    if init == IMAGENET:
        check_imagenet(item.arch, f"{where}.init")
    elif init != NONE:
        weights_file(root, init, f"{where}.init")


def weights_file(root: Path, init: str, key: str) -> Path:
    """Return the file of data/weights that `init`, which stands at `key` of params.yaml, names.

    Raises:
        ParamsError: it is not there; lists the files that are.
    """
    path = root / WEIGHTS / init
    if not path.is_file():
        there = (root / WEIGHTS).iterdir() if (root / WEIGHTS).is_dir() else ()
        known = sorted(entry.name for entry in there if entry.is_file() and not entry.name.startswith("."))
        text = f"{key}: no file {(WEIGHTS / init).as_posix()}{plugins.near_or_known(init, known)}"
        raise ParamsError([(key, f"{text}; put or link it there, or set init: none")])
    return path


def check_imagenet(arch: str, where: str) -> None:
    """Raise unless torchvision has weights for the architecture; `where` is the key that asks for them."""
    known = [name for name in plugins.names("models") if hasattr(plugins.load("models", name), "IMAGENET")]
    if arch not in known:
        text = f"{where} = {IMAGENET}: torchvision has weights for {', '.join(known)} and not for {arch}"
        raise ParamsError([(where, f"{text}; set it to none, or put a file into data/weights and name it")])


def refuse_larger_student(item: Distill, student: int, teacher: int) -> None:
    """Raise when a student of `student` parameters is not smaller than its teacher, unless it says it may be."""
    if student >= teacher and not item.allow_larger:
        text = (
            f"allow_larger = false: the student ({item.arch}, {student:,} parameters) is not smaller than its teacher "
            f"{item.teacher} ({teacher:,}); choose a smaller student or set allow_larger: true"
        )
        raise ParamsError([("allow_larger", text)])
