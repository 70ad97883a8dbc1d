"""ResNet18: four stages of two basic blocks. He et al., https://arxiv.org/abs/1512.03385.

Layers bear torchvision's names, so that its weights load. It is written out because importing
torchvision costs every stage seconds, and its ResNet takes neither a width nor a stem for small images.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from netpress.models._blocks import scaled
from netpress.params.schema import Strict

EXAMPLE = {"width": 0.25}


class Options(Strict):
    """Options of ResNet18."""

    width: float = Field(1.0, gt=0, le=4, description="factor of every channel count")
    stem: Literal["imagenet", "small", "pooled"] = Field(
        "imagenet", description="imagenet: 7x7 stride 2 and pooling; small: 3x3 alone; pooled: 3x3 and pooling"
    )
    weights: Literal["none", "IMAGENET1K_V1"] = Field(
        "none", description="torchvision's published weights, for width 1 and the stem imagenet"
    )


def build(num_classes: int, in_channels: int, options: Options) -> nn.Module:
    """Build ResNet18; at width 1 with 3 channels and 11 classes it has 11,182,155 parameters."""
    return ResNet18(num_classes, in_channels, options)


def published(options: Options) -> str | None:
    """Return torchvision's name of the weights that the options ask for, if any."""
    return None if options.weights == "none" else f"ResNet18_Weights.{options.weights}"


def initialize(network: nn.Module) -> None:
    """Draw the weights of the convolutions: He et al., https://arxiv.org/abs/1502.01852."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # drawing there would load torch's compiler
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        # A 1x1 pooling and a 1x1 convolution without stride equal the strided convolution, whose backward
        # pass in oneDNN (torch 2.15) corrupts memory when the batch cannot be divided by the threads.
        self.subsample = nn.MaxPool2d(1, stride) if stride != 1 else nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(self.subsample(x))
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + shortcut)


class ResNet18(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int, options: Options) -> None:
        super().__init__()
        widths = [scaled(c, options.width) for c in (64, 128, 256, 512)]
        if options.stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, widths[0], 7, 2, 3, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if options.stem == "small" else nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(widths[0], widths[0], 1)
        self.layer2 = _stage(widths[0], widths[1], 2)
        self.layer3 = _stage(widths[1], widths[2], 2)
        self.layer4 = _stage(widths[2], widths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))
