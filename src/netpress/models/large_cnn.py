"""The study's large VGG-like network: fourteen 3x3 convolutions and a hidden layer."""

from pydantic import Field
from torch import nn

from netpress.models._blocks import LARGE_BLOCKS, conv_bn, large_features, pooled_head, scaled
from netpress.params.schema import Strict

HIDDEN = 2048
EXAMPLE = {"width": 0.125}


class Options(Strict):
    """Options of the large network."""

    width: float = Field(1.0, gt=0, le=4, description="factor of every channel count")


def build(num_classes: int, in_channels: int, options: Options) -> nn.Module:
    """Build the large network; at width 1 with 3 channels and 11 classes it has 54,412,875 parameters."""
    features = large_features(in_channels, options.width, conv_bn)
    last, hidden = scaled(LARGE_BLOCKS[-1][-1], options.width), scaled(HIDDEN, options.width)
    head = nn.Sequential(nn.Linear(last, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_classes))
    return pooled_head(features, head)
