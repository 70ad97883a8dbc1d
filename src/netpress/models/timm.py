"""Any network of timm, under its name there; timm is installed apart. https://huggingface.co/docs/timm

Wightman, PyTorch Image Models, https://github.com/huggingface/pytorch-image-models.
"""

import importlib
from typing import Any

from pydantic import Field, field_validator
from torch import Tensor, nn

from netpress.base.errors import ArtifactError, ConfigError, ParamsError
from netpress.base.words import near_or_known
from netpress.params.schema import Strict

EXAMPLE = {"name": "test_resnet"}
INSTALL = ".venv/bin/uv pip install -r requirements-timm.txt"
#: Arguments of timm that say where weights and settings come from, or that netpress gives.
TAKEN = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path", "cache_dir"),
    *("num_classes", "in_chans", "model_name", "scriptable", "exportable", "no_jit"),
}


class Options(Strict):
    """Options of a network of timm."""

    name: str = Field(description="a network of timm, such as resnetv2_50")
    pretrained: bool = Field(False, description="begin with timm's published weights")
    arguments: dict[str, Any] = Field({}, description="further arguments of the network, such as img_size")

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        timm = library()
        if not timm.is_model(name):  # an address of a hub is none
            raise ValueError(f"timm has no such network{near_or_known(name, timm.list_models())}")
        return name

    @field_validator("arguments")
    @classmethod
    def _are_of_the_network(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        if taken := TAKEN & arguments.keys():
            raise ValueError(f"{min(taken)} is not yours to give; use the options, and init for a file of weights")
        return arguments


def build(num_classes: int, in_channels: int, options: Options) -> nn.Module:
    """Build the network; its weights are drawn, whatever `options.pretrained` says.

    Raises:
        ConfigError: timm is not installed, or the network refuses the arguments.
    """
    return _created(options, num_classes=num_classes, in_chans=in_channels)


def published(options: Options) -> str | None:
    """Return the name of the published weights that the options ask for, if any."""
    return f"timm {options.name}" if options.pretrained else None


def fetch(options: Options) -> dict[str, Tensor]:
    """Return timm's weights for its own classes and three channels, fetched once into its cache.

    Raises:
        ArtifactError: they cannot be fetched.
    """
    try:
        return _created(options, pretrained=True).state_dict()
    except ConfigError:
        raise
    except Exception as error:  # of the hub, the network, the disk
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ArtifactError(
            f"timm's weights of {options.name} cannot be fetched ({reason}); set pretrained: false, or put a file into "
            "data/weights and name it in init"
        ) from None


def library() -> Any:
    """Return timm.

    Raises:
        ConfigError: it is not installed; says how to.
    """
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise ConfigError(f"arch: timm needs the package timm, which is not installed; run: {INSTALL}") from None


def _created(options: Options, **settings: Any) -> nn.Module:
    try:
        network: nn.Module = library().create_model(options.name, **settings, **options.arguments)
    except (TypeError, ValueError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        text = f"options.arguments = {options.arguments}: {options.name} refuses them ({reason})"
        raise ParamsError([("options.arguments", text)]) from None
    return network
