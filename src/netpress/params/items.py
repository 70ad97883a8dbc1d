"""What params.yaml may say: frozen, strict configs, but for `recipes.py`. `reader` reads them."""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from netpress.base import model_id
from netpress.params.recipes import Recipe, Runtime
from netpress.params.schema import OrAuto, OrLast, OrNone, Share, Strict

#: No weights, no parent.
NONE = "none"
# Names become names of files, hence the length.
Name = Annotated[
    str, Field(pattern=r"^[a-z0-9_]+$", max_length=64, description="lower-case letters, digits, underscores")
]
ModelId = Annotated[str, Field(pattern=f"^{model_id.PATTERN}$"), AfterValidator(model_id.ModelId)]
OptionalModelId = Annotated[str, Field(pattern=f"^({NONE}|{model_id.PATTERN})$"), AfterValidator(model_id.ModelId)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
MODEL_ID_HELP = "a model id such as train/resnet18_strong"
MAX_ENTRIES = 1000  # variants of a section, recipes, seeds, models of `final`
MAX_OPTIONS = 100
#: Keys of an item that name a recipe.
RECIPE_KEYS = ("recipe", "control_recipe")


def distinct(entries: list[Any]) -> list[Any]:
    """Return `entries`; raise where one stands twice."""
    if len(set(entries)) != len(entries):
        raise ValueError("each entry may stand once only")
    return entries


Seeds = Annotated[
    list[Seed],
    Field(min_length=1, max_length=MAX_ENTRIES, description="the first is shipped"),
    AfterValidator(distinct),
]
Models = Annotated[list[Annotated[ModelId, Field(description=MODEL_ID_HELP)]], Field(max_length=MAX_ENTRIES)]


class Data(Strict):
    """Where the images come from and how they are split."""

    source: str = Field(description="a file of src/netpress/ingest/sources, such as fashion-mnist or imagefolder")
    root: str = Field(
        min_length=1, max_length=1024, description="folder or archive of the source; data/none: download it"
    )
    resolution: int = Field(ge=16, le=512, description="pixels, both sides")
    val_share: float = Field(gt=0, lt=1, description="share of the training images, where the source has no validation")
    test_share: Share = Field(description="share of the images, where the source has no test split; 0 for none")
    split_seed: Seed
    on_overlap: Literal["error", "drop_from_train"]
    on_bad_image: Literal["error", "skip"]

    @field_validator("root")
    @classmethod
    def _nameable(cls, root: str) -> str:
        if root != root.strip() or not root.isprintable():
            raise ValueError("write a folder's name without spaces at its ends or characters that cannot be printed")
        return root

    @property
    def module(self) -> str:
        """File of the source under src/netpress/ingest/sources."""
        return self.source.replace("-", "_")


Options = Annotated[dict[str, Any], Field(max_length=MAX_OPTIONS)]
Epochs = Annotated[int, Field(ge=1, le=100_000, description="passes over the training images")]


class Choice(NamedTuple):
    """Two keys of an item: the first names a file of `folder` below src/netpress, the second holds its options."""

    key: str
    options: str
    folder: str


class Item(Strict):
    """What the items of all sections may state.

    `choices` are the files that the item names, `roles` the keys that name parents, the one whose weights or answers
    the model starts from first.
    """

    choices: ClassVar[tuple[Choice, ...]] = ()
    roles: ClassVar[tuple[str, ...]] = ()

    seeds: Seeds | None = Field(None, description="its own seeds, for a variant that takes long; as a rule absent")


class Design(Item):
    """An item of `lowrank`: an architecture trained from scratch."""

    choices: ClassVar[tuple[Choice, ...]] = (Choice("arch", "options", "models"),)

    arch: str = Field(description="a file of src/netpress/models")
    options: Options = Field(description="options of the architecture; {} for none")
    recipe: Name
    epochs: Epochs


class Normalization(Strict):
    """How images are normalized: (pixel / 255 - mean) / std, for each channel."""

    mean: list[float] = Field(min_length=1, max_length=4, description="of each channel, pixels in 0..1")
    std: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, max_length=4, description="of each channel, above 0")


