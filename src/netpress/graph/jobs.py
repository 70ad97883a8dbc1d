"""The stages of the graph as data: what each waits for."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from netpress.base.errors import ConfigError
from netpress.base.model_id import ModelId
from netpress.base.words import near_or_known
from netpress.params.items import parents_of
from netpress.params.whole import Params


@dataclass(frozen=True)
class Job:
    """A stage of dvc.yaml, such as `train@resnet18_strong`: the stages whose outputs it reads, its count of seeds.

    The latter is 1 where the processes of one training share its devices: none makes a seed by itself then.
    """

    stage: str
    needs: frozenset[str]
    seeds: int = 1


def jobs_of(params: Params) -> dict[str, Job]:
    """Return every stage that `params` asks for, in the order in which `dvc repro` runs them.

    That is the order of dvc.yaml, but for stages that others before them need. Parents that do not exist, and circles,
    are left to the stage `check`, which comes before all others.
    """
    items = {ModelId(name).stage: item for name, item in params.items().items()}
    models = {
        stage: ["prepare", *(parent.stage for parent in parents_of(item).values())] for stage, item in items.items()
    }
    alone = params.runtime.devices == 1
    seeds = {stage: len(item.seeds or params.seeds) for stage, item in items.items() if alone}
    tests = {f"test@{model_id}": ["prepare", ModelId(model_id).stage] for model_id in params.final}
    needs = {"check": [], "prepare": ["check"], **models, **tests, "aggregate": ["prepare", *models, *tests]}
    ordered: dict[str, Job] = {}
    begun: set[str] = set()

    def visit(stage: str) -> None:
        if stage in needs and stage not in begun:
            begun.add(stage)
            for need in needs[stage]:
                visit(need)
            ordered[stage] = Job(stage, frozenset(needs.keys() & needs[stage]), seeds.get(stage, 1))

    for stage in needs:
        visit(stage)
    return ordered


def chosen(jobs: Mapping[str, Job], names: Iterable[str]) -> dict[str, Job]:
    """Return the jobs that `names` mean, and what they need.

    Args:
        jobs: all of the graph.
        names: stages (`train@net`), groups of them (`train`) or model ids (`train/net`).

    Raises:
        ConfigError: a name means none of them.
    """
    wanted: set[str] = set()
    for name in names:
        meant = {stage for stage in jobs if name in (stage, stage.partition("@")[0], ModelId.of_stage(stage))}
        if not meant:
            raise ConfigError(f"{name!r} is no stage and no model of params.yaml{near_or_known(name, _names(jobs))}")
        wanted |= meant | {need for stage in meant for need in all_needs(jobs, stage)}
    return {stage: job for stage, job in jobs.items() if stage in wanted}


def _names(jobs: Iterable[str]) -> list[str]:
    """Return what a user may name: groups first, then stages."""
    return list(dict.fromkeys([*(stage.partition("@")[0] for stage in jobs), *jobs]))


def all_needs(jobs: Mapping[str, Job], stage: str) -> set[str]:
    """Return every stage among `jobs` that `stage` follows from, directly or not."""
    found: set[str] = set()
    waiting = [stage]
    while waiting:
        new = (jobs[waiting.pop()].needs & jobs.keys()) - found
        found |= new
        waiting += new
    return found


def direct_needs(jobs: Mapping[str, Job], stage: str) -> set[str]:
    """Return the stages among `jobs` after which `stage` begins: those that no other one of them follows from."""
    needs = set(jobs[stage].needs & jobs.keys())
    return needs - {earlier for need in needs for earlier in all_needs(jobs, need)}


def stale(jobs: Mapping[str, Job], changed: Collection[str]) -> dict[str, Job]:
    """Return the jobs that are among the stages `changed` or follow from one of them."""
    return {stage: job for stage, job in jobs.items() if not {stage, *all_needs(jobs, stage)}.isdisjoint(changed)}
