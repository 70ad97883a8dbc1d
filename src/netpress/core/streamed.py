"""Images of a split that is too large for memory: they stay in their file, and each batch's rows are read from it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from netpress.core.dataset import ArrayFile


@dataclass(frozen=True)
class StreamedImages:
    """Images (N, H, W, C) uint8 in a file; `images[index]` reads some, as of a tensor on `device`."""

    file: ArrayFile
    device: torch.device

    @property
    def shape(self) -> torch.Size:
        """(N, H, W, C)."""
        return torch.Size(self.file.shape)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Read the images at `index`, (B) or a slice, in its order: (B, H, W, C) on the device; see `ArrayFile`."""
        places = index if isinstance(index, slice) else index.cpu().numpy()
        return torch.from_numpy(self.file[places]).to(self.device)

    def expect(self, places: np.ndarray) -> None:
        """Have the images at `places` (B) read ahead."""
        self.file.expect(places)
