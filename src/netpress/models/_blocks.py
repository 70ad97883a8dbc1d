"""Layers that several architectures share."""

from collections.abc import Callable

from torch import nn

#: Channels of the large network's convolutions between one 2x2 pooling and the next.
LARGE_BLOCKS = [(64,), (128,), (256,) * 3, (512,) * 4, (1024,) * 5]


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """Return `channels` times `width`, rounded to a `multiple`, at least one multiple."""
    return max(multiple, round(channels * width / multiple) * multiple)


def conv_bn(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """3x3 convolution without bias, batch normalization, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def conv_dw(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3 and pointwise 1x1 convolution, each without bias, with batch normalization and ReLU.

    Howard et al., MobileNets, https://arxiv.org/abs/1704.04861.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def pooled_head(features: nn.Sequential, head: nn.Module) -> nn.Sequential:
    """Global average pooling between `features` (N, C, H, W) and `head` (N, C) -> (N, classes)."""
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def large_features(in_channels: int, width: float, conv: Callable[[int, int], nn.Module]) -> nn.Sequential:
    """The large network's convolutions and poolings; all but the first convolution are `conv(inputs, outputs)`."""
    layers: list[nn.Module] = []
    channels = in_channels
    for block in LARGE_BLOCKS:
        if layers:
            layers.append(nn.MaxPool2d(2))
        for outputs in block:
            outputs = scaled(outputs, width)
            layers.append(conv(channels, outputs) if layers else conv_bn(channels, outputs))
            channels = outputs
    return nn.Sequential(*layers)
