"""The scale of the normalization: a channel that is multiplied by little says little.

Liu et al., Network slimming, https://arxiv.org/abs/1708.06519: |gamma|. The paper trains with an L1 penalty on gamma
first; here the scales are those of the network as it is.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from netpress.base.errors import ParamsError
from netpress.params.schema import Strict
from netpress.prune.common.channels import Score, over_group

EXAMPLE: dict[str, float] = {}
#: The paper takes one threshold for all layers.
COMPARABLE = True


class Options(Strict):
    """The score has no options."""


def scores(options: Options) -> Score:
    """Return the score: a group of coupled channels -> (C), the mean of |gamma| over its normalizations.

    Raises:
        ParamsError: of a group without a normalization that scales; names its first layer.
    """

    @torch.no_grad()
    def score(group: Any) -> Tensor:
        if not any(_scales(dependency.layer) for dependency, _ in group):
            name = group[0].dep.target.name.partition(" ")[0]
            text = f"the channels of layer '{name}' pass no normalization with a scale; choose another score"
            raise ParamsError([("method", f"method = bn_scale: {text}, such as magnitude")])
        return over_group(group, lambda layer, _: layer.weight.abs() if _scales(layer) else None)  # type: ignore[operator]

    return score


def _scales(layer: Any) -> bool:
    """Return whether `layer` is a normalization with a scale for each channel."""
    return isinstance(layer, _NormBase | nn.GroupNorm | nn.LayerNorm) and layer.weight is not None
