"""A network of one's own for `arch: module`: copy this file, change it, and name it in params.yaml.

One file that imports torch alone, since its sha256 in params.yaml says of which code a result is.
"""

from torch import nn


def build(num_classes: int, in_channels: int, width: int = 16) -> nn.Module:
    """Return a module from (N, in_channels, H, W) to (N, num_classes)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, 2, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, num_classes),
    )
