"""Static int8 in the QDQ format: per-channel weights, activations scaled on training images.

Jacob et al., https://arxiv.org/abs/1712.05877; done by onnxruntime. Depthwise convolutions need the
per-channel weights: with one scale for a whole layer they can collapse.

Activations are unsigned and weights signed, which is what x86-64 multiplies fastest, and the only pair for which
onnxruntime runs every layer in integers; with signed activations it leaves some in fp32. Processors without VNNI add
the products of two neighbours in 16 bits, where 2 * 255 * 127 does not fit and is cut off without a word; weights of 7
bits, 2 * 255 * 64, always fit. `benchmarks/int8.py` compares the two on a project's models.
"""

from bisect import bisect_left
from collections.abc import Collection

from pydantic import Field
from torch import Tensor

from netpress.base.errors import ParamsError
from netpress.quantize.common.answers import divergence, logits_of
from netpress.quantize.common.int8 import Calibration, as_int8, layers_of, prepared, ranges_of
from netpress.quantize.run import Trained

EXAMPLE = {"calibration_images": 64, "calibration": "minmax", "reduce_range": True, "max_disagreement": 1.0}


class Options(Calibration):
    """Options of static int8."""

    max_disagreement: float = Field(
        ge=0,
        le=1,
        description="largest share of the calibration images that int8 may give another class than fp32 does, for "
        "which layers are left in float; 1: any, which is not measured",
    )


def quantize(model: Trained, options: Options) -> bytes:
    """Quantize weights and activations to int8, of all layers or of as many as `max_disagreement` lets.

    Layers are left in float the most sensitive first, as few as suffice. Sensitivity is KL(fp32 || int8) of the answers
    with that layer alone in int8. The images have no labels here, so that it is the fp32 file's answers that are held
    to. A ranking quantizes once for each layer, and the number is found by bisection, which takes it that more layers
    in float disagree less.

    Raises:
        ParamsError: onnxruntime cannot quantize the network, or more images disagree with but one layer in int8.
    """
    images = model.images(options.calibration_images)
    data = prepared(model.onnx)
    ranges = ranges_of(data, images, options.calibration)
    weights = {node.name: node.input[1] for node in layers_of(data)}
    names = list(weights)

    def file(in_float: Collection[str]) -> bytes:
        return as_int8(data, ranges, options.reduce_range, "int8_static", in_float)

    whole = file(())
    if options.max_disagreement == 1:
        return whole
    expected = logits_of(data, images)

    def holds(made: bytes) -> bool:
        return disagreement(logits_of(made, images), expected) <= options.max_disagreement

    if holds(whole):
        return whole

    def sensitivity(name: str) -> float:
        return divergence(expected, logits_of(file({*names} - {name}), images))

    ranking = sorted(names, key=sensitivity, reverse=True)
    count = 1 + bisect_left(range(1, len(names)), True, key=lambda number: holds(file(ranking[:number])))
    if count >= len(names):
        text = f"max_disagreement = {options.max_disagreement}: more of the {len(images)} images disagree with all"
        text += " layers but one in float; raise it, or choose the method weights or fp16"
        raise ParamsError([("method_options.max_disagreement", f"method_options.{text}")])
    print(f"{count} of {len(names)} layers stay in float: {', '.join(weights[n] for n in ranking[:count])}", flush=True)
    return file(ranking[:count])


def disagreement(logits: Tensor, others: Tensor) -> float:
    """Return the share of the images (n, classes) that get another class from the one than from the other."""
    return float((logits.argmax(1) != others.argmax(1)).double().mean())
