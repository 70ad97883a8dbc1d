"""Any classifier of torchvision, under its name there. https://docs.pytorch.org/vision/stable/models.html"""

from typing import Any

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from netpress.base.errors import ParamsError
from netpress.base.words import near_or_known
from netpress.params.schema import Strict

EXAMPLE = {"name": "mobilenet_v3_small"}
#: Networks that also give the logits of side branches unless told not to.
WITH_SIDE_BRANCHES = ("googlenet", "inception_v3")


class Options(Strict):
    """Options of a network of torchvision."""

    name: str = Field(description="a classifier of torchvision, such as mobilenet_v3_small")
    weights: str = Field("none", description="none, or the published weights, such as DEFAULT or IMAGENET1K_V1")
    arguments: dict[str, Any] = Field({}, description="further arguments of the network, such as image_size")

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        from torchvision import models  # takes seconds

        known = models.list_models(module=models)
        if name not in known:
            raise ValueError(f"torchvision has no such classifier{near_or_known(name, known)}")
        return name

    @field_validator("weights")
    @classmethod
    def _are_published(cls, weights: str, info: ValidationInfo) -> str:
        from torchvision import models

        if weights != "none" and "name" in info.data:
            known = ["none", *models.get_model_weights(info.data["name"]).__members__]
            if weights not in known:
                raise ValueError(f"torchvision has none of this name{near_or_known(weights, known)}")
        return weights


def build(num_classes: int, in_channels: int, options: Options) -> nn.Module:
    """Build the network with a head for `num_classes`; its weights are drawn, whatever `options.weights` says.

    Raises:
        ParamsError: the network refuses the arguments.
    """
    from torchvision import models

    further = {"aux_logits": False, "init_weights": True} if options.name in WITH_SIDE_BRANCHES else {}
    try:
        network: nn.Module = models.get_model(
            options.name, weights=None, num_classes=num_classes, **further, **options.arguments
        )
    except (TypeError, ValueError) as error:
        text = f"options.arguments = {options.arguments}: {options.name} refuses them ({str(error).splitlines()[0]})"
        raise ParamsError([("options.arguments", text)]) from None
    if in_channels != 3:
        _adapt_input(network, in_channels)
    return network


def published(options: Options) -> str | None:
    """Return torchvision's full name of the weights that the options ask for, if any."""
    from torchvision import models

    if options.weights == "none":
        return None
    return str(models.get_model_weights(options.name)[options.weights])


def _adapt_input(network: nn.Module, in_channels: int) -> None:
    """Give the first convolution other input channels; a grey image gives what it gave as three equal channels."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    weight = first.weight.detach().sum(1, keepdim=True) / in_channels
    first.in_channels, first.weight = in_channels, nn.Parameter(weight.repeat(1, in_channels, 1, 1))
