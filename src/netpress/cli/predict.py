"""Name the classes of images that have no labels.

Writes the table that the Food-11 course asks for, `Id,label`: of the images that the data source has without labels
(`testing/` of Food-11), or of any pictures with --images. Id is the picture's name without its ending, label the number
of the class.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from netpress.base import files
from netpress.base.errors import ConfigError, DataError
from netpress.base.model_id import ModelId
from netpress.base.project import PREPARED, find_root

if TYPE_CHECKING:
    import numpy as np

    from netpress.core.artifacts import Loaded, Spec

LABEL = "label"
BATCH = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model id such as distill/kd_strong or prune/main/round_2")
    parser.add_argument("out", metavar="OUT.csv", type=Path, help="the table to write")
    parser.add_argument("--images", metavar="PLACE", type=Path, help="a folder or archive of pictures, at any depth")
    parser.add_argument("--names", action="store_true", help="write the names of the classes instead of their numbers")
    parser.add_argument("--force", action="store_true", help="overwrite OUT.csv if it exists")


def run(args: argparse.Namespace) -> None:
    """Write the predictions of one model of the project around the current folder."""
    from netpress.core import artifacts
    from netpress.core.dataset import ID

    if args.out.exists() and not args.force:
        raise ConfigError(f"{args.out} exists; name another file, or add --force to overwrite it")
    root = find_root()
    loaded = artifacts.load(ModelId(args.model).folder(root))
    pieces = _pictures(args.images, loaded.spec) if args.images else _unlabelled(root, loaded.spec)
    labels: dict[str, int] = {}
    for ids, images in pieces:
        for name, label in zip(ids, _predict(loaded, images), strict=True):
            if name in labels:
                raise DataError(f"two pictures have the name {name}; rename one, since the table tells them by name")
            labels[name] = label
    shown = loaded.spec.classes if args.names else range(len(loaded.spec.classes))
    rows = [{ID: name, LABEL: shown[labels[name]]} for name in _in_order(list(labels))]
    files.write_csv(args.out, rows, [ID, LABEL])
    print(f"wrote {len(rows):,} predictions of {args.model} to {args.out}")


def _in_order(names: list[str]) -> list[str]:
    """Sort ids as numbers if all are, otherwise as text."""
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=lambda name: (int(name), name) if numbers else (0, name))


def _predict(loaded: "Loaded", images: "np.ndarray") -> list[int]:
    """Return the class of each image; (N, H, W, C) uint8."""
    import torch

    from netpress.core.batches import DeviceSplit

    spec = loaded.spec
    nothing = torch.zeros(len(images), dtype=torch.int64)
    split = DeviceSplit(
        torch.from_numpy(images), nothing, len(spec.classes), tuple(spec.mean), tuple(spec.std), channels_last=False
    )
    found: list[int] = []
    with torch.inference_mode():
        for batch, _ in split.in_order(BATCH):
            found += loaded.network(batch).argmax(1).tolist()
    return found


def _unlabelled(root: Path, spec: "Spec") -> Iterator[tuple[list[str], "np.ndarray"]]:
    """Yield ids and images of the prepared data, in pieces."""
    from netpress.core.dataset import load_manifest, load_unlabelled

    manifest = load_manifest(root / PREPARED)
    images, ids = load_unlabelled(root / PREPARED, manifest)
    if images.shape[1:] != (spec.height, spec.width, spec.in_channels):
        raise DataError(
            f"the prepared images are {images.shape[1]}x{images.shape[2]}x{images.shape[3]}, the model takes "
            f"{spec.height}x{spec.width}x{spec.in_channels}; run 'dvc repro'"
        )
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH], images[start : start + BATCH]


def _pictures(place: Path, spec: "Spec") -> Iterator[tuple[list[str], "np.ndarray"]]:
    """Yield names and images of any pictures, in pieces, with progress."""
    from netpress.ingest.archives import folder_of
    from netpress.ingest.pieces import bad_words
    from netpress.ingest.sources._pictures import PICTURES, Pictures, pieces
    from netpress.ingest.sources._tree import Tree
    from netpress.process.progress import ImageProgress

    if spec.in_channels != 3:
        raise DataError("--images gives pictures in colour, but the model takes one channel")
    if not place.exists():
        raise DataError(f"{place} does not exist; name a folder or an archive of pictures")
    with TemporaryDirectory() as aside:
        tree = Tree(folder_of(place, Path(aside) / "unpacked", str(place)), str(place))
        names = [name for name in tree.files(tree.root) if name.lower().endswith(PICTURES)]
        if not names:
            raise DataError(f"{place} holds no picture ({', '.join(PICTURES)})")
        progress = ImageProgress("reading", len(names))
        bad: list[str] = []
        for piece in pieces(tree, [Pictures.of(tree.root, 0, names)], spec.height):
            bad += piece.bad
            progress.add(len(piece.labels) + len(piece.bad))
            if not bad:  # otherwise only the rest of the bad ones is still wanted
                yield [Path(name).stem for name in piece.names], piece.images
        progress.close()
        if bad:
            raise DataError(f"{bad_words(bad, len(bad), len(names))}. Fix or remove them")
