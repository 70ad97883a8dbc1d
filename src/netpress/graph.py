"""What the sections of params.yaml say of one another: parents, methods, sizes, cycles."""

import functools
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.base import params_file, plugins
from netpress.base.errors import ParamsError
from netpress.base.params_file import Document
from netpress.base.project import MODEL_STAGES
from netpress.base.schema import parse
from netpress.config import (
    IMAGENET,
    ITEM_TYPES,
    RECIPE_KEYS,
    Data,
    Distill,
    Params,
    parent_of,
)
from netpress.reader import check_imagenet, check_recipe, refuse_larger_student

#: Folders that stages write.
WRITTEN = ("data/prepared", "models", "metrics", "plots")
Faults = list[tuple[str, str]]


def load_checked(path: Path) -> Params:
    """Read params.yaml and validate all of it, as `prepare`, `doctor` and `make repro` do before any work.

    Raises:
        ConfigError: a line for every fault of the file, with its place.
    """
    document = params_file.read(path)
    with document.located():
        return checked(document)


@dataclass(frozen=True)
class Known:
    """What references may name; a section that cannot be read is no reason to blame those who name its parts."""

    items: Mapping[str, Any]  # model id -> its item, or None where the item itself is faulty
    stages: frozenset[str]  # whose sections can be read
    recipes: Mapping[str, Any] | None


def checked(document: Document) -> Params:
    """Validate all of `document`; every fault is named in one `ParamsError`.

    Where one section is faulty, the others are checked all the same.
    """
    faults: Faults = []
    params = _collect(faults, lambda: document.whole(Params))
    data = params.data if params else _collect([], lambda: document.section(Data, "data"))
    known = Known(params.items(), frozenset(MODEL_STAGES), params.recipes) if params else _readable(document)
    if data:
        _collect(faults, lambda: _check_source(data))
        _collect(faults, lambda: _check_root(data.root))
    final = document.values.get("final")
    _check(faults, known, final if isinstance(final, list) else [])
    if params:
        for key, model_id in _named_by_report(params):
            _collect(faults, functools.partial(_check_model_id, model_id, key, key, known))
    if params and not faults:
        _check_seeds(faults, params)
        _check_sizes(faults, known.items)
    if params is None or faults:
        raise ParamsError(faults)
    return params


def _collect(faults: Faults, check: Callable[[], Any]) -> Any:
    """Return what `check` returns; where it raises, add its faults to `faults` and return None."""
    try:
        return check()
    except ParamsError as error:
        faults += error.faults
        return None


def _readable(document: Document) -> Known:
    """Return what can be read of a file with faults."""
    items: dict[str, Any] = {}
    stages = [stage for stage in MODEL_STAGES if isinstance(document.values.get(stage), dict)]
    for stage in stages:
        for name in ["main"] if stage == "prune" else document.values[stage]:
            key = "prune" if stage == "prune" else f"{stage}.{name}"
            items[f"{stage}/{name}"] = _collect([], functools.partial(document.section, ITEM_TYPES[stage], key))
    recipes = document.values.get("recipes")
    return Known(items, frozenset(stages), recipes if isinstance(recipes, dict) else None)


def _check(faults: Faults, known: Known, final: Sequence[Any]) -> None:
    """Add to `faults` every cross-reference that does not hold."""
    if "prune_sweep/main" in known.items:
        text = "prune_sweep.main: 'main' is the curve of the section prune; name the sweep otherwise"
        faults.append(("prune_sweep.main", text))
    for model_id, item in known.items.items():
        if len(faults) > params_file.MAX_SHOWN:
            return
        for check in _checks_of(item, _key(model_id), known):
            _collect(faults, check)
    for i, model_id in enumerate(final):
        if isinstance(model_id, str):
            _collect(faults, functools.partial(_check_model_id, model_id, f"final.{i}", f"final[{i}]", known))
    _collect(faults, lambda: _check_cycles(known.items))


def _named_by_report(params: Params) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, model id) of every model that a claim or an experiment names."""
    for name, claim in params.claims.items():
        for part in ("order", "equal"):
            yield from ((f"claims.{name}.{part}.{i}", model_id) for i, model_id in enumerate(getattr(claim, part)))
    for name, experiment in params.experiments.items():
        yield from ((f"experiments.{name}.rows.{i}.model", row.model) for i, row in enumerate(experiment.rows))


def _key(model_id: str) -> str:
    """Return the dotted key of a model's item."""
    return "prune" if model_id == "prune/main" else model_id.replace("/", ".")


