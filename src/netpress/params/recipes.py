"""How arithmetic is done and how a network is optimized: the sections `runtime` and `recipes` of params.yaml."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from netpress.params.schema import OrAll, OrAuto, Share, Strict


class Runtime(Strict):
    """How the arithmetic is done; the same for every variant, so that their figures compare."""

    device: Literal["auto", "cpu", "cuda"]
    threads: int = Field(ge=1, le=1024, description="fixed, since sums depend on it")
    precision: Literal["fp32", "bf16", "mixed"] = Field(
        description="of training; mixed: bf16 for networks without depthwise convolutions, which it slows down on CPUs"
    )
    channels_last: bool
    compile: bool
    devices: Annotated[int, OrAll] = Field(
        ge=1,
        le=1024,
        description="that share each training: GPUs, or on the CPU processes of `threads` cores each; all: those that "
        "this machine has",
    )
    batch_norm: Literal["synchronized", "per_device"] = Field(
        description="statistics of a batch on several devices: of the whole, or each device's own of its share"
    )

    @model_validator(mode="after")
    def _compiles_alone(self) -> Self:
        if self.compile and self.devices != 1:
            raise ValueError("compile: true is for one device; set compile: false or devices: 1")
        return self


class Augment(Strict):
    """Augmentation of the training images, in batches on the device."""

    flip: Literal[True, False, "alternating"] = Field(
        description="mirror half of the images, drawn anew in every epoch; alternating: the other half in every other "
        "epoch, so that two epochs show each image both ways (Jordan, https://arxiv.org/abs/2404.00498)"
    )
    crop_padding: int = Field(ge=0, le=64, description="pixels of zero padding before a random crop")
    resized_crop: Share = Field(description="smallest area of a random resized crop, a share of the image; 0 is off")
    erasing: float = Field(ge=0, le=1, description="probability of erasing a random rectangle")
    mixup: float = Field(ge=0, le=10, description="alpha of the Beta distribution; 0 is off")

    @field_validator("flip", mode="before")
    @classmethod
    def _is_no_number(cls, flip: Any) -> Any:
        if isinstance(flip, (int, float)) and not isinstance(flip, bool):  # to pydantic, 1 is True
            raise ValueError("a number; write true, false or alternating")
        return flip

    @model_validator(mode="after")
    def _one_crop(self) -> Self:
        if self.crop_padding and self.resized_crop:
            raise ValueError("crop_padding and resized_crop are two ways of one thing; set one of them to 0")
        return self


class Recipe(Strict):
    """How a network is optimized, apart from the number of epochs."""

    optimizer: Literal["sgd", "adam", "adamw", "muon"]
    lr: float = Field(gt=0, le=10, description="peak learning rate")
    body_lr: float = Field(gt=0, le=1, description="factor of the learning rate of all layers but the last")
    bias_lr: float = Field(
        gt=0,
        le=1000,
        description="factor of the learning rate of the biases of normalization layers; 1 is off, airbench has 64 "
        "(Jordan, https://arxiv.org/abs/2404.00498)",
    )
    momentum: float = Field(ge=0, lt=1, description="momentum of SGD and Muon, beta1 of Adam and AdamW")
    weight_decay: float = Field(ge=0, lt=1)
    schedule: Literal["one_cycle", "cosine"]
    warmup: float = Field(ge=0, lt=1, description="share of all steps in which the learning rate rises")
    batch_size: Annotated[int, OrAuto] = Field(
        ge=2, le=65536, description="images, or auto: 16 to 128, so that an epoch has 32 steps if it can"
    )
    min_steps: int = Field(ge=0, le=10_000_000, description="epochs are added until there are that many steps")
    label_smoothing: float = Field(ge=0, lt=1)
    clip_norm: float = Field(ge=0, le=1_000_000, description="largest norm of the gradient; 0 is off")
    average: Share = Field(description="decay a step of the running average of the weights that is kept; 0 is off")
    resize_from: float = Field(
        gt=0,
        le=1,
        description="side of the training images in the first epoch, a share of the resolution; 1 is off. Progressive "
        "resizing, https://docs.mosaicml.com/projects/composer/en/latest/method_cards/progressive_resizing.html",
    )
    resize_until: Share = Field(description="share of the epochs after which training images have their full size")
    augment: Augment
