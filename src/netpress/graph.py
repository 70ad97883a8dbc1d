"""What the sections of params.yaml say of one another: parents, methods, sizes, cycles."""

from pathlib import Path
from typing import Any

from netpress.base import plugins
from netpress.base.errors import ConfigError
from netpress.base.schema import parse
from netpress.config import (
    Data,
    Distill,
    Params,
    Quantize,
    check_recipe,
    load,
    parent_of,
    refuse_larger_student,
)

FAMILIES = {"Distill": "distill", "Factorize": "lowrank", "Prune": "prune", "Quantize": "quantize"}


def load_checked(path: Path) -> Params:
    """Read params.yaml and validate all of it, as `prepare`, `doctor` and `make repro` do before any work."""
    params = load(path)
    check(params)
    return params


def check(params: Params) -> None:
    """Raise one `ConfigError` that names every cross-reference of the file that does not hold."""
    faults: list[str] = []
    items = params.items()
    checks: list[Any] = [lambda: _check_names(params), lambda: _check_data(params.data), lambda: _check_cycles(items)]
    for model_id, item in items.items():
        where = "prune" if model_id == "prune/main" else model_id.replace("/", ".")
        checks += [
            lambda item=item, where=where: _check_item(item, where, params),
            lambda item=item, where=where: _check_parent(item, where, items),
        ]
    checks += [lambda i=i, m=m: _check_model_id(m, f"final[{i}]", items) for i, m in enumerate(params.final)]
    for run in checks:
        try:
            run()
        except ConfigError as error:
            faults.append(str(error))
    if not faults:
        for model_id, item in items.items():
            if isinstance(item, Distill):
                try:
                    _check_smaller(item, model_id.replace("/", "."), items)
                except ConfigError as error:
                    faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))


def _check_names(params: Params) -> None:
    if "main" in params.prune_sweep:
        raise ConfigError("prune_sweep.main: 'main' is the curve of the section prune; name the sweep otherwise")


def _check_data(data: Data) -> None:
    known = [name.replace("_", "-") for name in plugins.names("sources")]
    if data.source not in known:
        near = plugins.did_you_mean(data.source, known)
        raise ConfigError(f"data.source: unknown data source '{data.source}'{near}; known: {', '.join(known)}")


def _check_item(item: Any, where: str, params: Params) -> None:
    if hasattr(item, "recipe"):
        check_recipe(item.recipe, list(params.recipes), where)
    if hasattr(item, "arch"):
        module = plugins.load("models", item.arch, f"{where}.arch")
        parse(module.Options, item.options, f"{where}.options")
    if hasattr(item, "method"):
        module = plugins.load(FAMILIES[type(item).__name__], item.method, f"{where}.method")
        parse(module.Options, item.method_options, f"{where}.method_options")


def _check_parent(item: Any, where: str, items: dict[str, Any]) -> None:
    parent = parent_of(item)
    if parent is None:
        return
    key = f"{where}.teacher" if isinstance(item, Distill) else f"{where}.from"
    _check_model_id(parent, key, items)
    if isinstance(items[_without_round(parent)], Quantize):
        raise ConfigError(f"{key}: '{parent}' is quantized; name the model it was made from")


def _check_model_id(model_id: str, where: str, items: dict[str, Any]) -> None:
    base = _without_round(model_id)
    if base not in items:
        near = plugins.did_you_mean(base, list(items))
        raise ConfigError(f"{where}: no model '{model_id}'{near}; known: {', '.join(items)}")
    if base != model_id and not base.startswith(("prune/", "prune_sweep/")):
        raise ConfigError(f"{where}: '{model_id}' names a round, but only pruning has rounds")


def _without_round(model_id: str) -> str:
    return "/".join(model_id.split("/")[:2])


def _check_cycles(items: dict[str, Any]) -> None:
    for start in items:
        seen = [start]
        while (parent := parent_of(items.get(_without_round(seen[-1])))) is not None:
            parent = _without_round(parent)
            if parent in seen:
                raise ConfigError(f"{start}: its parents form a circle: {' <- '.join([*seen, parent])}")
            seen.append(parent)


def _check_smaller(item: Distill, where: str, items: dict[str, Any]) -> None:
    """Refuse a student with as many parameters as its teacher, where both can be counted beforehand."""
    teacher = items[_without_round(item.teacher)]
    if hasattr(teacher, "arch"):
        refuse_larger_student(item, _count(item), _count(teacher), where)


def _count(item: Any) -> int:
    from netpress.measure import count_params
    from netpress.models import build_on_meta

    return count_params(build_on_meta(item.arch, **item.options))
