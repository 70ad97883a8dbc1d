"""What the sections of params.yaml say of one another: parents, methods, sizes, cycles."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from netpress.base.errors import ParamsError
from netpress.base.model_id import CONTROL, ModelId
from netpress.base.project import MODEL_STAGES
from netpress.params import plugins
from netpress.params.document import MAX_SHOWN, Document, read_document
from netpress.params.families import FAMILIES
from netpress.params.items import RECIPE_KEYS, Data, Distill, Prune, Train, parents_of
from netpress.params.reader import (
    check_init,
    check_model_id,
    check_parents,
    check_recipe,
    check_root,
    check_source,
    member_checks,
    models_named,
    refuse_larger_student,
    require_root,
)
from netpress.params.schema import LAST
from netpress.params.whole import Params

Faults = list[tuple[str, str]]


def load_checked(path: Path) -> Params:
    """Read params.yaml and validate all of it; `checks.check_project` also looks at what it names on disk.

    Raises:
        ConfigError: a line for every fault of the file, with its place.
    """
    document = read_document(path)
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
    params = collect(faults, lambda: document.whole(Params))
    data = params.data if params else collect([], lambda: document.section(Data, "data"))
    known = Known(params.items(), frozenset(MODEL_STAGES), params.recipes) if params else _readable(document)
    if data:
        collect(faults, lambda: check_source(data))
        collect(faults, lambda: check_root(data.root))
    final = document.values.get("final")
    _check(faults, known, final if isinstance(final, list) else [])
    if params:
        for key, name in _named_by_report(params):
            collect(faults, partial(_check_compared, name, key, known))
    if params and not faults:
        _check_networks(faults, params)
    if params and not faults:
        _check_seeds(faults, params)
        _check_sizes(faults, params)
        _check_curves(faults, params)
    if params is None or faults:
        raise ParamsError(faults)
    return params


def collect(faults: Faults, check: Callable[[], Any]) -> Any:
    """Return what `check` returns; where it raises, add its faults to `faults` and return None."""
    try:
        return check()
    except ParamsError as error:
        faults += error.faults
        return None


def _readable(document: Document) -> Known:
    """Return what can be read of a file with faults."""
    models, stages = models_named(document)
    items: dict[str, Any] = {
        model_id: collect([], partial(document.section, FAMILIES[model_id.section].item, model_id.key))
        for model_id in models
    }
    recipes = document.values.get("recipes")
    return Known(items, frozenset(stages), recipes if isinstance(recipes, dict) else None)


def _check(faults: Faults, known: Known, final: Sequence[Any]) -> None:
    """Add to `faults` every cross-reference that does not hold."""
    if "prune_sweep/main" in known.items:
        text = "prune_sweep.main: 'main' is the curve of the section prune; name the sweep otherwise"
        faults.append(("prune_sweep.main", text))
    for model_id, item in known.items.items():
        if len(faults) > MAX_SHOWN:
            return
        for check in _checks_of(item, ModelId(model_id).key, known):
            collect(faults, check)
    for i, model_id in enumerate(final):
        if isinstance(model_id, str):
            where = f"final.{i}", f"final[{i}]"
            collect(faults, partial(check_model_id, model_id, *where, known.items, known.stages))
    collect(faults, lambda: _check_cycles(known.items))


def _named_by_report(params: Params) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, model id or a control's) of all that claims and experiments name."""
    for name, claim in params.claims.items():
        for part in ("order", "equal"):
            yield from ((f"claims.{name}.{part}.{i}", model_id) for i, model_id in enumerate(getattr(claim, part)))
    for name, experiment in params.experiments.items():
        yield from ((f"experiments.{name}.rows.{i}.model", row.model) for i, row in enumerate(experiment.rows))


def _check_compared(name: str, key: str, known: Known) -> None:
    """Raise unless `name` is a model, or the control of a pruned one that has one."""
    model_id = ModelId(name.removesuffix(CONTROL))
    check_model_id(model_id, key, key, known.items, known.stages)
    if model_id == name:
        return
    item = known.items[model_id.base]
    if not isinstance(item, Prune):
        raise ParamsError([(key, f"{key} = {name}: only pruned models have controls")])
    if (model_id.round or LAST) not in item.control_rounds:
        wanted = "last" if model_id.round is None else model_id.round
        text = f"it has none; add {wanted} to {model_id.base.key}.control_rounds"
        raise ParamsError([(key, f"{key} = {name}: {text}")])


