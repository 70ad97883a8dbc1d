"""Batches of a split, and their augmentation.

The order of the images and every augmentation are functions of (seed, epoch, image index) and of
nothing else: a run can go on in mid schedule, and two students of one seed see the same views.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from netpress.core.ranks import ALONE, Ranks
from netpress.core.splits import DeviceSplit
from netpress.params.recipes import Augment, Recipe
from netpress.params.schema import AUTO

#: Names of the independent streams of random numbers; 4 is that of layers.
ORDER, AUGMENT, MIXUP, RESIZE, FLIP = 0, 1, 2, 5, 6
#: Uniform draws for each image: flip, crop y, crop x, erase?, area, aspect, erase y, erase x.
DRAWS = 8
#: `batch_size: auto` gives an epoch this many steps, where the images suffice for batches of the smallest size.
STEPS_AN_EPOCH, SMALLEST, LARGEST = 32, 16, 128


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Attributes:
        images: (B, C, H, W) float32, augmented and normalized.
        targets: (B, classes) that sum to 1.
        index: (B), the images' places in the split.
        plain: makes the same images without augmentation, at full size, but mixed as `images` are.
        share: which part of the whole batch this is, in number; the rest is with other processes.
    """

    images: Tensor
    targets: Tensor
    index: Tensor
    plain: Callable[[], Tensor]
    share: float = 1.0


