"""The metrics of every model of params.yaml, read and checked.

Variants come from the items of params.yaml and never from a glob, so the files of a removed variant are not seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import ConfigDict, Field, model_validator

from netpress.base.errors import ArtifactError, ConfigError
from netpress.base.files import read_json, read_sealed
from netpress.base.project import metrics_file
from netpress.params.items import Claim, Experiment
from netpress.params.schema import Strict, parse

DATA = Path("metrics/data.json")
#: Stage -> the family under which its models are shown.
FAMILIES = {
    "train": "trained alone",
    "distill": "distilled",
    "lowrank": "compact design",
    "factorize": "factorized",
    "prune": "pruned",
    "prune_sweep": "pruned",
    "quantize": "quantized",
}


Fraction = Annotated[float, Field(ge=0, le=1)]


class Measured(Strict):
    """What is known of one network. Accuracies are fractions; `_std` is over seeds; sizes are bytes."""

    model_config = ConfigDict(extra="ignore")

    val_acc: float = Field(ge=0, le=1)
    val_acc_best: float | None = Field(default=None, ge=0, le=1)
    val_acc_std: float | None = Field(default=None, ge=0)
    val_acc_by_seed: list[Fraction] = Field(default_factory=list)
    val_acc_by_class: list[Fraction | None] | None = None
    val_ece: float | None = Field(default=None, ge=0, le=1)
    val_loss: float | None = None
    train_acc: float | None = Field(default=None, ge=0, le=1)
    teacher_agreement: float | None = Field(default=None, ge=0, le=1)
    n_seeds: int = Field(default=1, ge=1)
    params: int = Field(ge=1)
    macs: int = Field(ge=1)
    weight_bytes: int | None = Field(default=None, ge=1)
    onnx_bytes: int = Field(ge=1)
    checkpoint_bytes: int | None = Field(default=None, ge=1)
    weights_sha256: str


class Round(Measured):
    """One point of a pruning curve; round 0 is the parent before pruning."""

    round: int = Field(ge=0)
    rate: float = Field(gt=0, lt=1, description="share of the remaining channels removed in a round")
    channels_share: float = Field(gt=0, le=1)
    epochs_total: int = Field(ge=0)
    control_val_acc: float | None = Field(default=None, ge=0, le=1)
    control_val_acc_std: float | None = Field(default=None, ge=0)


class Metrics(Measured):
    """The file `metrics/<stage>/<variant>.json`."""

    arch: str
    method: str | None = None
    parent_sha256: str | None = None
    epochs: int = Field(ge=0)
    chance_acc: float | None = Field(default=None, ge=0)
    seeds: list[int] = Field(default_factory=list)
    rate: float | None = Field(default=None, gt=0, lt=1)
    rounds: list[Round] = Field(default_factory=list)

    @model_validator(mode="after")
    def _a_seed_for_each_accuracy(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed stands in `seeds` twice")
        rows: list[Measured] = [self, *self.rounds] if self.seeds else []
        for row in rows:
            if len(row.val_acc_by_seed) not in (0, len(self.seeds)):
                raise ValueError(f"val_acc_by_seed has {len(row.val_acc_by_seed)} values for {len(self.seeds)} seeds")
        return self


class TestMetrics(Strict):
    """The file `metrics/test/<model id>.json`; no accuracy where the data has no test split."""

    __test__ = False  # not a test case, whatever pytest thinks of the name
    model_config = ConfigDict(extra="ignore")

    test_acc: float | None = Field(default=None, ge=0, le=1)
    test_acc_std: float | None = Field(default=None, ge=0)
    n_images: int = Field(ge=0)
    weights_sha256: str


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

    id: str
    item: Any
    arch: str
    method: str | None
    measured: Measured
    test: TestMetrics | None = None

    @property
    def stage(self) -> str:
        """The section of params.yaml."""
        return self.id.split("/", 1)[0]

    @property
    def variant(self) -> str:
        """The name below the stage."""
        return self.id.split("/", 1)[1]

    @property
    def family(self) -> str:
        """The family under which it is shown."""
        return FAMILIES[self.stage]

    @property
    def parent(self) -> str | None:
        """Model id of the teacher, or of the model it was made from."""
        return getattr(self.item, "teacher", None) or getattr(self.item, "parent", None)


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

    def by_seed(self, model_id: str) -> dict[int, float]:
        """Return seed -> validation accuracy of a model or of a pruning round; {} where its metrics name no seeds.

        Raises:
            ArtifactError: there is no such model or round.
        """
        accuracies = self.measured(model_id).val_acc_by_seed
        base = self.by_id["/".join(model_id.split("/")[:2])].measured
        seeds = base.seeds if isinstance(base, Metrics) else []
        return dict(zip(seeds, accuracies, strict=False))  # as many, or none of one: see `Metrics`

    def measured(self, model_id: str) -> Measured:
        """Return the figures of a model or of a pruning round `<stage>/<variant>/round_<k>`.

        Raises:
            ArtifactError: there is no such model, or its metrics list no such round.
        """
        if model_id in self.by_id:
            return self.by_id[model_id].measured
        base, _, number = model_id.partition("/round_")
        if base not in self.by_id:
            raise ArtifactError(f"params.yaml has no model '{model_id}', which it names; name one of its models")
        found = [r for r in self.rounds(base) if str(r.round) == number]
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
    metrics = {model_id: _read(root, model_id, Metrics) for model_id in items}
    study = Study(tuple(Model(i, items[i], m.arch, m.method, m) for i, m in metrics.items()))
    for model in study.models:
        _require_lineage(study, model)
    tests = {model_id: _read_test(root, model_id, study.measured(model_id)) for model_id in final}
    rows = []
    for model in study.models:
        rows.append(Model(model.id, model.item, model.arch, model.method, model.measured, tests.get(model.id)))
        for chosen in (i for i in final if i.startswith(f"{model.id}/round_")):
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
    """Raise unless the model was made from its parent's present weights."""
    measured = model.measured
    if model.parent is None or not isinstance(measured, Metrics) or measured.parent_sha256 is None:
        return
    if study.measured(model.parent).weights_sha256 != measured.parent_sha256:
        raise ArtifactError(
            f"metrics/{model.id}.json was made from other weights of {model.parent} than metrics/ describes "
            f"(parent_sha256 differs); run 'dvc repro' to make {model.id} anew"
        )


class _Classes(Strict):
    model_config = ConfigDict(extra="ignore")

    class_names: list[str] = Field(default_factory=list)


T = TypeVar("T", bound=Strict)


def _read(root: Path, model_id: str, cls: type[T]) -> T:
    return _parsed(root, metrics_file(root, model_id), cls, read_sealed, f"run 'dvc repro' to make {model_id} anew")


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
    test = _read(root, f"test/{model_id}", TestMetrics)
    if test.weights_sha256 != measured.weights_sha256:
        raise ArtifactError(
            f"metrics/test/{model_id}.json was measured on other weights than metrics/{model_id.split('/round_')[0]}"
            ".json (weights_sha256 differs); run 'dvc repro' to test the present model"
        )
    return test
