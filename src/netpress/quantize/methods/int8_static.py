"""Static int8 in the QDQ format: per-channel weights, activations scaled on training images.

Jacob et al., https://arxiv.org/abs/1712.05877; done by onnxruntime. Depthwise convolutions need the
per-channel weights: with one scale for a whole layer they can collapse.

Activations are unsigned and weights signed, which is what x86-64 multiplies fastest, and the only pair for which
onnxruntime runs every layer in integers: with signed activations it left additions, poolings and two convolutions of
five of a resnet18 in fp32, which took 2.4 times as long. Processors without VNNI add the products of two neighbours in
16 bits, where 2 * 255 * 127 does not fit and is cut off without a word; weights of 7 bits, 2 * 255 * 64, always fit.
Unsigned weights would fit in 8 bits too, but took 1.3 times as long, and put the logits of a mobile_student 3.3 % off
fp32 where weights of 7 bits put them 1.3 % off.
"""

import logging
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from netpress.params.schema import Strict


class Options(Strict):
    """Options of static int8."""

    calibration_images: int = Field(ge=1, le=100_000, description="training images that set the activations' scales")
    calibration: Literal["minmax", "entropy", "percentile"] = Field(description="how a scale follows from the values")
    reduce_range: bool = Field(description="weights in 7 bits, exact on every processor; 8 bits overflow without VNNI")


def calibration_count(options: Options) -> int:
    """Return how many training images are needed."""
    return options.calibration_images


def quantize(onnx_bytes: bytes, calibration: np.ndarray, options: Options) -> bytes:
    """Fold normalizations into convolutions, then quantize weights and activations to int8."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    logging.getLogger().setLevel(logging.ERROR)
    input_name = onnx.load_from_string(onnx_bytes).graph.input[0].name
    with tempfile.TemporaryDirectory() as name:
        original, prepared, quantized = (Path(name) / f"{part}.onnx" for part in ("original", "prepared", "quantized"))
        original.write_bytes(onnx_bytes)
        quant_pre_process(str(original), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(quantized),
            _Reader(input_name, calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=options.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[options.calibration],
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        return quantized.read_bytes()


class _Reader:
    """Feeds the calibration images (n, C, H, W) in batches, as onnxruntime's CalibrationDataReader does."""

    def __init__(self, input_name: str, images: np.ndarray) -> None:
        batches = np.array_split(images, max(1, len(images) // 64))
        self._feeds = iter([{input_name: batch} for batch in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)
