"""Weights in 4 bits, and in 8 where 4 would move the logits most: mixed precision within a budget of bits.

Each layer is rounded to the nearest, as by `weights`. How much a layer minds is measured as in ZeroQ, Cai et al.,
https://arxiv.org/abs/2001.00281: by KL(fp32 || quantized) of the class probabilities on training images, with that
layer alone in few bits. HAWQ, https://arxiv.org/abs/1905.03696, ranks layers by the curvature of the loss instead. The
layers that save most of it for each weight get 8 bits, one after the other, as long as the mean allows it.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from pydantic import Field

from netpress.base.errors import ParamsError
from netpress.params.schema import Strict
from netpress.quantize.common.answers import divergence, logits_of
from netpress.quantize.common.inputs import replace
from netpress.quantize.common.stored import Layer, layers_of, store
from netpress.quantize.run import Trained

EXAMPLE = {"mean_bits": 5.0, "block": 32, "calibration_images": 64}
#: The bits of a layer that minds little, and of one that minds more.
FEW, MANY = 4, 8


class Options(Strict):
    """Options of mixed precision."""

    mean_bits: float = Field(ge=FEW, le=MANY, description="largest mean bits of a weight over all quantized layers")
    block: int = Field(ge=0, le=65536, description="inputs that share a scale; 0: one scale for each output channel")
    calibration_images: int = Field(ge=1, le=100_000, description="training images on which logits are compared")


class Choice(NamedTuple):
    """A layer that may get more bits: its name, its weights, and the divergence that more bits save."""

    name: str
    weights: int
    saved: float


def quantize(model: Trained, options: Options) -> bytes:
    """Store the weights of convolutions and linear layers in 4 or 8 bits each.

    Layers of few inputs to an output, such as depthwise convolutions, get 8 bits always, and count.

    Raises:
        ParamsError: those layers alone make the mean larger than `mean_bits`.
    """
    import onnx

    graph, block = onnx.load_from_string(model.onnx), options.block
    layers = layers_of(graph)
    extra = extra_weights(layers, options.mean_bits)
    images = model.images(options.calibration_images)
    fp32 = logits_of(model.onnx, images)

    def moved(layer: Layer, bits: int) -> float:
        alone = onnx.load_from_string(model.onnx)
        replace(alone, layer, layer.nearest(bits, block))
        return divergence(fp32, logits_of(alone.SerializeToString(), images))

    wide = [layer for layer in layers if not layer.narrow]
    choices = [Choice(x.name, x.weight.size, moved(x, FEW) - moved(x, MANY)) for x in wide]
    many = chosen(choices, extra)
    return store(graph, {x.name: x.nearest(MANY if x.name in many else FEW, block) for x in layers})


def extra_weights(layers: list[Layer], mean_bits: float) -> int:
    """Return how many weights, of those that may be in few bits, can have many."""
    weights, narrow = (sum(x.weight.size for x in layers if x.narrow or every) for every in (True, False))
    extra = int((mean_bits - FEW) * weights / (MANY - FEW) + 1e-6) - narrow  # a mean of 4.1 leaves 0.0999...
    if extra < 0:
        least = math.ceil(1000 * (FEW + (MANY - FEW) * narrow / weights)) / 1000
        text = f"layers of few inputs, which keep {MANY} bits, make it {least} at least; set that or more"
        raise ParamsError([("method_options.mean_bits", f"method_options.mean_bits = {mean_bits}: {text}")])
    return extra


def chosen(choices: Iterable[Choice], extra: int) -> set[str]:
    """Return the names of those that get many bits: the most saved for each weight first, `extra` weights in all.

    One that no longer fits is passed over for those after it. Where more bits save nothing, few are kept.
    """
    names = set()
    for choice in sorted(choices, key=lambda choice: choice.saved / choice.weights, reverse=True):
        if choice.saved > 0 and choice.weights <= extra:
            names.add(choice.name)
            extra -= choice.weights
    return names
