"""Anyone's own pictures: a folder for each class, with or without ready splits.

Either `root/<class>/*.jpg`, or `root/{train,val,test}/<class>/*.jpg` where val (also `valid`, `validation`)
and test may be absent. Any format that Pillow reads; pictures become RGB squares.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from netpress.base.errors import DataError
from netpress.config import Data
from netpress.data.images import square
from netpress.data.splits import Source, Split

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
#: A picture of more pixels is refused: it would unpack to over 500 MB.
MOST_PIXELS = 178_956_970
#: Bad images named in one message.
NAMED = 20
#: Files with these endings beside the class folders would be left out, so they are refused.
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
#: Longer pictures are cut about their centre first: only the centre is kept, and resizing would unpack the rest too.
LONGEST = 4


def read(folder: Path, data: Data) -> Source:
    """Read every picture below `folder`.

    Raises:
        DataError: no classes, classes that differ between splits, an empty class, or pictures that cannot be
            read: all of them are named at once, unless `data.on_bad_image` is `skip`.
    """
    folders = _split_folders(folder)
    classes = _classes(folders["train"])
    listed: list[tuple[str, int, Path]] = []
    for name, place in folders.items():
        _require_same_classes(name, _classes(place), classes)
        for label, class_name in enumerate(classes):
            found = _pictures(place / class_name, folder)
            if not found:
                raise DataError(f"{place / class_name} holds no picture; add some or remove the class everywhere")
            listed += [(name, label, path) for path in found]
    return _decode(listed, classes, data)


def _decode(listed: list[tuple[str, int, Path]], classes: list[str], data: Data) -> Source:
    images = np.empty((len(listed), data.resolution, data.resolution, 3), np.uint8)
    good = np.zeros(len(listed), dtype=bool)
    bad: list[str] = []
    for k, (_, _, path) in enumerate(tqdm(listed, "decoding", unit="img", disable=not sys.stderr.isatty())):
        try:
            images[k] = decode(path, data.resolution)
            good[k] = True
        except DataError as error:
            bad.append(str(error))
    if bad and data.on_bad_image == "error":
        shown = "; ".join(bad[:NAMED]) + (f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else "")
        raise DataError(
            f"{len(bad)} of {len(listed)} pictures cannot be used: {shown}. Mend or remove them, or set "
            "data.on_bad_image: skip"
        )
    splits = {}
    for name in dict.fromkeys(name for name, _, _ in listed):
        index = np.array([k for k, (split, _, _) in enumerate(listed) if split == name and good[k]], dtype=int)
        splits[name] = Split(images[index], np.array([listed[k][1] for k in index], dtype=np.int64))
    return Source(tuple(classes), splits, tuple(bad))


def decode(path: Path, resolution: int) -> np.ndarray:
    """Read one picture upright: (resolution, resolution, 3) uint8.

    Raises:
        DataError: it is empty, truncated, too large, of more than 8 bits or not a picture; names the file.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: empty file")
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise DataError(f"{path}: {picture.width}x{picture.height} pixels are too many")
            if picture.mode[0] in "IF":  # Pillow would cut such values off at 255
                raise DataError(f"{path}: more than 8 bits a channel; convert it to 8")
            upright = _centre(ImageOps.exif_transpose(picture).convert("RGB"))
            return np.asarray(square(upright, resolution))
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise DataError(f"{path}: {_reason(error)}") from None


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
    return (str(error) or type(error).__name__).splitlines()[0]


def _split_folders(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"data.root: {folder} is not a folder")
    found: dict[str, Path] = {}
    for place in _subfolders(folder):
        name = SPLIT_NAMES.get(place.name)
        if name is not None:
            if name in found:
                raise DataError(f"{folder} has both {found[name].name} and {place.name}; keep one of them")
            found[name] = place
    if not found:
        return {"train": folder}
    if "train" not in found:
        raise DataError(f"{folder} has {', '.join(p.name for p in found.values())} but no train")
    others = [p.name for p in _subfolders(folder) if p.name not in SPLIT_NAMES]
    if others:
        raise DataError(f"{folder} has splits and also {', '.join(others)}; move these out or into the splits")
    return found


def _classes(folder: Path) -> list[str]:
    classes = [place.name for place in _subfolders(folder)]
    if len(classes) < 2:
        raise DataError(
            f"{folder} has {len(classes)} class folders, at least 2 are needed: {folder.name}/<class>/<picture>"
        )
    beside = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.is_dir())
    if beside:
        raise DataError(f"{folder} holds {len(beside)} pictures beside its class folders, the first is {beside[0]}")
    return classes


def _require_same_classes(split: str, found: list[str], expected: list[str]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has {', '.join(extra)}, unknown to train"] if extra else []
        raise DataError(f"{split} {' and '.join(parts)}; every split needs the same class folders")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _pictures(folder: Path, root: Path) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if not p.is_dir() and not p.name.startswith("."))
    found += sorted(p for p in folder.rglob("*") if p.is_dir() and p.is_symlink())  # not followed: named as bad
    for path in found:
        if not path.resolve().is_relative_to(root.resolve()):
            raise DataError(f"{path} leads out of {root}; copy the picture instead of linking it")
    return found
