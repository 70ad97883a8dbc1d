"""Parts of chains: layers made on the device `meta`, and filled with what a decomposition gave."""

from typing import Any, TypeGuard

from torch import Tensor, nn


def is_plain(layer: nn.Module, min_channels: int) -> TypeGuard[nn.Conv2d]:
    """Return whether `layer` is an ungrouped convolution wide enough, with a kernel larger than a pixel."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and layer.kernel_size != (1, 1)
        and layer.padding_mode == "zeros"
        and min(layer.in_channels, layer.out_channels) >= min_channels
    )


def kernel_like(layer: nn.Conv2d, inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    """Return a convolution with kernel, stride, padding and dilation of `layer`, without bias and values."""
    sizes: Any = {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    return nn.Conv2d(inputs, outputs, **sizes, groups=groups, bias=False, device="meta")


def pointwise(inputs: int, outputs: int, bias: bool = False) -> nn.Conv2d:
    """Return a 1x1 convolution without values."""
    return nn.Conv2d(inputs, outputs, 1, bias=bias, device="meta")


def filled(chain: nn.Sequential, weights: list[Tensor], bias: Tensor | None) -> nn.Sequential:
    """Give the layers of `chain` their weights, of any shape that fits, and the last one the bias; returns it."""
    parts: list[Any] = list(chain)
    for part, weight in zip(parts, weights, strict=True):
        part.weight = nn.Parameter(weight.reshape(part.weight.shape).float().contiguous())
    if bias is not None:
        chain[-1].bias = nn.Parameter(bias.detach().clone())
    return chain


def is_smaller(chain: nn.Sequential, layer: nn.Module) -> bool:
    """Return whether `chain` has fewer parameters than `layer`."""
    return sum(p.numel() for p in chain.parameters()) < sum(p.numel() for p in layer.parameters())
