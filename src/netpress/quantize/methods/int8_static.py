"""Static int8 in the QDQ format: per-channel weights, activations scaled on training images.

Jacob et al., https://arxiv.org/abs/1712.05877; done by onnxruntime. Depthwise convolutions need the
per-channel weights: with one scale for a whole layer they can collapse.

Activations are unsigned and weights signed, which is what x86-64 multiplies fastest, and the only pair for which
onnxruntime runs every layer in integers; with signed activations it leaves some in fp32. Processors without VNNI add
the products of two neighbours in 16 bits, where 2 * 255 * 127 does not fit and is cut off without a word; weights of 7
bits, 2 * 255 * 64, always fit. `benchmarks/int8.py` compares the two on a project's models.
"""

import logging
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from netpress.base.errors import ParamsError
from netpress.params.schema import Strict
from netpress.quantize.run import Trained

#: Operators without integer kernels; onnxruntime cannot write int8 forms of those that share a scale (group norm).
_IN_FP32 = ("InstanceNormalization",)
EXAMPLE = {"calibration_images": 64, "calibration": "minmax", "reduce_range": True}


class Options(Strict):
    """Options of static int8."""

    calibration_images: int = Field(ge=1, le=100_000, description="training images that set the activations' scales")
    calibration: Literal["minmax", "percentile"] = Field(description="how a scale follows from the values")
    reduce_range: bool = Field(description="weights in 7 bits, exact on every processor; 8 bits overflow without VNNI")


def quantize(model: Trained, options: Options) -> bytes:
    """Fold normalizations into convolutions, then quantize weights and activations to int8.

    Raises:
        ParamsError: onnxruntime cannot quantize the network.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
    }
    logging.getLogger().setLevel(logging.ERROR)
    graph = onnx.load_from_string(model.onnx).graph
    input_name = graph.input[0].name
    with tempfile.TemporaryDirectory() as name:
        original, prepared, quantized = (Path(name) / f"{part}.onnx" for part in ("original", "prepared", "quantized"))
        original.write_bytes(model.onnx)
        quant_pre_process(str(original), str(prepared), skip_symbolic_shape=True)
        reader = _Reader(input_name, model.images(options.calibration_images))
        try:
            quantize_static(
                str(prepared),
                str(quantized),
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=options.reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=methods[options.calibration],
                nodes_to_exclude=[node.name for node in graph.node if node.op_type in _IN_FP32],
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
        except ValueError as error:  # of operators that it knows no int8 form of; it names no layer
            text = f"method = int8_static: onnxruntime cannot quantize this network ({error}); choose weights or fp16"
            raise ParamsError([("method", text)]) from None
        return quantized.read_bytes()


class _Reader:
    """Feeds the calibration images (n, C, H, W), as onnxruntime's CalibrationDataReader does.

    In batches of one size, the largest up to 64 that leaves none over: onnxruntime stacks what it collects.
    """

    def __init__(self, input_name: str, images: np.ndarray) -> None:
        size = max(size for size in range(1, 65) if len(images) % size == 0)
        batches = np.split(images, len(images) // size)
        self._feeds = iter([{input_name: batch} for batch in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)
