"""ONNX files as onnxruntime runs them where models are shipped."""

from typing import Any

from netpress.base.errors import ArtifactError

#: What weights alone are stored as; onnxruntime turns them into floats once, as it loads the file.
STORED = ("FLOAT16", "BFLOAT16", "INT8", "UINT8", "INT4", "UINT4")


def kind_of(data: bytes) -> str:
    """Return what of an ONNX file is in fewer bits: `integers`, also between layers; `weights` alone; or `nothing`."""
    import onnx

    graph = onnx.load_from_string(data).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return "integers"
    types = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}
    return "weights" if types & {*STORED} else "nothing"


def open_session(data: bytes, threads: int, name: str) -> Any:
    """Return a session on the CPU that runs the file `data` on `threads` threads; messages call the file `name`.

    Raises:
        ArtifactError: onnxruntime refuses it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own error types derive from RuntimeError and Exception alike
        raise ArtifactError(f"onnxruntime refuses {name}: {str(error).splitlines()[0]}") from None
