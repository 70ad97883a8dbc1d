"""The metrics files: what each model's says, and the one of its test accuracy.

An accuracy `x` may be followed by `x_right`: for each seed, in their order, which validation images are named right, as
`packed` writes them. From these bits models are compared image by image, and no model is read for it.
"""

import base64
import math
from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from netpress.params.schema import Strict

VAL_ACC = "val_acc"
#: Accuracy of a pruned shape trained from scratch.
CONTROL_VAL_ACC = "control_val_acc"
#: What follows the key of an accuracy where it is said which images are named right.
RIGHT = "_right"
Fraction = Annotated[float, Field(ge=0, le=1)]
Bits = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$")]


def packed(right: NDArray[np.bool_]) -> str:
    """Return `right` (N) as text: one bit an image, the first one the highest of the first byte, in base64."""
    return base64.b64encode(np.packbits(right).tobytes()).decode("ascii")


def unpacked(texts: Sequence[str], images: int) -> NDArray[np.bool_]:
    """Return (texts, images) bool from what `packed` gave for as many images."""
    rows = [np.frombuffer(base64.b64decode(text), np.uint8) for text in texts]
    return np.stack([np.unpackbits(row, count=images) for row in rows]).astype(bool)


class Measured(Strict):
    """What is known of one network. Accuracies are fractions; `_std` is over seeds; sizes are bytes."""

    model_config = ConfigDict(extra="ignore")

    val_acc: float = Field(ge=0, le=1)
    val_acc_best: float | None = Field(default=None, ge=0, le=1)
    val_acc_std: float | None = Field(default=None, ge=0)
    val_acc_by_seed: list[Fraction] = Field(default_factory=list)
    val_acc_right: list[Bits] = Field(default_factory=list)
    val_acc_before_tuning: float | None = Field(default=None, ge=0, le=1)
    val_acc_before_tuning_right: list[Bits] = Field(default_factory=list)
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
    val_acc_recalibrated: float | None = Field(default=None, ge=0, le=1)
    val_acc_recalibrated_right: list[Bits] = Field(default_factory=list)
    control_val_acc: float | None = Field(default=None, ge=0, le=1)
    control_val_acc_right: list[Bits] = Field(default_factory=list)
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
    val_images: int | None = Field(default=None, ge=1)
    val_images_sha256: str | None = None
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
            for key, bits in row:
                if key.endswith(RIGHT) and bits:
                    self._check(key, bits)
        return self

    def _check(self, key: str, bits: list[str]) -> None:
        if self.val_images is None:
            raise ValueError(f"{key} is there, and val_images, of how many images it speaks, is not")
        if len(bits) != len(self.seeds):
            raise ValueError(f"{key} has {len(bits)} values for {len(self.seeds)} seeds")
        for text in bits:
            if len(text) != 4 * math.ceil(math.ceil(self.val_images / 8) / 3):
                raise ValueError(f"{key} does not speak of {self.val_images} images")


class TestMetrics(Strict):
    """The file `metrics/test/<model id>.json`; no accuracy where the data has no test split."""

    __test__ = False  # not a test case, whatever pytest thinks of the name
    model_config = ConfigDict(extra="ignore")

    test_acc: float | None = Field(default=None, ge=0, le=1)
    test_acc_std: float | None = Field(default=None, ge=0)
    n_images: int = Field(ge=0)
    weights_sha256: str
