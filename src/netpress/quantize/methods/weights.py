"""Weights in 8 or 4 bits, activations in fp32: smaller files without calibration images.

Each weight of a convolution or linear layer is rounded to the nearest multiple of its scale. Blocks keep 4 bits closer
to fp32; see Dettmers and Zettlemoyer, https://arxiv.org/abs/2212.09720.
"""

from typing import Literal

from pydantic import Field

from netpress.params.schema import Strict
from netpress.quantize.common.stored import layers_of, store
from netpress.quantize.run import Trained

EXAMPLE = {"bits": 4, "block": 32}


class Options(Strict):
    """Options of weight-only quantization."""

    bits: Literal[8, 4] = Field(description="bits of a weight; 4-bit weights are stored two to a byte")
    block: int = Field(ge=0, le=65536, description="inputs that share a scale; 0: one scale for each output channel")


def quantize(model: Trained, options: Options) -> bytes:
    """Store the weights of convolutions and linear layers in `bits`, followed by what makes fp32 weights of them.

    Biases and tensors of few values stay fp32. The exporter has already folded normalizations.
    """
    import onnx

    graph = onnx.load_from_string(model.onnx)
    return store(graph, {layer.name: layer.nearest(options.bits, options.block) for layer in layers_of(graph)})