def _checks_of(item: Any, where: str, known: Known) -> Sequence[Callable[[], None]]:
    """Return the checks of one item, none for a faulty one, which is None."""
    checks: list[Callable[[], None]] = []
    for key in (key for key in RECIPE_KEYS if hasattr(item, key) and known.recipes is not None):
        checks.append(partial(check_recipe, getattr(item, key), known.recipes, where, key))
    if item is not None:
        checks += member_checks(item, where)
        checks.append(lambda: check_parents(item, where, known.items, known.stages))
    return checks


def _check_cycles(items: Mapping[str, Any]) -> None:
    """Raise for the first circle of parents."""
    parents = {ModelId(name): parents_of(item) for name, item in items.items() if item is not None}
    try:
        TopologicalSorter({name: {p.base for p in found.values()} for name, found in parents.items()}).prepare()
    except CycleError as error:
        circle = error.args[1][::-1]  # each made from the next
        role = next(role for role, parent in parents[circle[0]].items() if parent.base == circle[1])
        key = f"{circle[0].key}.{role}"
        raise ParamsError([(key, f"{key}: its parents form a circle: {' <- '.join(circle)}")]) from None


def _check_seeds(faults: Faults, params: Params) -> None:
    """Add to `faults` items with a seed that a parent, of several seeds, has not."""
    items = params.items()
    for model_id, item in items.items():
        for parent in parents_of(item).values():
            known = items[parent.base].seeds or params.seeds
            missing = [seed for seed in item.seeds or params.seeds if seed not in known]
            if missing and len(known) > 1:
                key = ModelId(model_id).key + (".seeds" if item.seeds else "")
                text = f"its parent {parent} has the seeds {known} and not {missing[0]}; give both the same seeds"
                faults.append((key, f"{key}: {text}"))


def _check_networks(faults: Faults, params: Params) -> None:
    """Add to `faults` items whose network cannot be built; published weights are not fetched."""
    for model_id, item in params.items().items():
        key = ModelId(model_id).key
        if hasattr(item, "arch"):
            try:
                _count(item, params.data)
            except ParamsError as error:
                faults += error.below(key).faults
            except Exception as error:  # whatever the file of an architecture raises
                place = plugins.origin(error) or "it cannot be built"
                text = f"{key}.arch = {item.arch}: {place}: {plugins.first_line(error)}"
                faults.append((f"{key}.arch", text))


def _check_sizes(faults: Faults, params: Params) -> None:
    """Add to `faults` students with as many parameters as their teachers, where both can be counted beforehand."""
    items = params.items()
    for model_id, item in items.items():
        teacher = items[ModelId(item.teacher).base] if isinstance(item, Distill) else None
        if hasattr(teacher, "arch"):
            try:
                refuse_larger_student(item, _count(item, params.data), _count(teacher, params.data))
            except ParamsError as error:
                faults += error.below(ModelId(model_id).key).faults


def _check_curves(faults: Faults, params: Params) -> None:
    """Add to `faults` curves with fewer epochs than rounds, where both can be counted beforehand."""
    from netpress.graph.rounds import check_epochs

    items = params.items()
    for model_id, item in items.items():
        if isinstance(item, Prune) and not params.recipes[item.recipe].min_steps:  # which may add epochs
            try:
                check_epochs(item, items.get(item.parent), params.data)
            except ParamsError as error:
                faults += error.below(ModelId(model_id).key).faults


def _count(item: Any, data: Data) -> int:
    from netpress.graph.rounds import known_shape

    return _count_params(item.arch, json.dumps(item.options, sort_keys=True), known_shape(data))


@functools.lru_cache(maxsize=1024)
def _count_params(arch: str, options: str, shape: tuple[int, int]) -> int:
    """Count the parameters of an architecture with the JSON `options` for (classes, channels): milliseconds."""
    from netpress.core.measure import count_params
    from netpress.core.networks import build_on_meta

    return count_params(build_on_meta(arch, *shape, **json.loads(options)))


def check_project(root: Path) -> Params:
    """Validate the whole of params.yaml, and look for the data and the files of weights that it names.

    Raises:
        ConfigError: a line for every fault, with its place in the file.
    """
    document = read_document(root / "params.yaml")
    faults: Faults = []
    params: Params | None = collect(faults, lambda: checked(document))
    data = params.data if params else collect([], lambda: document.section(Data, "data"))
    if data:
        collect(faults, lambda: require_root(root, data.root))
    for key in (name.key for name in models_named(document)[0] if name.section == "train"):
        item = collect([], partial(document.section, Train, key))
        if item:
            collect(faults, partial(check_init, root, item, key))
    if params is None or faults:
        raise document.error(faults)
    return params
