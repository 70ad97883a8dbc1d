"""Half precision weights: stored in 16 bits, computed in 32, so that any processor runs them."""

import numpy as np

from netpress.params.schema import Strict
from netpress.quantize.run import Trained

EXAMPLE: dict[str, object] = {}


class Options(Strict):
    """fp16 has no options."""


def quantize(model: Trained, options: Options) -> bytes:
    """Store every float32 tensor of more than one value as float16, followed by a cast back to float32."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    stored = onnx.load_from_string(model.onnx)
    graph = stored.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or numpy_helper.to_array(tensor).size < 2:
            continue
        name = tensor.name
        limits = np.finfo(np.float16)
        half = np.clip(numpy_helper.to_array(tensor), limits.min, limits.max).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, name=f"{name}_fp16"))
        casts.append(helper.make_node("Cast", [f"{name}_fp16"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(stored.SerializeToString(deterministic=True))
