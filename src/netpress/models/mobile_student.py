"""The study's MobileNet-like student: one 3x3 and eleven depthwise-separable convolutions."""

from pydantic import Field
from torch import nn

from netpress.models._blocks import conv_bn, conv_dw, pooled_head, scaled
from netpress.params.schema import Strict

#: Input channels, output channels and stride of each depthwise-separable convolution.
LAYERS = [(32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)] + [(512, 512, 1)] * 5

EXAMPLE = {"width": 0.25}


class Options(Strict):
    """Options of the student."""

    width: float = Field(1.0, gt=0, le=4, description="factor of every channel count")


def build(num_classes: int, in_channels: int, options: Options) -> nn.Module:
    """Build the student; at width 1 with 3 channels and 11 classes it has 1,618,763 parameters."""
    layers = [conv_bn(in_channels, scaled(32, options.width), stride=2)]
    layers += [conv_dw(scaled(i, options.width), scaled(o, options.width), stride) for i, o, stride in LAYERS]
    return pooled_head(nn.Sequential(*layers), nn.Linear(scaled(512, options.width), num_classes))
