"""What a model says of each validation image, kept beside it: predictions.csv, and its most confident mistakes."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from netpress.base import files
from netpress.base.model_files import MISTAKES, PREDICTIONS
from netpress.core.splits import DeviceSplit

#: Under this key a history's last row, or what was found out about a network without one, holds what `packed` gives.
PREDICTED = "predicted"
COLUMNS = ("image", "actual", "predicted", "confidence", "on_sheet")
#: Mistakes on the picture, and pixels of a side of each at most.
SHOWN, SIDE = 12, 96
_ROW = np.dtype([("predicted", "<u2"), ("confidence", "<f4")])


def packed(predicted: Tensor, confidence: Tensor) -> str:
    """Return the class that is named for each image (N), and with which probability (N), as text in base64."""
    rows = np.empty(len(predicted), _ROW)
    rows["predicted"], rows["confidence"] = predicted.cpu().numpy(), confidence.cpu().numpy()
    return base64.b64encode(rows.tobytes()).decode("ascii")


def prediction_files(text: str, split: DeviceSplit, classes: Sequence[str]) -> dict[str, bytes]:
    """Return the two files of a model that said `text`, as `packed` gives it, of the images of `split`.

    predictions.csv has a row for each image. mistakes.png holds `SHOWN` of the images that are named wrong, those with
    the highest confidence, side by side, made smaller where their sides are above `SIDE`; `on_sheet` is an image's
    place among them, from 1. A model without a mistake has no such picture.
    """
    rows = np.frombuffer(base64.b64decode(text), _ROW)
    actual = split.labels.cpu().numpy()
    wrong = np.flatnonzero(rows["predicted"] != actual)
    shown = wrong[np.argsort(-rows["confidence"][wrong], kind="stable")][:SHOWN]
    place = {int(index): k + 1 for k, index in enumerate(shown)}
    table = [
        {
            "image": k,
            "actual": classes[actual[k]],
            "predicted": classes[row["predicted"]],
            "confidence": f"{row['confidence']:.4f}",
            "on_sheet": place.get(k, ""),
        }
        for k, row in enumerate(rows)
    ]
    found = {PREDICTIONS: files.csv_text(table, COLUMNS).encode("utf-8")}
    return found | ({MISTAKES: _sheet(split.images[torch.from_numpy(shown)])} if len(shown) else {})


def _sheet(images: Tensor) -> bytes:
    """Return images (N, H, W, C) uint8 side by side, as a PNG."""
    from PIL import Image

    pixels = np.concatenate(list(images.cpu().numpy()), axis=1)
    picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    side = min(SIDE, images.shape[1])
    if side < images.shape[1]:
        picture = picture.resize((side * len(images), side), Image.Resampling.BOX)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()
