"""params.yaml read and validated: the whole of it, or what one stage reads, so that an edit elsewhere cannot stop it.

`graph.load_checked` also checks what its parts say of one another; the checks at the end are those that stages repeat.
"""

import posixpath
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from netpress.base.errors import ParamsError
from netpress.base.model_id import ModelId, variants
from netpress.base.project import WEIGHTS
from netpress.params import plugins
from netpress.params.document import Document, read_document
from netpress.params.families import FAMILIES
from netpress.params.items import (
    NONE,
    RECIPE_KEYS,
    Choice,
    Data,
    Distill,
    Shared,
    Train,
    VariantConfig,
    parents_of,
)
from netpress.params.recipes import Recipe, Runtime
from netpress.params.schema import parse
from netpress.params.whole import Params

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
        if not isinstance(section, dict) or stage not in FAMILIES:
            raise ParamsError([(stage, f"no section '{stage}'")])
        known = variants(stage, section)
        if variant not in known:
            raise ParamsError([(stage, f"{stage}: no variant '{variant}'{plugins.near_or_known(variant, known)}")])
        where = ModelId(f"{stage}/{variant}").key
        item: Any = document.section(FAMILIES[stage].item, where)
        recipes: dict[str, Recipe | None] = dict.fromkeys(RECIPE_KEYS)
        for key in (key for key in RECIPE_KEYS if hasattr(item, key)):
            check_recipe(getattr(item, key), document.values.get("recipes"), where, key)
            recipes[key] = document.section(Recipe, f"recipes.{getattr(item, key)}")
        for check in member_checks(item, where):
            check()
        check_init(path.parent, item, where)
        check_parents(item, where, *models_named(document))
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
    """Return checks that raise unless the files that `item` names exist and take its options."""

    def check(choice: Choice) -> None:
        module = plugins.load(choice.folder, getattr(item, choice.key), f"{where}.{choice.key}")
        parse(module.Options, getattr(item, choice.options), f"{where}.{choice.options}")
        if choice.key == "arch":
            check_start(item, where)
        if choice.key == "method" and getattr(item, "budget", None):
            _check_budget(item, module, where)
        if choice.key == "method" and getattr(item, "teacher_weights", "equal") != "equal":
            _check_losses(item, module, where)

    return [partial(check, choice) for choice in item.choices]


def _check_budget(item: Any, module: ModuleType, where: str) -> None:
    """Raise unless the method can tell what each rank would cost."""
    call = "factorize(layer, options, inputs, rank)"
    fault = (
        plugins.misfit(module.factorize, call)
        if hasattr(module, "candidates")
        else "its file defines no candidates(layer, options, inputs)"
    )
    if fault:
        text = f"{item.method} cannot choose ranks by a budget: {fault}; write none, or see docs/methods.md"
        raise ParamsError([(f"{where}.budget", f"{where}.budget = {item.budget}: {text}")])


def _check_losses(item: Any, module: ModuleType, where: str) -> None:
    """Raise unless the method says what its loss is of each image."""
    if not hasattr(module, "losses"):
        text = (
            f"{item.method} cannot weigh teachers image by image: its loss is no mean over images, since its file "
            "defines no losses; write equal, or see docs/methods.md"
        )
        key = f"{where}.teacher_weights"
        raise ParamsError([(key, f"{key} = {item.teacher_weights}: {text}")])


def check_parents(item: Any, where: str, models: Collection[str], stages: Collection[str]) -> None:
    """Raise unless the parents of `item` are models that can be parents."""
    for role, parent in parents_of(item).items():
        key = f"{where}.{role}"
        check_model_id(parent, key, key, models, stages)
        if parent.section == "quantize":
            raise ParamsError([(key, f"{key}: '{parent}' is quantized; name the model it was made from")])


def check_model_id(model_id: str, key: str, shown: str, models: Collection[str], stages: Collection[str]) -> None:
    """Raise unless `model_id`, which stands at `key`, is one of `models` or a round of one.

    `stages` are those whose models are known; `shown` is what messages call `key`.
    """
    base = ModelId(model_id).base
    if base.section not in stages:
        return  # no stage at all is the schema's complaint
    if base not in models:
        near = plugins.near_or_known(base, list(models))
        raise ParamsError([(key, f"{shown}: no model '{model_id[:80]}'{near}")])
    if base != model_id and not base.startswith(("prune/", "prune_sweep/")):
        raise ParamsError([(key, f"{shown}: '{model_id[:80]}' names a round, but only pruning has rounds")])


def models_named(document: Document) -> tuple[list[ModelId], list[str]]:
    """Return the models of a file that is not validated, and the sections that can be read."""
    sections = [section for section in FAMILIES if isinstance(document.values.get(section), dict)]
    names = {section: variants(section, document.values[section]) for section in sections}
    return [ModelId(f"{section}/{name}") for section in sections for name in names[section]], sections


def check_init(root: Path, item: Any, where: str) -> None:
    """Raise unless the file of weights that `init` of `item` names, if any, is there."""
    init = getattr(item, "init", NONE)
    if init != NONE:
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


def published_weights(item: Any) -> str | None:
    """Return the name of the published weights that the options of the item's architecture ask for, if any."""
    module = plugins.load("models", item.arch)
    named = module.published(parse(module.Options, item.options, "options")) if hasattr(module, "published") else None
    return None if named is None else str(named)


def check_start(item: Any, where: str) -> None:
    """Raise unless an item with an architecture names one start at most, where it may, and trains if it names none."""
    published, init = published_weights(item), getattr(item, "init", NONE)
    if published and not isinstance(item, Train):
        text = "published weights are where items of train begin; train the network there"
        raise ParamsError([(f"{where}.options", f"{where}.options: {text}")])
    if published and init != NONE:
        raise ParamsError(
            [(f"{where}.init", f"{where}.init = {init}: options ask for {published}; choose one of them")]
        )
    if item.epochs == 0 and not published and init == NONE:
        text = "brings a trained network in; name its weights in init or in options, or train for an epoch or more"
        raise ParamsError([(f"{where}.epochs", f"{where}.epochs = 0: {text}")])


def refuse_larger_student(item: Distill, student: int, teacher: int) -> None:
    """Raise when a student of `student` parameters is not smaller than its teacher, unless it says it may be."""
    if student >= teacher and not item.allow_larger:
        text = (
            f"allow_larger = false: the student ({item.arch}, {student:,} parameters) is not smaller than its teacher "
            f"{item.teacher} ({teacher:,}); choose a smaller student or set allow_larger: true"
        )
        raise ParamsError([("allow_larger", text)])
