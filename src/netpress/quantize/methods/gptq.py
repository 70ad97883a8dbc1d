"""GPTQ: weights in 8 or 4 bits, rounded so that each layer's outputs on training images change least.

Frantar et al., https://arxiv.org/abs/2210.17323. A layer's inputs are rounded one after the other. What the rounding
of one adds to the outputs is taken off again by the weights of the inputs that are not rounded yet, as far as they are
correlated with it. With uncorrelated inputs that is the rounding of `weights`, whose stored form this is. The inputs
are those that the layer gets once the layers before it are quantized.
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from netpress.params.schema import Strict
from netpress.quantize.common.inputs import inputs_of, moment, replace
from netpress.quantize.common.stored import Rounded, blocked, largest_integer, layers_of, scales_of, store
from netpress.quantize.run import Trained

EXAMPLE = {"bits": 4, "block": 32, "calibration_images": 64, "damping": 0.01}


class Options(Strict):
    """Options of GPTQ."""

    bits: Literal[8, 4] = Field(description="bits of a weight; 4-bit weights are stored two to a byte")
    block: int = Field(ge=0, le=65536, description="inputs that share a scale; 0: one scale for each output channel")
    calibration_images: int = Field(ge=1, le=100_000, description="training images whose inputs to a layer are seen")
    damping: float = Field(ge=1e-6, le=1, description="share of the inputs' mean square that is added to each")


def quantize(model: Trained, options: Options) -> bytes:
    """Store the weights of convolutions and linear layers in `bits`, each layer rounded for its own inputs.

    Layers of few inputs to an output, such as depthwise convolutions, are rounded to the nearest.

    Raises:
        ParamsError: a convolution is not over two dimensions, or leaves its padding to the runtime.
    """
    import onnx

    images = model.images(options.calibration_images)
    working = onnx.load_from_string(model.onnx)  # its weights become the rounded ones, in fp32
    rounded = {}
    for layer in layers_of(working):
        if layer.narrow:
            made = layer.nearest(options.bits, options.block)
        else:
            seen = moment(layer, ((given, given) for given in inputs_of(working, layer, images)), "gptq")
            made = round_for(layer.rows, seen, options.bits, layer.block(options.block), options.damping)
        rounded[layer.name] = made
        replace(working, layer, made)
    return store(onnx.load_from_string(model.onnx), rounded)


def round_for(rows: np.ndarray, seen: Tensor, bits: int, block: int, damping: float) -> Rounded:
    """Round (outputs, inputs) float32, column after column, each block to its own scale when its turn comes.

    Args:
        rows: the weight; the rows of one group of outputs follow on those of another.
        seen: the moment of the inputs, X^T X: (groups, inputs, inputs) float64.
        bits: of a weight.
        block: inputs of a row that share a scale.
        damping: share of the mean of the diagonal that is added to it.
    """
    groups, inputs = len(seen), rows.shape[1]
    factor = inverse_factor(seen, damping)  # (G, I, I)
    left = torch.from_numpy(rows.copy()).reshape(groups, -1, inputs)  # (G, O / G, I): what is still to be rounded
    integers, scales = np.zeros_like(blocked(rows, block)), np.ones((len(rows), -(-inputs // block), 1), np.float32)
    most = largest_integer(bits)
    for start in range(0, inputs, block):
        end, part = min(start + block, inputs), start // block
        scales[:, part] = scales_of(left[:, :, start:end].reshape(len(rows), -1).numpy(), bits)
        scale = torch.from_numpy(scales[:, part, 0]).reshape(groups, -1)
        errors = torch.zeros(groups, left.shape[1], end - start)
        for column in range(start, end):
            nearest = (left[:, :, column] / scale).round().clamp(-most, most)
            integers[:, part, column - start] = nearest.reshape(-1).numpy()
            error = (left[:, :, column] - nearest * scale) / factor[:, column, column, None]
            errors[:, :, column - start] = error
            left[:, :, column:end] -= error[:, :, None] * factor[:, None, column, column:end]
        left[:, :, end:] -= errors @ factor[:, start:end, end:]
    return Rounded(integers.astype(np.int8), scales, bits)


def inverse_factor(seen: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of the inverse of the damped moment: (groups, inputs, inputs) float32.

    The moment is scaled first, which scales errors and corrections alike.
    """
    diagonal = seen.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1).clamp(min=torch.finfo(torch.float32).tiny)[:, None, None]
    damped = seen / mean + damping * torch.eye(seen.shape[1], dtype=seen.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()
