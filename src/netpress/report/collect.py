"""The metrics of every model of params.yaml, read and checked.

Variants come from the items of params.yaml and never from a glob, so the files of a removed variant are not seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from netpress.base.errors import ArtifactError, ConfigError
from netpress.base.files import read_json, read_sealed
from netpress.base.model_id import ModelId
from netpress.base.project import metrics_file
from netpress.core.metrics import RIGHT, VAL_ACC, Measured, Metrics, Round, TestMetrics, unpacked
from netpress.params.families import FAMILIES
from netpress.params.items import parents_of
from netpress.params.schema import Strict, parse
from netpress.params.whole import Claim, Experiment

DATA = Path("metrics/data.json")


@dataclass(frozen=True)
class Model:
    """One row of the report: a variant, or a pruning round that `final` names.

    Attributes:
        id: `<stage>/<variant>`, or `<stage>/<variant>/round_<k>`.
        item: the variant's item of params.yaml.
        arch: the architecture it was built from.
        method: how it was compressed; None for a network trained on the labels alone.
        measured: its figures; `Metrics` for a variant, `Round` for a round.
        test: its test figures, if `final` names it.
    """

    id: ModelId
    item: Any
    arch: str
    method: str | None
    measured: Measured
    test: TestMetrics | None = None

    @property
    def stage(self) -> str:
        """The section of params.yaml."""
        return self.id.section

    @property
    def variant(self) -> str:
        """The name below the stage."""
        return self.id.variant

    @property
    def family(self) -> str:
        """The family under which it is shown."""
        return FAMILIES[self.stage].title

    @property
    def parent(self) -> ModelId | None:
        """Model id of the teacher, or of the model it was made from."""
        return next(iter(self.parents.values()), None)

    @property
    def epochs(self) -> int | None:
        """Epochs of its own training or fine-tuning; None for a round."""
        return self.measured.epochs if isinstance(self.measured, Metrics) else None

    @property
    def parents(self) -> dict[str, ModelId]:
        """Role -> model id of all its parents."""
        return parents_of(self.item)


@dataclass(frozen=True)
class Answers:
    """Which images one model names right.

    Attributes:
        seeds: in the order of the rows.
        right: (seeds, images) bool.
    """

    seeds: tuple[int, ...]
    right: NDArray[np.bool_]

    def of(self, seeds: Sequence[int]) -> NDArray[np.bool_]:
        """Return the rows of `seeds`, in their order."""
        return self.right[[self.seeds.index(seed) for seed in seeds]]


@dataclass(frozen=True)
class Study:
    """The models of one params.yaml, in the order of the graph, and what it claims and compares them with.

    `missing` are those left out because they are not made yet; `aggregate` leaves out none.
    """

    models: tuple[Model, ...]
    claims: Mapping[str, Claim] = field(default_factory=dict)
    experiments: Mapping[str, Experiment] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @cached_property
    def by_id(self) -> dict[str, Model]:
        """Model id -> row."""
        return {model.id: model for model in self.models}

    def rounds(self, model_id: str) -> list[Round]:
        """Return the rounds of a pruning variant, or nothing for other models."""
        measured = self.by_id[model_id].measured
        return measured.rounds if isinstance(measured, Metrics) else []

    def answers(self, model_id: str, key: str = VAL_ACC) -> Answers | None:
        """Return which validation images a model or a pruning round names right; None where its metrics do not say.

        Args:
            key: the accuracy that they make up, such as that of the control.

        Raises:
            ArtifactError: there is no such model or round.
        """
        bits = getattr(self.measured(model_id), f"{key}{RIGHT}", [])
        base = self.by_id[ModelId(model_id).base].measured
        if not bits or not isinstance(base, Metrics) or base.val_images is None:
            return None
        return Answers(tuple(base.seeds), unpacked(bits, base.val_images))

    def measured(self, model_id: str) -> Measured:
        """Return the figures of a model or of a pruning round `<stage>/<variant>/round_<k>`.

        Raises:
            ArtifactError: there is no such model, or its metrics list no such round.
        """
        if model_id in self.by_id:
            return self.by_id[model_id].measured
        base, number = ModelId(model_id).base, ModelId(model_id).round
        if base not in self.by_id:
            raise ArtifactError(f"params.yaml has no model '{model_id}', which it names; name one of its models")
        found = [r for r in self.rounds(base) if r.round == number]
        if not found:
            raise ArtifactError(f"metrics/{base}.json lists no '{model_id}'; run 'dvc repro', or name another round")
        return found[0]


def class_names(root: Path) -> list[str]:
    """Return the names of the classes in the order of their labels, as `prepare` has left them in its metrics.

    Raises:
        ArtifactError: the metrics are missing or damaged.
    """
    return _parsed(root, root / DATA, _Classes, read_json, "run 'dvc repro prepare'").class_names


def collect(
    root: Path,
    items: Mapping[str, Any],
    final: Sequence[str] = (),
    claims: Mapping[str, Claim] | None = None,
    experiments: Mapping[str, Experiment] | None = None,
) -> Study:
    """Read the metrics of all models.

    Args:
        root: the project's folder.
        items: model id -> item of params.yaml, in the order of the graph.
        final: the model ids whose test metrics are read.
        claims, experiments: those sections of params.yaml.

    Raises:
        ArtifactError: a file is missing, damaged, or belongs to other weights; names file and remedy.
    """
    metrics = {model_id: read_metrics(root, model_id, Metrics) for model_id in items}
    study = Study(tuple(Model(ModelId(i), items[i], m.arch, m.method, m) for i, m in metrics.items()))
    for model in study.models:
        _require_lineage(study, model)
    _require_one_split(metrics)
    tests = {model_id: _read_test(root, model_id, study.measured(model_id)) for model_id in final}
    rows = []
    for model in study.models:
        rows.append(Model(model.id, model.item, model.arch, model.method, model.measured, tests.get(model.id)))
        for chosen in (ModelId(i) for i in final if i != model.id and ModelId(i).base == model.id):
            rows.append(Model(chosen, model.item, model.arch, model.method, study.measured(chosen), tests[chosen]))
    return Study(tuple({row.id: row for row in rows}.values()), claims or {}, experiments or {})


def stale_metrics(root: Path, items: Mapping[str, Any], final: Sequence[str]) -> list[Path]:
    """Return the metrics, relative to `root`, of variants that params.yaml no longer has."""
    wanted = {metrics_file(root, name) for name in (*items, *(f"test/{model_id}" for model_id in final))}
    return [
        path.relative_to(root)
        for stage in (*FAMILIES, "test")
        for path in sorted((root / "metrics" / stage).rglob("*.json"))
        if path not in wanted
    ]


def remove_stale(root: Path, items: Mapping[str, Any], final: Sequence[str]) -> list[Path]:
    """Delete the metrics of variants that params.yaml no longer has; return them, relative to `root`."""
    stale = stale_metrics(root, items, final)
    for path in stale:
        (root / path).unlink()
    return stale


def _require_lineage(study: Study, model: Model) -> None:
    """Raise unless the model was made from its parents' present weights."""
    for key, parent in other_parents(study, model).items():
        raise ArtifactError(
            f"metrics/{model.id}.json was made from other weights of {parent} than metrics/ describes ({key} "
            f"differs); run 'dvc repro' to make {model.id} again"
        )


