"""The study's smaller plain network, about 4.32 M parameters."""

from pydantic import Field
from torch import nn

from netpress.models._blocks import conv_bn, pooled_head, scaled
from netpress.params.schema import Strict

#: Channels of the convolutions; a 2x2 pooling follows each but the last.
CHANNELS = (64, 128, 256, 512, 600)

EXAMPLE = {"width": 0.125}


class Options(Strict):
    """Options of the plain network."""

    width: float = Field(1.0, gt=0, le=4, description="factor of every channel count")


def build(num_classes: int, in_channels: int, options: Options) -> nn.Module:
    """Build the plain network; at width 1 with 3 channels and 11 classes it has 4,324,547 parameters."""
    layers: list[nn.Module] = []
    inputs = in_channels
    for channels in CHANNELS:
        if layers:
            layers.append(nn.MaxPool2d(2))
        outputs = scaled(channels, options.width)
        layers.append(conv_bn(inputs, outputs))
        inputs = outputs
    return pooled_head(nn.Sequential(*layers), nn.Linear(inputs, num_classes))
