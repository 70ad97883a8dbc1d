"""Small sources, and reading one whole."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from netpress.core.dataset import Split
from netpress.params.items import Data

ROOT = Path(__file__).parent.parent


EMBEDDED = ROOT / "data" / "fashion-mnist"


def settings(source, root="data/x", **changes):
    values = {
        "source": source,
        "root": root,
        "resolution": 28,
        "val_share": 0.2,
        "test_share": 0.0,
        "split_seed": 0,
        "on_overlap": "drop_from_train",
        "on_bad_image": "error",
    }
    return Data(**(values | changes))


def gather(read, place, data, aside=None):
    """Read a source whole: split -> images and labels; and the lines of all bad pictures."""
    source = read(place, data, aside or place / "no archive")
    whole = {name: list(pieces) for name, pieces in source.splits.items()}
    splits = {
        name: Split(*(np.concatenate([getattr(p, part) for p in pieces]) for part in ("images", "labels")))
        for name, pieces in whole.items()
    }
    return source, splits, [line for pieces in whole.values() for piece in pieces for line in piece.bad]


def idx(images, labels):
    count, height, width = images.shape
    return (
        struct.pack(">4I", 2051, count, height, width) + images.tobytes(),
        struct.pack(">2I", 2049, len(labels)) + bytes(labels),
    )


def paint(path, size=(40, 30), colour=(200, 100, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
