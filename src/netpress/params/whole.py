"""The whole of params.yaml: every section, and what is to be said of the results: claims and experiments."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from netpress.base import model_id
from netpress.base.project import MODEL_STAGES
from netpress.params.items import (
    MAX_ENTRIES,
    MODEL_ID_HELP,
    Data,
    Design,
    Distill,
    Factorize,
    ModelId,
    Models,
    Name,
    Prune,
    Quantize,
    Shared,
    Train,
    distinct,
)
from netpress.params.recipes import Recipe
from netpress.params.schema import Strict

Compared = Annotated[str, Field(pattern=f"^{model_id.PATTERN}({model_id.CONTROL})?$")]
Accuracies = Annotated[
    list[Annotated[Compared, Field(description=f"{MODEL_ID_HELP}, or its control: prune/main/round_1/control")]],
    Field(max_length=MAX_ENTRIES),
]


class Claim(Strict):
    """A statement about accuracies that `aggregate` judges over the seeds."""

    text: str = Field(min_length=1, max_length=1000, description="the statement in words")
    order: Accuracies = Field(description="models of rising accuracy; [] where `equal` says it all")
    equal: Accuracies = Field(description="models whose accuracies differ by less than the margin; [] for none")
    margin: float = Field(gt=0, lt=1, description="largest difference that counts as equal, a fraction")

    @model_validator(mode="after")
    def _two_at_least(self) -> Self:
        if len(self.order) < 2 and len(self.equal) < 2:
            raise ValueError("compares nothing; name two models or more in order or in equal")
        return self


class Published(Strict):
    """One row of an experiment: a model of ours beside the figures that a study printed."""

    model: ModelId = Field(description=MODEL_ID_HELP)
    label: str = Field(min_length=1, max_length=200, description="what the study calls it")
    val_acc: float | None = Field(ge=0, le=1, description="the study's validation accuracy; null for none")
    size: str = Field(max_length=200, description="the size that the study prints; '' for none")


class Experiment(Strict):
    """One experiment of a study: a table of its figures beside ours."""

    title: str = Field(min_length=1, max_length=200)
    note: str = Field(max_length=4000, description="printed below the table; '' for none")
    rows: list[Published] = Field(min_length=1, max_length=MAX_ENTRIES)


class Params(Shared):
    """The whole of params.yaml."""

    profile: Name
    data: Data
    recipes: dict[Name, Recipe] = Field(max_length=MAX_ENTRIES)
    train: dict[Name, Train] = Field(max_length=MAX_ENTRIES)
    distill: dict[Name, Distill] = Field(max_length=MAX_ENTRIES)
    lowrank: dict[Name, Design] = Field(max_length=MAX_ENTRIES)
    factorize: dict[Name, Factorize] = Field(max_length=MAX_ENTRIES)
    prune: Prune
    prune_sweep: dict[Name, Prune] = Field(max_length=MAX_ENTRIES)
    quantize: dict[Name, Quantize] = Field(max_length=MAX_ENTRIES)
    final: Annotated[Models, AfterValidator(distinct)]
    claims: dict[Name, Claim] = Field(max_length=MAX_ENTRIES)
    experiments: dict[Name, Experiment] = Field(max_length=MAX_ENTRIES)

    def items(self) -> dict[str, Any]:
        """Return every model of the file: model id -> its item, in the order of the graph."""
        found: dict[str, Any] = {}
        for section in MODEL_STAGES:
            content = getattr(self, section)
            items = {model_id.MAIN: content} if section == model_id.ONE_VARIANT else content
            found |= {model_id.ModelId(f"{section}/{name}"): item for name, item in items.items()}
        return found