def batches_per_epoch(count: int, batch_size: int) -> int:
    """Return how many batches cover `count` images; they are of nearly equal size, none larger than asked."""
    return -(-count // batch_size)


def sized(recipe: Recipe, images: int) -> Recipe:
    """Return `recipe` with the batch size that `auto` means for `images` training images, a power of two."""
    if recipe.batch_size != AUTO:
        return recipe
    size = 2 ** int(math.log2(max(1, images // STEPS_AN_EPOCH)))
    return recipe.model_copy(update={"batch_size": min(max(size, SMALLEST), LARGEST)})


def enough_epochs(recipe: Recipe, epochs: int, images: int) -> int:
    """Return `epochs`, or as many as `min_steps` of the recipe, whose batch size is known, takes on `images` images.

    No epochs, which means no training, stay none.
    """
    return epochs and max(epochs, -(-recipe.min_steps // batches_per_epoch(images, recipe.batch_size)))


def training_batches(
    split: DeviceSplit,
    augment: Augment,
    label_smoothing: float,
    batch_size: int,
    seed: int,
    epoch: int,
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    """Yield one epoch of batches, or of this process's shares of them.

    Args:
        split: the training split.
        augment: what to do to the images.
        label_smoothing: share of the target spread evenly over the classes.
        batch_size: images in the largest batch.
        seed: names the stream of random numbers, with `epoch`.
        epoch: counted from 0.
        ranks: the processes that share the batches.
    """
    count, device = len(split), split.images.device
    order = np.random.default_rng([seed, epoch, ORDER]).permutation(count)
    table = np.random.default_rng([seed, epoch, AUGMENT]).random((count, DRAWS), dtype=np.float32)
    if augment.flip == "alternating":
        table[:, 0] = alternating(count, seed, epoch)
    draws = torch.from_numpy(table).to(device)
    boxes = _boxes(augment, count, seed, epoch, device)
    partners, shares = _mixup_table(augment, count, seed, epoch)
    soft = torch.eye(split.num_classes, device=device) * (1 - label_smoothing) + label_smoothing / split.num_classes
    batches = np.array_split(order, batches_per_epoch(count, batch_size))
    parts = [ranks.share(whole) for whole in batches]
    for whole, chosen, following in zip(batches, parts, [*parts[1:], order[:0]], strict=True):
        for places in (following,) if partners is None else (following, partners[following]):
            split.expect(places)
        index = torch.from_numpy(chosen).to(device)
        view = partial(_view, split, draws=draws, boxes=boxes, augment=augment)
        plain = partial(_plain, split)
        targets = soft[split.labels[index]]
        if partners is not None and shares is not None:
            other = torch.from_numpy(partners[chosen]).to(device)
            share = torch.from_numpy(shares[chosen]).to(device)
            view, plain = partial(_mixed, view, other, share), partial(_mixed, plain, other, share)
            targets = torch.lerp(soft[split.labels[other]], targets, share[:, None])
        yield Batch(view(index), targets, index, cache(partial(plain, index)), len(chosen) / len(whole))


def alternating(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return each image's draw (count) of the flip: below 1/2 in every other epoch, in the first for a random half.

    Jordan, https://arxiv.org/abs/2404.00498.
    """
    first = np.random.default_rng([seed, FLIP]).random(count, dtype=np.float32)
    return (first + epoch % 2 / 2) % 1


def _mixed(view: Callable[[Tensor], Tensor], other: Tensor, share: Tensor, index: Tensor) -> Tensor:
    """Mix the views of the images at `index` (B), with their `share` (B), and of those at `other` (B)."""
    return torch.lerp(view(other), view(index), share[:, None, None, None])


def plain_is_fixed(augment: Augment) -> bool:
    """Say whether `Batch.plain` gives an image as it is in every epoch, with nothing mixed into it."""
    return augment.mixup == 0


def _plain(split: DeviceSplit, index: Tensor) -> Tensor:
    return split.normalize(split.images[index])


def _mixup_table(augment: Augment, count: int, seed: int, epoch: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """For each image its partner and its own share in the mix. Zhang et al., https://arxiv.org/abs/1710.09412."""
    if augment.mixup == 0:
        return None, None
    rng = np.random.default_rng([seed, epoch, MIXUP])
    shares = rng.beta(augment.mixup, augment.mixup, count).astype(np.float32)
    return rng.integers(0, count, count), shares


def _view(split: DeviceSplit, index: Tensor, draws: Tensor, boxes: Tensor | None, augment: Augment) -> Tensor:
    """Return the augmented, normalized images at `index` (B): (B, C, H, W) float32."""
    draws = draws[index]
    images = split.normalize(crop_and_flip(split.images[index], draws[:, :3], augment))
    if boxes is not None:
        images = resize_boxes(images, boxes[index])
    return erase(images, draws[:, 3:], augment.erasing) if augment.erasing else images


def crop_and_flip(images: Tensor, draws: Tensor, augment: Augment) -> Tensor:
    """Pad with zeros, crop back to size at a random place and mirror half, in one gather.

    Args:
        images: (B, H, W, C) uint8.
        draws: (B, 3) in [0, 1): flip, vertical place, horizontal place.
        augment: `crop_padding` in pixels and `flip`.
    """
    count, height, width, _ = images.shape
    pad = augment.crop_padding
    padded = nn.functional.pad(images, (0, 0, pad, pad, pad, pad)) if pad else images
    device = images.device
    rows = (draws[:, 1] * (2 * pad + 1)).long()[:, None] + torch.arange(height, device=device)  # (B, H)
    columns = torch.arange(width, device=device).expand(count, width)
    if augment.flip:
        columns = torch.where(draws[:, :1] < 0.5, columns.flip(1), columns)
    columns = columns + (draws[:, 2] * (2 * pad + 1)).long()[:, None]  # (B, W)
    image = torch.arange(count, device=device)
    return padded[image[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)


def _boxes(augment: Augment, count: int, seed: int, epoch: int, device: torch.device) -> Tensor | None:
    """Draw each image's part that a random resized crop keeps: height, width, top and left as shares, (count, 4).

    The area is from `augment.resized_crop` to 1, the aspect from 3/4 to 4/3. Szegedy et al.,
    https://arxiv.org/abs/1409.4842.
    """
    if augment.resized_crop == 0:
        return None
    area, aspect, top, left = np.random.default_rng([seed, epoch, RESIZE]).random((4, count), dtype=np.float32)
    area = augment.resized_crop + (1 - augment.resized_crop) * area
    ratio = np.exp((2 * aspect - 1) * float(np.log(4 / 3)))
    height, width = np.minimum(np.sqrt(area / ratio), 1), np.minimum(np.sqrt(area * ratio), 1)
    return torch.from_numpy(np.stack([height, width, top * (1 - height), left * (1 - width)], 1)).to(device)


def resize_boxes(images: Tensor, boxes: Tensor) -> Tensor:
    """Cut a box out of each image and resize it, bilinearly, to the image's size.

    Args:
        images: (B, C, H, W) float.
        boxes: (B, 4), shares of the image: height, width, top, left.
    """
    height, width, top, left = boxes.unbind(1)
    zero = torch.zeros_like(height)
    rows = [width, zero, 2 * left + width - 1, zero, height, 2 * top + height - 1]
    grid = nn.functional.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def erase(images: Tensor, draws: Tensor, probability: float) -> Tensor:
    """Set a random rectangle of some images to the mean. Zhong et al., https://arxiv.org/abs/1708.04896.

    Args:
        images: (B, C, H, W), normalized, so that the mean is 0.
        draws: (B, 5) in [0, 1): erase?, area, aspect, vertical place, horizontal place.
        probability: share of the images that lose a rectangle of 2 to 33 % of their area.
    """
    height, width = images.shape[-2:]
    area = (0.02 + 0.31 * draws[:, 1]) * height * width
    aspect = torch.exp((draws[:, 2] * 2 - 1) * float(np.log(1 / 0.3)))
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top, left = (draws[:, 3] * (height - tall + 1)).floor(), (draws[:, 4] * (width - wide + 1)).floor()
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    in_rows = (row >= top[:, None]) & (row < (top + tall)[:, None])  # (B, H)
    in_columns = (column >= left[:, None]) & (column < (left + wide)[:, None])  # (B, W)
    hit = (draws[:, 0] < probability)[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :]
    return images.masked_fill(hit[:, None], 0.0)