def _checks_of(item: Any, where: str, known: Known) -> Sequence[Callable[[], None]]:
    """Return the checks of one item, none for a faulty one, which is None."""
    checks: list[Callable[[], None]] = []
    for key in (key for key in RECIPE_KEYS if hasattr(item, key) and known.recipes is not None):
        checks.append(functools.partial(check_recipe, getattr(item, key), known.recipes, where, key))
    if hasattr(item, "arch"):
        checks.append(lambda: _check_plugin("models", item.arch, item.options, where, "arch", "options"))
        if getattr(item, "init", None) == IMAGENET:
            checks.append(lambda: check_imagenet(item.arch, f"{where}.init"))
    if hasattr(item, "method"):
        options = item.method_options
        checks.append(lambda: _check_plugin(item.family, item.method, options, where, "method", "method_options"))
    if parent_of(item):
        checks.append(lambda: _check_parent(item, _parent_key(item, where), known))
    return checks


def _check_plugin(family: str, name: str, options: Any, where: str, name_key: str, options_key: str) -> None:
    module = plugins.load(family, name, f"{where}.{name_key}")
    parse(module.Options, options, f"{where}.{options_key}")


def _check_source(data: Data) -> None:
    known = [name.replace("_", "-") for name in plugins.names("sources")]
    if data.source not in known:
        near = plugins.near_or_known(data.source, known)
        raise ParamsError([("data.source", f"data.source: unknown data source '{data.source[:60]}'{near}")])


def _check_root(root: str) -> None:
    """Raise when the images lie above or in a folder that stages write: the graph would be a circle."""
    folder = posixpath.normpath(root)
    above = folder == "." or set(folder.split("/")) == {".."}
    for written in WRITTEN:
        if above or f"{written}/".startswith(f"{folder}/") or f"{folder}/".startswith(f"{written}/"):
            text = f"data.root = {root!r}: the stages write into {written}; put the images into a folder apart from it"
            raise ParamsError([("data.root", text)])


def _parent_key(item: Any, where: str) -> str:
    return f"{where}.teacher" if isinstance(item, Distill) else f"{where}.from"


def _check_parent(item: Any, key: str, known: Known) -> None:
    parent = parent_of(item) or ""
    _check_model_id(parent, key, key, known)
    if parent.startswith("quantize/"):
        raise ParamsError([(key, f"{key}: '{parent}' is quantized; name the model it was made from")])


def _check_model_id(model_id: str, key: str, shown: str, known: Known) -> None:
    """Raise unless `model_id`, which stands at `key`, is a known model or a round of one."""
    base = _without_round(model_id)
    if base.split("/")[0] not in known.stages:
        return  # no stage at all is the schema's complaint
    if base not in known.items:
        near = plugins.near_or_known(base, list(known.items))
        raise ParamsError([(key, f"{shown}: no model '{model_id[:80]}'{near}")])
    if base != model_id and not base.startswith(("prune/", "prune_sweep/")):
        raise ParamsError([(key, f"{shown}: '{model_id[:80]}' names a round, but only pruning has rounds")])


def _without_round(model_id: str) -> str:
    return "/".join(model_id.split("/")[:2])


def _check_cycles(items: Mapping[str, Any]) -> None:
    """Raise for the first circle of parents; each model is walked through once."""
    done: set[str] = set()
    for start in items:
        path: dict[str, None] = {}  # keeps the order
        current: str | None = start
        while current is not None and current not in done and current not in path:
            path[current] = None
            parent = parent_of(items.get(current))
            current = _without_round(parent) if parent else None
        if current in path:
            circle = [*path][[*path].index(current) :]
            key = _parent_key(items[current], _key(current))
            raise ParamsError([(key, f"{key}: its parents form a circle: {' <- '.join([*circle, current])}")])
        done |= path.keys()


def _check_seeds(faults: Faults, params: Params) -> None:
    """Add to `faults` items with a seed that their parent, of several seeds, has not."""
    items = params.items()
    for model_id, item in items.items():
        parent = parent_of(item)
        if parent is None:
            continue
        known = items[_without_round(parent)].seeds or params.seeds
        missing = [seed for seed in item.seeds or params.seeds if seed not in known]
        if missing and len(known) > 1:
            key = f"{_key(model_id)}.seeds" if item.seeds else f"{_key(model_id)}"
            text = f"{key}: its parent {parent} has the seeds {known} and not {missing[0]}; give both the same seeds"
            faults.append((key, text))


def _check_sizes(faults: Faults, items: Mapping[str, Any]) -> None:
    """Add to `faults` students with as many parameters as their teachers, where both can be counted beforehand."""
    for model_id, item in items.items():
        teacher = items[_without_round(item.teacher)] if isinstance(item, Distill) else None
        if hasattr(teacher, "arch"):
            sizes = _count(item), _count(teacher)
            _collect(faults, functools.partial(refuse_larger_student, item, *sizes, _key(model_id)))


def _count(item: Any) -> int:
    return _count_params(item.arch, json.dumps(item.options, sort_keys=True))


@functools.lru_cache(maxsize=1024)
def _count_params(arch: str, options: str) -> int:
    """Count the parameters of an architecture with the JSON `options`; building one takes milliseconds."""
    from netpress.measure import count_params
    from netpress.models import build_on_meta

    return count_params(build_on_meta(arch, **json.loads(options)))
