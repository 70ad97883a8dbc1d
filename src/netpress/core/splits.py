"""Splits of the prepared data: on the device as uint8, or in their files where they are too large for it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from netpress.base.project import PREPARED
from netpress.core.dataset import Manifest, images_file, load_labels, open_images, read_array
from netpress.core.streamed import StreamedImages
from netpress.params.recipes import Runtime
from netpress.process.machine import MEMORY, image_budget, memory


@dataclass(frozen=True)
class DeviceSplit:
    """One split: images (N, H, W, C) uint8, labels (N) int64, and the training set's statistics.

    All is on the device, but for images that are too many: they come there when they are indexed, to the same bits.
    """

    images: Tensor | StreamedImages
    labels: Tensor
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels_last: bool

    def __len__(self) -> int:
        return len(self.labels)

    def normalize(self, images: Tensor) -> Tensor:
        """(B, H, W, C) uint8 -> (B, C, H, W) float32 of zero mean and unit variance."""
        mean = torch.tensor(self.mean, device=images.device)
        std = torch.tensor(self.std, device=images.device)
        out = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return out.contiguous(memory_format=layout)

    def expect(self, places: np.ndarray) -> None:
        """Have images that are not on the device read ahead; `places` (B) are theirs in the split."""
        if isinstance(self.images, StreamedImages):
            self.images.expect(places)

    def in_order(self, batch_size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (B, C, H, W) float32, labels (B)) without augmentation, in the order of the files."""
        for start in range(0, len(self), batch_size):
            chosen = slice(start, start + batch_size)
            self.expect(np.arange(start + batch_size, min(start + 2 * batch_size, len(self))))
            yield self.normalize(self.images[chosen]), self.labels[chosen]


def device_split(root: Path, name: str, manifest: Manifest, device: torch.device, runtime: Runtime) -> DeviceSplit:
    """Load one prepared split onto `device`, as uint8; images of more than `image_budget` bytes stay on the disk.

    Raises:
        ArtifactError: a file is missing or is not the one that was written.
        ConfigError: `NETPRESS_MEMORY` is not a size.
    """
    folder, path = root / PREPARED, images_file(root / PREPARED, name, manifest)
    size, most = sum(manifest.counts[name]) * manifest.resolution**2 * manifest.channels, budget_on(device)
    images: Tensor | StreamedImages
    if size > most:
        text = f"{size / 1e6:,.1f} MB of images, more than the {most / 1e6:,.1f} MB of memory for them ({MEMORY})"
        print(f"{name}: {text}: they stay on the disk and are read batch by batch", flush=True)
        images = StreamedImages(open_images(folder, name, manifest), device)
    else:
        images = torch.from_numpy(read_array(path, manifest)).to(device)
    return DeviceSplit(
        images=images,
        labels=torch.from_numpy(load_labels(folder, name, manifest)).to(device),
        num_classes=len(manifest.classes),
        mean=tuple(manifest.mean),
        std=tuple(manifest.std),
        channels_last=runtime.channels_last,
    )


def budget_on(device: torch.device) -> int:
    """Return how many bytes of images of one split `device` may hold; raises as `image_budget`."""
    return image_budget(min(memory(), torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None)


def draw_images(split: DeviceSplit, count: int, seed: int, stream: str) -> Tensor:
    """Draw `count` images, or all: (count, C, H, W) float32, normalized and not augmented, in the split's order.

    They are a function of the seed and of the name of the stream of random numbers.
    """
    images = drawn(split, count, seed, stream)
    return images.normalize(images.images[:])


def drawn(split: DeviceSplit, count: int, seed: int, stream: str) -> DeviceSplit:
    """Draw `count` images, or all, with their labels; as `draw_images`."""
    chosen = np.random.default_rng([seed, *stream.encode()]).permutation(len(split))[:count]
    places = torch.from_numpy(np.sort(chosen)).to(split.images.device)
    return replace(split, images=split.images[places], labels=split.labels[places])
