"""Pictures of any size to squares of one size."""

import numpy as np
from PIL import Image


def square(picture: Image.Image, resolution: int) -> Image.Image:
    """Resize the shorter side to `resolution` pixels (bilinear, antialiased) and crop the centre."""
    width, height = picture.size
    if (width, height) == (resolution, resolution):
        return picture
    scale = resolution / min(width, height)
    size = (max(resolution, round(width * scale)), max(resolution, round(height * scale)))
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    return picture.crop((left, top, left + resolution, top + resolution))


def resize_all(images: np.ndarray, resolution: int) -> np.ndarray:
    """(N, H, W, C) uint8 -> (N, resolution, resolution, C) uint8, C 1 or 3, by the rule of `square`."""
    if images.shape[1:3] == (resolution, resolution):
        return images
    out = np.empty((len(images), resolution, resolution, images.shape[3]), np.uint8)
    for k, image in enumerate(images):
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        out[k] = np.asarray(square(picture, resolution)).reshape(out.shape[1:])
    return out
