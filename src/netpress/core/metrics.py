"""The metrics files: what each model's says, and the one of its test accuracy."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from netpress.params.schema import Strict

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
    val_acc_before_tuning: float | None = Field(default=None, ge=0, le=1)
    val_acc_recalibrated: float | None = Field(default=None, ge=0, le=1)
    control_val_acc: float | None = Field(default=None, ge=0, le=1)
    control_val_acc_std: float | None = Field(default=None, ge=0)


class Metrics(Measured):
    """The file `metrics/<stage>/<variant>.json`."""

    arch: str
    method: str | None = None
    parent_sha256: str | None = None
    second_teacher_sha256: str | None = None
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
