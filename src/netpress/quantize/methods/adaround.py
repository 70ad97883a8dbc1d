"""AdaRound: weights in 8 or 4 bits, each rounded up or down as training on the layer's outputs says.

Nagel et al., https://arxiv.org/abs/2004.10568. Layer after layer, a weight w with scale s becomes

    s (floor(w / s) + h(V)),    h(V) = clip((zeta - gamma) sigmoid(V) + gamma, 0, 1)

where V minimizes ||W x - W' x'||^2 + lambda sum(1 - |2 h(V) - 1|^beta). x are the inputs of the layer in fp32, x' those
that it gets once the layers before it are quantized; beta falls, so that h(V) ends at 0 or 1. Stored as by `weights`.

Without the activation function the first term is a quadratic function of W' that two moments of the inputs give, over
all images at once: no minibatches are drawn. Exact multiples of s stay what they are.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from netpress.params.schema import Strict
from netpress.quantize.common.inputs import inputs_of, moment, replace
from netpress.quantize.common.stored import Layer, Rounded, blocked, largest_integer, layers_of, round_to_grid, store
from netpress.quantize.run import Trained

EXAMPLE = {"bits": 4, "block": 32, "calibration_images": 32, "steps": 20, "lr": 0.2, "regularization": 1.0}
#: The ends between which the sigmoid is stretched, so that h(V) can reach 0 and 1.
ZETA, GAMMA = 1.1, -0.1
#: The share of the steps that see no regularizer, and the exponent after them and at the end.
WARM_UP, FIRST_BETA, LAST_BETA = 0.2, 20.0, 2.0


class Options(Strict):
    """Options of AdaRound."""

    bits: Literal[8, 4] = Field(description="bits of a weight; 4-bit weights are stored two to a byte")
    block: int = Field(ge=0, le=65536, description="inputs that share a scale; 0: one scale for each output channel")
    calibration_images: int = Field(ge=1, le=100_000, description="training images whose inputs to a layer are seen")
    steps: int = Field(ge=1, le=100_000, description="steps of Adam for each layer")
    lr: float = Field(gt=0, le=1, description="learning rate of Adam")
    regularization: float = Field(gt=0, le=1000, description="lambda, in what one step of a weight adds on average")


def quantize(model: Trained, options: Options) -> bytes:
    """Store the weights of convolutions and linear layers in `bits`, each layer rounded for its own inputs.

    Layers of few inputs to an output, such as depthwise convolutions, are rounded to the nearest, and so are those
    whose outputs on the images come no closer to fp32 by anything else.

    Raises:
        ParamsError: a convolution is not over two dimensions, or leaves its padding to the runtime.
    """
    import onnx

    images = model.images(options.calibration_images)
    original, working = (onnx.load_from_string(model.onnx) for _ in range(2))  # the second's weights become rounded
    rounded = {}
    for layer in layers_of(working):
        if layer.narrow:
            made = layer.nearest(options.bits, options.block)
        else:
            seen = moments(original, working, layer, images)
            made = round_for(layer.rows, layer.block(options.block), *seen, options)
        rounded[layer.name] = made
        replace(working, layer, made)
    return store(onnx.load_from_string(model.onnx), rounded)


def moments(original: Any, working: Any, layer: Layer, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return x' x'^T and (x' - x) x'^T: (groups, inputs, inputs) float64; x are the inputs in fp32, x' in `working`."""

    def seen() -> Iterator[Tensor]:
        return inputs_of(working, layer, images)

    pairs = zip(seen(), inputs_of(original, layer, images), strict=True)
    squares = moment(layer, ((given, given) for given in seen()), "adaround")
    return squares, moment(layer, ((given - wanted, given) for given, wanted in pairs), "adaround")


class Error:
    """||W x - W' x'||^2 over the images, less what does not depend on W', in what one step of a weight adds on average.

    With E = W' - W it is tr(E x' x'^T E^T) + 2 tr(E^T W (x' - x) x'^T).
    """

    def __init__(self, rows: np.ndarray, steps: np.ndarray, squares: Tensor, shift: Tensor) -> None:
        """Take W and the scale of each of its weights, (outputs, inputs), and the moments that `moments` gives."""
        self.weight, scale = (torch.from_numpy(v.copy()).reshape(len(squares), -1, v.shape[1]) for v in (rows, steps))
        added = scale.double().square() * squares.diagonal(dim1=1, dim2=2)[:, None]  # (G, O / G, I)
        unit = added.mean().clamp(min=torch.finfo(torch.float32).tiny)
        self._squares, self._slope = (squares / unit).float(), (self.weight.double() @ shift / unit).float()

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the error of W' (outputs, inputs), a scalar."""
        off = rows.reshape(self.weight.shape) - self.weight
        return ((off @ self._squares) * off).sum() + 2 * (off * self._slope).sum()


def round_for(rows: np.ndarray, block: int, squares: Tensor, shift: Tensor, options: Options) -> Rounded:
    """Round (outputs, inputs) float32 up or down for the moments that `moments` gives.

    `block` inputs of a row share a scale. Where rounding to the nearest has no larger error, that is returned.
    """
    nearest = round_to_grid(rows, options.bits, block)
    most, inputs = largest_integer(options.bits), rows.shape[1]
    scales = torch.from_numpy(nearest.scales)
    steps = nearest._replace(integers=np.ones_like(nearest.integers)).rows(inputs)
    error = Error(rows, steps, squares, shift)
    scaled = (torch.from_numpy(blocked(rows, block)) / scales).clamp(-most, most)  # (O, blocks, block)
    low, high = scaled.floor(), scaled.ceil()

    def error_of(integers: Tensor) -> Tensor:
        return error((integers * scales).flatten(1)[:, :inputs])

    variable = torch.logit((scaled - low - GAMMA) / (ZETA - GAMMA)).requires_grad_()
    adam = torch.optim.Adam([variable], options.lr)
    for step in range(options.steps):
        up = rectified_sigmoid(variable)
        loss = error_of(torch.lerp(low, high, up))
        beta = beta_at(step / options.steps)
        if beta is not None:
            loss = loss + options.regularization * (regularizer(up, beta) * (high - low)).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    learned = torch.where(rectified_sigmoid(variable.detach()) >= 0.5, high, low)
    better = error_of(learned) < error_of(torch.from_numpy(nearest.integers).float())
    return nearest._replace(integers=learned.numpy().astype(np.int8)) if better else nearest


def rectified_sigmoid(variable: Tensor) -> Tensor:
    """Return h(V), in [0, 1]."""
    return (torch.sigmoid(variable) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def regularizer(up: Tensor, beta: float) -> Tensor:
    """Return 1 - |2 h - 1|^beta of each weight: 0 where h is 0 or 1, and 1 in the middle."""
    return 1 - (2 * up - 1).abs() ** beta


def beta_at(done: float) -> float | None:
    """Return the exponent after a share of the steps, or None where there is no regularizer yet."""
    if done < WARM_UP:
        return None
    return FIRST_BETA + (LAST_BETA - FIRST_BETA) * (done - WARM_UP) / (1 - WARM_UP)
