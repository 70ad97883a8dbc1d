"""What each output of a layer is computed from, as rows of a matrix."""

import torch.nn.functional as F
from torch import Tensor, nn


def rows_of(layer: nn.Conv2d | nn.Linear, given: Tensor) -> Tensor:
    """Return the inputs of `layer`, a row for each place: (B, C, H, W) -> (places, C kh kw), or (B, ..., I) -> (n, I).

    Of a convolution of one group that pads, if at all, so many zeros.
    """
    if isinstance(layer, nn.Linear):
        return given.flatten(0, -2)
    padding = (int(layer.padding[0]), int(layer.padding[1]))
    patches = F.unfold(given, layer.kernel_size, layer.dilation, padding, layer.stride)  # (B, C kh kw, places)
    return patches.transpose(1, 2).flatten(0, 1)
