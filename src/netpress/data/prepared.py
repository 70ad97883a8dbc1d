"""scratch"""

import json
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Manifest:
    classes: list
    channels: int
    resolution: int
    mean: list
    std: list
    sha256: dict

    def has_split(self, n):
        return True


def load_manifest(folder):
    return Manifest(**json.loads((folder / "manifest.json").read_text()))


def load_split(folder, name):
    return Split(np.load(folder / f"{name}_images.npy"), np.load(folder / f"{name}_labels.npy"))
