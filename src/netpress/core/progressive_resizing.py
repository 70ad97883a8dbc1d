"""Progressive resizing: training begins on small images, which grow to their full size.

Of fast.ai; here as in https://docs.mosaicml.com/projects/composer/en/latest/method_cards/progressive_resizing.html. The
operations of a convolution grow with the square of the side, so early epochs cost a fraction; the last ones fit the
network to the size at which it is measured (Touvron et al., https://arxiv.org/abs/1906.06423).
"""

from dataclasses import replace

import torch
from torch import nn

from netpress.base.errors import ConfigError
from netpress.core.batches import Batch
from netpress.core.splits import DeviceSplit
from netpress.params.plugins import first_line
from netpress.params.recipes import Recipe

#: Sides are multiples of it, so that a layer of stride 2 loses no row.
EVEN = 2


def side_in(recipe: Recipe, epoch: int, epochs: int, full: int) -> int:
    """Return the side, in pixels, of the training images in `epoch` (from 0) of `epochs`.

    It grows along a line from `recipe.resize_from` of `full` in the first epoch to all of it after
    `recipe.resize_until` of the epochs; the last epoch always has the full size.
    """
    growing = min(recipe.resize_until * epochs, epochs - 1)
    if recipe.resize_from == 1 or epoch >= growing:
        return full
    share = recipe.resize_from + (1 - recipe.resize_from) * epoch / growing
    return min(max(round(share * full / EVEN) * EVEN, EVEN), full)


def resized(batch: Batch, side: int) -> Batch:
    """Return `batch` with its images, augmented already, shrunk to `side` x `side`, bilinearly and antialiased.

    What `batch.plain` makes keeps its full size.
    """
    if batch.images.shape[-1] == side:
        return batch
    images = nn.functional.interpolate(batch.images, (side, side), mode="bilinear", antialias=True)
    return replace(batch, images=images)


@torch.no_grad()
def check_sides(network: nn.Module, recipe: Recipe, epochs: int, train: DeviceSplit, label: str) -> None:
    """Raise unless `network`, which comes to eval mode, takes images of every side on the way to the full one.

    Raises:
        ConfigError: it does not, such as one with more poolings than the smallest images have halves.
    """
    full = train.images.shape[1]
    network.eval()
    for side in sorted({side_in(recipe, epoch, epochs, full) for epoch in range(epochs)} - {full}):
        images = nn.functional.interpolate(train.normalize(train.images[:2]), (side, side))
        try:
            network(images)
        except Exception as error:  # whatever the network's layers raise
            raise ConfigError(
                f"{label}: resize_from = {recipe.resize_from} makes training images of {side} x {side} pixels, which "
                f"the network does not take ({first_line(error)}); raise recipes.<name>.resize_from, or set it to "
                "1.0, which is off"
            ) from None
