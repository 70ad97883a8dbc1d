"""dvc.lock as data: what each stage read and made, by hash, and in which order the stages follow from one another."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from netpress.base.errors import ArtifactError, ConfigError
from netpress.params.schema import Strict, parse

NAME = "dvc.lock"
REMEDY = "restore it from Git, or delete it and run 'dvc repro'"


class _Item(Strict):
    model_config = ConfigDict(extra="ignore")

    path: str
    md5: str = "-"


class _Stage(Strict):
    model_config = ConfigDict(extra="ignore")

    cmd: str
    deps: list[_Item] = Field(default_factory=list)
    params: dict[str, dict[str, Any]] = Field(default_factory=dict)
    outs: list[_Item] = Field(default_factory=list)


class _File(Strict):
    model_config = ConfigDict(extra="ignore")

    stages: dict[str, _Stage] = Field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One stage of dvc.lock: dependencies and outputs as path -> md5, params as dotted key -> value."""

    cmd: str
    deps: Mapping[str, str]
    params: Mapping[str, Any]
    outs: Mapping[str, str]


Lock = dict[str, Entry]


def read_lock(path: Path) -> Lock:
    """Read dvc.lock; without one there are no entries.

    Raises:
        ArtifactError: it is damaged.
    """
    if not path.exists():
        return {}
    try:
        stages = parse(_File, read_yaml(path), "").stages
    except ConfigError as error:
        raise ArtifactError(f"{path.name} cannot be read ({str(error).splitlines()[0]}); {REMEDY}") from None
    return {name: _entry(stage) for name, stage in stages.items()}


def read_yaml(path: Path) -> Any:
    """Read a YAML file that DVC owns, as DVC does.

    Raises:
        ConfigError: it is missing or not YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
    except (YAMLError, ValueError, OSError) as error:
        raise ConfigError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None


def _entry(stage: _Stage) -> Entry:
    params = {
        key if file == "params.yaml" else f"{file}:{key}": value
        for file, values in stage.params.items()
        for key, value in values.items()
    }
    deps, outs = ({item.path: item.md5 for item in items} for items in (stage.deps, stage.outs))
    return Entry(stage.cmd, deps, params, outs)


def parents(lock: Lock, stage: str) -> set[str]:
    """Return the stages of which `stage` reads an output, a part of one, or a folder that holds one."""
    return {
        other
        for other, entry in lock.items()
        if other != stage and any(_overlap(dep, out) for dep in lock[stage].deps for out in entry.outs)
    }


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def in_order(lock: Lock) -> list[str]:
    """Return the stages, every one after its parents, else in the order of the file.

    Raises:
        ArtifactError: the stages form a circle.
    """
    waiting = {stage: parents(lock, stage) for stage in lock}
    ordered: list[str] = []
    while waiting:
        ready = next((stage for stage, above in waiting.items() if not above & waiting.keys()), None)
        if ready is None:
            raise ArtifactError(f"{NAME}: the stages {', '.join(waiting)} form a circle; {REMEDY}")
        ordered.append(ready)
        del waiting[ready]
    return ordered


def with_ancestors(lock: Lock, chosen: Collection[str]) -> set[str]:
    """Return `chosen` and all stages from which they follow."""
    found: set[str] = set()
    waiting = list(chosen)
    while waiting:
        stage = waiting.pop()
        if stage not in found:
            found.add(stage)
            waiting += parents(lock, stage)
    return found


def changed_values(old: Any, new: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, old value, new value) wherever two nested values differ; an absent value is None."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for part in {**old, **new}:
            yield from changed_values(old.get(part), new.get(part), f"{key}.{part}")
    elif old != new or type(old) is not type(new):
        yield key, old, new


def changed_inputs(old: Entry, new: Entry, made: Collection[str]) -> list[str]:
    """Say what a stage reads that is not what it read: command, code and data, params.

    `made` are the outputs of other stages: where those differ, their own stage says so.
    """
    found = ["another command"] if old.cmd != new.cmd else []
    for path in sorted({*old.deps, *new.deps}):
        if old.deps.get(path) != new.deps.get(path) and not any(_overlap(path, out) for out in made):
            found.append(f"{path} changed" if path in old.deps else f"{path} is read too")
    for key in sorted({*old.params, *new.params}):
        values = changed_values(old.params.get(key), new.params.get(key), key)
        found += [f"{name}: {was!r} became {now!r}" for name, was, now in values]
    return found
