"""Quantization-aware training: a network learns with rounded weights and activations, then becomes a static int8 file.

Jacob et al., https://arxiv.org/abs/1712.05877. While it trains, each convolution and linear layer computes with

    w^ = s round(w / s), s = max |w| / m for each output channel, m = 64 (7 bits) or 127
    x^ = s (clip(round(x / s) + z, 0, 255) - z), s = (high - low) / 255, z = round(-low / s)

in place of its weight w and its input x. Gradients pass straight through the rounding, and are zero where x is clipped.
low and high are the extremes on the calibration images first, then moving averages of those of the batches. Sums of
branches and the logits, which the file rounds too, are not rounded here.

Normalizations are trained as they are, not folded into weights as in the paper. Folding multiplies an output channel by
a constant, and each channel has a scale of its own, which it multiplies too: rounding and folding can change places.

The weights and inputs are exchanged by hooks, so that any network trains, its parameters keep their names and the
ranges are buffers of the layers: a checkpoint holds all of it. Afterwards the hooks are gone, and the file is made as
`int8_static` makes it, with ranges found again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from netpress.quantize.common.int8 import BATCH, STEPS, Calibration, as_int8, prepared, ranges_of
from netpress.quantize.run import Trained

EXAMPLE = {"calibration_images": 64, "calibration": "minmax", "reduce_range": True}
#: What is kept of a range at each step of training.
DECAY = 0.99
#: The buffer of a layer that holds low and high.
RANGE = "quantized_input_range"
Inputs = tuple[Any, ...]


class Options(Calibration):
    """Options of quantization-aware training."""


def quantize(model: Trained, options: Options) -> bytes:
    """Train with fake quantization under the item's recipe and epochs, then quantize to int8.

    Raises:
        ParamsError: the item states no epochs, or onnxruntime cannot quantize the network.
    """
    images = model.images(options.calibration_images)
    extremes = input_extremes(model.network, torch.from_numpy(images))
    with fake_quantization(extremes, 64 if options.reduce_range else 127):
        model.finetune(model.network)
    data = prepared(model.export(model.network))
    return as_int8(data, ranges_of(data, images, options.calibration), options.reduce_range, "qat")


@torch.no_grad()
def input_extremes(network: nn.Module, images: Tensor) -> dict[nn.Module, Tensor]:
    """Return the extremes of the inputs (2), zero among them, of each convolution and linear layer.

    A layer whose weight is itself computed, as by a parametrization, is left out. One that sees nothing, or is
    called by keyword, has zeros.

    Args:
        network: run in eval mode.
        images: (n, C, H, W).
    """
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
    layers = [layer for layer in network.modules() if isinstance(layer, kinds) and "weight" in layer._parameters]
    found: dict[nn.Module, Tensor] = {layer: torch.zeros(2) for layer in layers}

    def see(layer: nn.Module, inputs: Inputs) -> None:
        if inputs:
            found[layer] = _extremes(torch.cat((found[layer], _extremes(inputs[0]))))

    hooks = [layer.register_forward_pre_hook(see) for layer in found]
    for batch in images.split(BATCH):
        network.eval()(batch)
    for hook in hooks:
        hook.remove()
    return found


@contextmanager
def fake_quantization(extremes: dict[nn.Module, Tensor], largest: int) -> Iterator[None]:
    """Let layers compute with rounded weights and inputs within the context.

    Args:
        extremes: each layer's, of its inputs; they become a buffer of the layer until the context ends.
        largest: integer of a weight.
    """
    hooks = []
    for layer, known in extremes.items():
        layer.register_buffer(RANGE, known.clone())
        hooks.append(layer.register_forward_pre_hook(partial(_enter, largest)))
        hooks.append(layer.register_forward_hook(_leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in extremes:
            delattr(layer, RANGE)


def _enter(largest: int, layer: nn.Module, inputs: Inputs) -> Inputs:
    """Before a layer computes: follow its inputs' range where it trains, and exchange weight and input.

    One that is called by keyword computes as it is.
    """
    if not inputs:
        return inputs
    held: Tensor = getattr(layer, RANGE)
    given = inputs[0].float()  # bf16 under autocast would round what is rounded
    if layer.training:
        with torch.no_grad():
            now = _extremes(given)
            held.copy_(torch.where(held.any(), held.lerp(now, 1 - DECAY), now))
    # An attribute of the instance comes before the parameter of that name, which the optimizer goes on to train.
    layer.__dict__["weight"] = rounded_weight(layer.get_parameter("weight"), largest)
    return rounded_input(given, *held), *inputs[1:]


def _leave(layer: nn.Module, inputs: Inputs, output: Any) -> None:
    layer.__dict__.pop("weight", None)


def _extremes(values: Tensor) -> Tensor:
    """Return the lowest and the highest value, and zero (2)."""
    low, high = values.detach().float().aminmax()
    return torch.stack((low.clamp(max=0), high.clamp(min=0)))


def rounded_weight(weight: Tensor, largest: int) -> Tensor:
    """Round (O, ...) to multiples of max |row| / largest for each output; gradients pass through unchanged."""
    scales = weight.detach().abs().flatten(1).amax(1) / largest
    scales = torch.where(scales > 0, scales, 1)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -largest, largest)


def rounded_input(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Round values to integers from `low` to `high`, of which one is zero; gradients pass where nothing is clipped."""
    scale = (high - low) / STEPS
    scale = torch.where(scale > 0, scale, 1)
    zero = (-low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, STEPS)
