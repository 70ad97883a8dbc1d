"""One layout of six convolutions in three forms of about 1.0 MB: plain, two groups, depthwise + pointwise.

The stem is an ordinary convolution in every form; only the widths differ, so that the forms have
equal size and the question is what the convolution's structure brings.
"""

from typing import Literal

from pydantic import Field
from torch import nn

from netpress.models._blocks import conv_bn, conv_dw, pooled_head, scaled
from netpress.params.schema import Strict

STRIDES = (2, 1, 2, 1, 2, 1)
#: Channels of each form: 976, 998 and 980 kB with 3 channels and 11 classes.
CHANNELS: dict[int | str, tuple[int, ...]] = {
    1: (24, 48, 48, 88, 88, 128),
    2: (32, 64, 64, 128, 128, 184),
    "depthwise": (64, 128, 128, 256, 256, 392),
}

EXAMPLE = {"groups": 2, "width": 0.25}


class Options(Strict):
    """Options of the compact network."""

    groups: Literal[1, 2, "depthwise"] = Field(1, description="groups of each 3x3 convolution but the stem")
    width: float = Field(1.0, gt=0, le=8, description="factor of every channel count, which stay multiples of 8")


def build(num_classes: int, in_channels: int, options: Options) -> nn.Module:
    """Build one form of the compact network."""
    channels = [scaled(c, options.width, multiple=8) for c in CHANNELS[options.groups]]
    layers = [conv_bn(in_channels, channels[0], STRIDES[0])]
    for inputs, outputs, stride in zip(channels, channels[1:], STRIDES[1:], strict=False):
        if options.groups == "depthwise":
            layers.append(conv_dw(inputs, outputs, stride))
        else:
            layers.append(conv_bn(inputs, outputs, stride, groups=options.groups))
    return pooled_head(nn.Sequential(*layers), nn.Linear(channels[-1], num_classes))
