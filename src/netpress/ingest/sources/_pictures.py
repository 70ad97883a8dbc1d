"""Pictures of a tree, decoded piece by piece; what cannot be used is named and not raised."""

import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from netpress.base.errors import DataError
from netpress.ingest.archives import printable
from netpress.ingest.images import square
from netpress.ingest.pieces import Piece, spans
from netpress.ingest.sources._tree import Tree
from netpress.ingest.workers import in_order
from netpress.process.machine import cores

#: A picture of more pixels is refused: it would unpack to over 500 MB.
MOST_PIXELS = 178_956_970
#: Pillow's formats of pictures. Others are documents, and one of them, EPS, would start another program.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
#: Files with these endings beside the class folders would be left out, so they are refused.
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
#: Longer pictures are cut about their centre first: only the centre is kept, and resizing would unpack the rest too.
LONGEST = 4


@dataclass(frozen=True)
class Pictures:
    """The pictures of one class in one split: names below the folder, joined by NUL since objects would take more."""

    folder: Path
    label: int
    names: bytes

    @classmethod
    def of(cls, folder: Path, label: int, names: Sequence[str]) -> "Pictures":
        """Take up the pictures `names`, in their order."""
        return cls(folder, label, "\0".join(names).encode("utf-8", "surrogateescape"))

    def listed(self) -> list[str]:
        """Return the names."""
        return self.names.decode("utf-8", "surrogateescape").split("\0")


def pieces(tree: Tree, listed: Sequence[Pictures], resolution: int) -> Iterator[Piece]:
    """Decode the pictures of `listed` in their order, over the cores; see `piece_of`."""
    return in_order(partial(piece_of, tree, resolution), _parts(listed, resolution), cores())


def _parts(listed: Sequence[Pictures], resolution: int) -> Iterator[Pictures]:
    """Cut what is listed into the pictures of one piece each."""
    for part in listed:
        names = part.listed()
        for start, stop in spans(len(names), 3 * resolution**2):
            yield Pictures.of(part.folder, part.label, names[start:stop])


def piece_of(tree: Tree, resolution: int, part: Pictures) -> Piece:
    """Decode the pictures of `part`, in their order; one that cannot be used becomes a line of `Piece.bad`."""
    images, good, bad = [], [], []
    for name in part.listed():
        path = part.folder / name
        try:
            images.append(decode(path, resolution, tree.show(path)))
            good.append(printable(path.relative_to(tree.root).as_posix()))
        except DataError as error:
            bad.append(str(error))
    shape = (len(images), resolution, resolution, 3)
    labels = np.full(len(images), part.label)
    return Piece(np.array(images, np.uint8).reshape(shape), labels, tuple(good), tuple(bad)).hashed()


def decode(path: Path, resolution: int, shown: str) -> np.ndarray:
    """Read one picture upright, in RGB on white: (resolution, resolution, 3) uint8; of an animation the first.

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
                upright = _centre(on_white(ImageOps.exif_transpose(picture)))
                return np.asarray(square(upright, resolution))
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise DataError(f"{shown}: {_reason(error)}") from None


def on_white(picture: Image.Image) -> Image.Image:
    """Return `picture` as RGB, what is transparent laid on white: the colours below it were never meant to be seen."""
    if "A" not in picture.mode and "a" not in picture.mode and "transparency" not in picture.info:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


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
