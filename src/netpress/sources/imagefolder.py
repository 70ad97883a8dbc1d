"""Anyone's own pictures: a folder for each class, with or without ready splits.

Either `root/<class>/*.jpg`, or `root/{train,val,test}/<class>/*.jpg` where val (also `valid`, `validation`)
and test may be absent; `root` is a folder or an archive of it. Pictures become RGB squares.
"""

import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from netpress.base.errors import DataError
from netpress.config import Data
from netpress.data.archive_members import printable
from netpress.data.archives import folder_of
from netpress.data.images import square
from netpress.data.pieces import Piece, Source, spans
from netpress.sources._tree import Tree

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
#: A picture of more pixels is refused: it would unpack to over 500 MB.
MOST_PIXELS = 178_956_970
#: Pillow's formats of pictures. Others are documents, and one of them, EPS, would start another program.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
#: Files with these endings beside the class folders would be left out, so they are refused.
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
#: Longer pictures are cut about their centre first: only the centre is kept, and resizing would unpack the rest too.
LONGEST = 4


@dataclass(frozen=True)
class ClassFolder:
    """The pictures of one class in one split: names below the folder, joined by NUL since objects would take more."""

    folder: Path
    label: int
    names: bytes


def read(place: Path, data: Data, aside: Path) -> Source:
    """List every picture below `place`; they are decoded when they are asked for.

    A picture that cannot be used becomes a line of `Piece.bad`.

    Raises:
        DataError: no classes, classes that differ between splits, an empty class, or a tree that cannot be read.
    """
    tree = Tree(folder_of(place, aside, data.root), data.root)
    folders = _split_folders(tree)
    classes = _classes(tree, folders["train"])
    splits: dict[str, Iterator[Piece]] = {}
    total = 0
    for name, folder in folders.items():
        _require_same_classes(name, _classes(tree, folder), classes)
        listed = []
        for label, class_name in enumerate(classes):
            found = tree.files(folder / class_name)
            if not found:
                shown = tree.show(folder / class_name)
                raise DataError(f"{shown} holds no picture; add some or remove the class everywhere")
            total += len(found)
            listed.append(ClassFolder(folder / class_name, label, "\0".join(found).encode("utf-8", "surrogateescape")))
        splits[name] = _pieces(tree, listed, data.resolution)
    return Source(tuple(classes), splits, total)


def _pieces(tree: Tree, listed: list[ClassFolder], resolution: int) -> Iterator[Piece]:
    for part in listed:
        names = part.names.decode("utf-8", "surrogateescape").split("\0")
        for start, stop in spans(len(names), 3 * resolution**2):
            images, good, bad = [], [], []
            for name in names[start:stop]:
                path = part.folder / name
                try:
                    images.append(decode(path, resolution, tree.show(path)))
                    good.append(printable(path.relative_to(tree.root).as_posix()))
                except DataError as error:
                    bad.append(str(error))
            shape = (len(images), resolution, resolution, 3)
            labels = np.full(len(images), part.label)
            yield Piece(np.array(images, np.uint8).reshape(shape), labels, tuple(good), tuple(bad))


def decode(path: Path, resolution: int, shown: str) -> np.ndarray:
    """Read one picture upright: (resolution, resolution, 3) uint8; of an animation the first.

    Raises:
        DataError: it is empty, truncated, too large, of more than 8 bits or not a picture; begins with `shown`.
    """
    try:
        _require_file(path, shown)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is an error here
            with Image.open(path, formats=_formats()) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise DataError(f"{shown}: {picture.width}x{picture.height} pixels are too many")
                if picture.mode[0] in "IF":  # Pillow would cut such values off at 255
                    raise DataError(f"{shown}: more than 8 bits a channel; convert it to 8")
                upright = _centre(ImageOps.exif_transpose(picture).convert("RGB"))
                return np.asarray(square(upright, resolution))
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise DataError(f"{shown}: {_reason(error)}") from None


def _require_file(path: Path, shown: str) -> None:
    """Refuse what is not to be opened: a pipe would never answer."""
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{shown}: the name is not UTF-8; rename it") from None
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{shown}: Is a directory that is linked; copy it instead")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{shown}: not a file but a pipe, socket or device")
    if status.st_size == 0:
        raise DataError(f"{shown}: empty file")


def _formats() -> list[str]:
    """Return those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _centre(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    longest = LONGEST * min(width, height)
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return picture.crop((left, top, width - left, height - top)) if left or top else picture


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not a picture"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable((str(error) or type(error).__name__).splitlines()[0])


def _split_folders(tree: Tree) -> dict[str, Path]:
    found: dict[str, Path] = {}
    folders, root = tree.folders(tree.root), tree.show(tree.root)
    for place in folders:
        name = SPLIT_NAMES.get(place.name)
        if name is not None:
            if name in found:
                raise DataError(f"{root} has both {found[name].name} and {place.name}; keep one of them")
            found[name] = place
    if not found:
        return {"train": tree.root}
    if "train" not in found:
        raise DataError(f"{root} has {', '.join(p.name for p in found.values())} but no train")
    others = [p.name for p in folders if p.name not in SPLIT_NAMES]
    if others:
        raise DataError(f"{root} has splits and also {', '.join(others)}; move these out or into the splits")
    return found


def _classes(tree: Tree, folder: Path) -> list[str]:
    classes = [place.name for place in tree.folders(folder)]
    shown = tree.show(folder)
    if len(classes) < 2:
        raise DataError(
            f"{shown} has {len(classes)} class folders, at least 2 are needed: {Path(shown).name}/<class>/<picture>"
        )
    beside = [name for name in tree.others(folder) if name.lower().endswith(PICTURES)]
    if beside:
        raise DataError(f"{shown} holds {len(beside)} pictures beside its class folders, the first is {beside[0]}")
    return classes


def _require_same_classes(split: str, found: list[str], expected: list[str]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has {', '.join(extra)}, unknown to train"] if extra else []
        raise DataError(f"{split} {' and '.join(parts)}; every split needs the same class folders")
