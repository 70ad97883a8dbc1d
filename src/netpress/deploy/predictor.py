"""Classes and probabilities of pictures, by a model of the project, a model folder or an exported one."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from netpress.base import files
from netpress.base.errors import ArtifactError, ConfigError, DataError
from netpress.base.model_files import ONNX
from netpress.core import artifacts
from netpress.core.export import OnnxModule
from netpress.params.schema import Strict, parse

#: Pictures that are decoded, and then named, at once.
BATCH = 256
#: What an exported folder says of its model.
CARD = "model.json"


class Card(Strict):
    """The file model.json of an exported folder: how the model is fed, what comes out, and the hash of model.onnx."""

    model_id: str
    classes: list[str]
    channels: int
    height: int
    width: int
    mean: list[float]
    std: list[float]
    onnx_sha256: str


@dataclass(frozen=True)
class Predictor:
    """A model that names the classes of images.

    Attributes:
        classes: in the order of its outputs.
        channels, size: of an image, which is a square.
        mean, std: of each channel, of pixels in 0..1.
        session: of onnxruntime.
    """

    classes: Sequence[str]
    channels: int
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    session: Any

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return (N, classes) float32 of images (N, size, size, channels) uint8."""
        logits = self.session.run(None, {self.session.get_inputs()[0].name: normalized(images, self.mean, self.std)})[0]
        shares = np.exp(logits - logits.max(1, keepdims=True))
        found: np.ndarray = shares / shares.sum(1, keepdims=True)
        return found

    def read(self, path: Path, shown: str) -> np.ndarray:
        """Return one picture as the model takes it, (size, size, channels) uint8.

        Raises:
            DataError: it cannot be used; begins with `shown`.
        """
        from netpress.ingest.sources._pictures import decode

        pixels = decode(path, self.size, shown)
        if self.channels == 1:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))
        return pixels.reshape(self.size, self.size, self.channels)

    def of_pictures(self, listed: Sequence[tuple[str, Path]], threads: int) -> Iterator[tuple[str, np.ndarray | str]]:
        """Yield for each picture its name and its probabilities (classes), or why it cannot be used.

        Args:
            listed: what messages call a picture, and where it is.
            threads: that decode pictures.
        """
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(listed), BATCH):
                part = listed[start : start + BATCH]
                read = list(pool.map(partial(_or_why, self), part))
                good = [image for image in read if not isinstance(image, str)]
                shares = iter(self.probabilities(np.stack(good)) if good else ())
                for (name, _), image in zip(part, read, strict=True):
                    yield name, image if isinstance(image, str) else next(shares)


def normalized(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(N, H, W, C) uint8 -> (N, C, H, W) float32, less the mean and divided by the deviation of each channel."""
    pixels = (images.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _or_why(predictor: Predictor, picture: tuple[str, Path]) -> np.ndarray | str:
    try:
        return predictor.read(picture[1], picture[0])
    except DataError as error:
        return str(error)


def open_exported(folder: Path, threads: int) -> Predictor:
    """Return the predictor of an exported folder.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    remedy = "export it again"
    try:
        card = parse(Card, files.read_json(folder / CARD, remedy), CARD)
    except ConfigError as error:
        raise ArtifactError(f"{folder / CARD} is damaged ({str(error).splitlines()[0]}); {remedy}") from None
    data = files.read_checked(folder / ONNX, card.onnx_sha256, remedy)
    session = OnnxModule(data, threads, name=str(folder / ONNX)).session
    return Predictor(card.classes, card.channels, card.height, card.mean, card.std, session)


def open_model(folder: Path, threads: int) -> Predictor:
    """Return the predictor of a model folder: of `models/<stage>/<variant>`, its shipped seed, or of one seed below it.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    folder = artifacts.seed_folder(folder, None)
    spec = artifacts.read_spec(folder)
    session = OnnxModule(artifacts.read_file(folder, spec, ONNX), threads, name=str(folder / ONNX)).session
    return Predictor(spec.classes, spec.in_channels, spec.height, spec.mean, spec.std, session)


def top(shares: np.ndarray, count: int) -> list[int]:
    """Return the indices of the `count` largest, the largest first; equal ones in their order."""
    return [int(k) for k in np.argsort(-shares, kind="stable")[:count]]