class Train(Design):
    """An item of `train`: an architecture trained on the labels alone, perhaps from weights trained elsewhere."""

    init: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        description="none, or a file of data/weights",
    )
    epochs: int = Field(ge=0, le=100_000, description="passes over the training images; 0 for a trained network")
    normalization: Normalization | None = Field(
        None, description="that the network was trained with; as a rule absent, for that of the data"
    )
    class_names: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
        None, description="in the order of the labels; as a rule absent, for those of the data"
    )

    @field_validator("class_names")
    @classmethod
    def _distinct(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and len({*names}) < len(names):
            raise ValueError("each name may stand once only")
        if unprintable := [name for name in names or () if not name.isprintable()]:
            raise ValueError(f"{unprintable[0]!r} holds characters that cannot be printed")
        return names


class Distill(Design):
    """An item of `distill`: a student taught by a trained model."""

    choices = (*Design.choices, Choice("method", "method_options", "distill/losses"))
    roles = ("teacher", "second_teacher")

    teacher: ModelId = Field(description=MODEL_ID_HELP)
    second_teacher: OptionalModelId = Field(description=f"none, or {MODEL_ID_HELP}")
    teacher_weights: Literal["equal", "confidence"] = Field(
        description="of two teachers: alike, or for each image the more, the better a teacher knows its label"
    )
    method: str = Field(description="a file of src/netpress/distill/losses")
    method_options: Options
    teacher_view: Literal["same", "plain"] = Field(
        description="what the teacher sees: the student's own augmented view, or the image as it is"
    )
    allow_larger: bool = Field(description="accept a student that is not smaller than its teacher")

    @field_validator("teacher_weights")
    @classmethod
    def _two_to_weigh(cls, weights: str, others: ValidationInfo) -> str:
        if weights != "equal" and others.data.get("second_teacher") == NONE:
            raise ValueError("there is one teacher; name a second_teacher, or write equal")
        return weights


class Derived(Item):
    """An item whose model is made from a trained one, and fine-tuned with its parent as the teacher, or without."""

    choices: ClassVar[tuple[Choice, ...]] = (Choice("loss", "loss_options", "distill/losses"),)
    roles = ("from",)

    parent: ModelId = Field(alias="from", description=MODEL_ID_HELP)
    method: str = Field(description="a file of the family's folder below src/netpress")
    method_options: Options
    recipe: Name = Field(description="of fine-tuning")
    loss: str = Field(description="of fine-tuning: a file of src/netpress/distill/losses; its parent is the teacher")
    loss_options: Options


class Factorize(Derived):
    """An item of `factorize`: a trained model's layers replaced by low-rank ones, then fine-tuned."""

    choices = (Choice("method", "method_options", "factorize/methods"), *Derived.choices)

    budget: Annotated[float, OrNone] = Field(
        gt=0, lt=1, description="share of the parent that is left at most, the ranks chosen for it together; or none"
    )
    budget_of: Literal["params", "macs"] = Field(description="what the budget is a share of")
    bn_batches: int = Field(
        ge=0, le=100_000, description="training batches on which normalizations are measured again before fine-tuning"
    )
    epochs: Epochs


class Prune(Derived):
    """`prune` and an item of `prune_sweep`: rounds of channel removal and fine-tuning; `method` is the score."""

    choices = (
        Choice("method", "method_options", "prune/scores"),
        Choice("schedule", "schedule_options", "prune/schedules"),
        *Derived.choices,
    )

    rate: float = Field(gt=0, lt=1, description="share of the remaining channels removed in one round")
    until: float = Field(gt=0, lt=1, description="rounds go on until this share of the size is left")
    until_of: Literal["params", "macs"] = Field(description="the size that until is a share of")
    scope: Literal["local", "global", "isomorphic"] = Field(
        description="channels are ranked within each group, over all groups, or over groups of one structure"
    )
    round_to: int = Field(ge=1, le=64, description="channel counts are multiples of this")
    schedule: str = Field(description="the rate of each round: a file of src/netpress/prune/schedules")
    schedule_options: Options
    sparsity: float = Field(
        ge=0, le=1, description="weight of the norms of coupled channels in the loss of sparse_epochs; 0 for none"
    )
    sparse_epochs: int = Field(ge=0, le=100_000, description="those of the epochs that come before the first round")
    reconstruct: int = Field(
        ge=0, le=100_000, description="training batches on which weights are refitted after a removal; 0 for none"
    )
    bn_batches: int = Field(
        ge=0, le=100_000, description="training batches on which normalizations are measured again after a removal"
    )
    epochs: Epochs
    control_rounds: list[Annotated[int, Field(ge=1, le=9999, description="or last"), OrLast]] = Field(
        max_length=MAX_ENTRIES, description="rounds whose shapes are also trained from scratch, to compare; [] for none"
    )
    control_recipe: Name
    control_epochs: Annotated[int, OrAuto] = Field(
        ge=1, le=100_000, description="or auto: what the parent and the fine-tuning up to that round had together"
    )

    @field_validator("sparse_epochs")
    @classmethod
    def _some_for_the_penalty(cls, epochs: int, others: ValidationInfo) -> int:
        if not epochs and others.data.get("sparsity"):
            raise ValueError(f"no epochs for sparsity = {others.data['sparsity']}; write 1 or more, or sparsity: 0.0")
        return epochs


class Quantize(Derived):
    """An item of `quantize`: fewer bits for a trained model."""

    choices = (Choice("method", "method_options", "quantize/methods"), *Derived.choices)

    epochs: int = Field(ge=0, le=100_000, description="of fine-tuning; 0 for post-training methods")


class Shared(Strict):
    """What every model stage reads beside its own item."""

    seeds: Seeds
    runtime: Runtime


class VariantConfig(Shared):
    """What one variant's stage reads."""

    item: Any
    recipe: Recipe | None
    control_recipe: Recipe | None


def parents_of(item: Any) -> dict[str, model_id.ModelId]:
    """Return the models that `item` follows from: role, a key of the item, -> model id; `none` is left out."""
    stated = item.model_dump(by_alias=True)
    return {role: model_id.ModelId(stated[role]) for role in item.roles if stated[role] != NONE}


def parent_of(item: Any) -> model_id.ModelId | None:
    """Return the model whose weights or answers `item` starts from, if any."""
    return next(iter(parents_of(item).values()), None)
