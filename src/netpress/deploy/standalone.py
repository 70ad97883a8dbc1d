"""Name the class of pictures, with numpy, pillow and onnxruntime alone: python predict.py PICTURE..."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FOLDER = Path(__file__).parent
MODEL = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
SHOWN = 3


def read(path: str) -> np.ndarray:
    """Return a picture as the network takes it, (1, C, H, W) float32: upright, on white, its centre."""
    picture, size = ImageOps.exif_transpose(Image.open(path)).convert("RGBA"), MODEL["height"]
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    wide, high = (max(size, round(side * size / min(picture.size))) for side in picture.size)
    picture = picture.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = (wide - size) // 2, (high - size) // 2
    picture = picture.crop((left, top, left + size, top + size)).convert("L" if MODEL["channels"] == 1 else "RGB")
    pixels = np.asarray(picture, np.float32).reshape(size, size, MODEL["channels"]) / 255
    return ((pixels - np.float32(MODEL["mean"])) / np.float32(MODEL["std"])).transpose(2, 0, 1)[None]


if __name__ == "__main__":
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
    failed, names = False, sys.argv[1:]
    for name in names if names and names[0] not in ("-h", "--help") else sys.exit(__doc__):
        try:
            logits = session.run(None, {session.get_inputs()[0].name: read(name)})[0][0]
        except OSError as error:  # Pillow's, of what is missing or no picture
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
            continue
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        print(name, *(f"{MODEL['classes'][k]} {shares[k]:.1%}" for k in shares.argsort()[::-1][:SHOWN]), sep="\t")
    sys.exit(failed)