def other_parents(study: Study, model: Model) -> dict[str, str]:
    """Return the parents whose present weights are not those that the model was made from, by the key that says so."""
    keys = {
        "parent_sha256" if role == model.item.roles[0] else f"{role}_sha256": parent
        for role, parent in model.parents.items()
    }
    return {
        key: parent
        for key, parent in keys.items()
        if getattr(model.measured, key, None) not in (None, study.measured(parent).weights_sha256)
    }


def _require_one_split(metrics: Mapping[str, Metrics]) -> None:
    """Raise unless all models were measured on the same validation images: else no difference means anything."""
    known = {i: m.val_images_sha256 for i, m in metrics.items() if m.val_images_sha256 is not None}
    first = next(iter(known), "")
    other = [model_id for model_id, sha256 in known.items() if sha256 != known[first]]
    if other:
        raise ArtifactError(
            f"metrics/{other[0]}.json was measured on other validation images than metrics/{first}.json "
            "(val_images_sha256 differs); run 'dvc repro'"
        )


class _Classes(Strict):
    model_config = ConfigDict(extra="ignore")

    class_names: list[str] = Field(default_factory=list)


T = TypeVar("T", bound=Strict)


def read_metrics(root: Path, model_id: str, cls: type[T]) -> T:
    """Return the metrics of a model, or of a test where the id begins with `test/`.

    Raises:
        ArtifactError: the file is missing or damaged; names file and remedy.
    """
    return _parsed(root, metrics_file(root, model_id), cls, read_sealed, f"run 'dvc repro' to make {model_id} again")


def _parsed(root: Path, path: Path, cls: type[T], read: Callable[[Path, str], Any], remedy: str) -> T:
    # The root may be the current folder or an absolute one; the message is the same.
    name = path.relative_to(root).as_posix()
    try:
        return parse(cls, read(path, remedy), "")
    except ArtifactError as error:
        raise ArtifactError(str(error).replace(str(path), name)) from None
    except ConfigError as error:
        raise ArtifactError(f"{name} is damaged ({str(error).splitlines()[0]}); {remedy}") from None


def _read_test(root: Path, model_id: str, measured: Measured) -> TestMetrics:
    test = read_metrics(root, f"test/{model_id}", TestMetrics)
    if test.weights_sha256 != measured.weights_sha256:
        raise ArtifactError(
            f"metrics/test/{model_id}.json was measured on other weights than metrics/{ModelId(model_id).base}"
            ".json (weights_sha256 differs); run 'dvc repro' to test the present model"
        )
    return test
