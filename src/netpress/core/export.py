"""ONNX: the form in which models are shipped and their sizes compared across families."""

import logging
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from netpress.base.errors import ArtifactError

#: Largest accepted difference between a network's logits and its ONNX file's, relative to the largest logit.
TOLERANCE = 1e-4


#: Graphs of networks without their weights, by what a network's structure follows from.
Graphs = dict[str, Any]


class Shelf(NamedTuple):
    """Where the graph of a network is kept for all of its structure: tracing takes seconds."""

    graphs: Graphs
    structure: str


def export_onnx(
    network: nn.Module,
    in_channels: int,
    height: int,
    width: int,
    name: str = "the network",
    shelf: Shelf | None = None,
) -> bytes:
    """Export `network` (on the CPU, in eval mode) and check the result against it.

    The input is `images` (N, in_channels, height, width) float32, normalized; the output `logits` (N, classes).
    Messages call the network `name`. Its graph is taken from the `shelf`, or traced and laid there, and filled with the
    weights.

    Raises:
        ArtifactError: it cannot be exported, or the exported model computes something else.
    """
    example = torch.linspace(-1, 1, 2 * in_channels * height * width).reshape(2, in_channels, height, width)
    network = network.to(memory_format=torch.contiguous_format)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    graphs, structure = shelf or Shelf({}, "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        if structure not in graphs:
            graphs[structure] = _traced(network, example, name)
        data = _filled(graphs[structure], network)
    with torch.inference_mode():
        expected = network(example)
    error = float((OnnxModule(data, 1, name=f"the ONNX model of {name}")(example) - expected).abs().max())
    if not error <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise ArtifactError(f"{name}: the exported ONNX model is off by {error:.2e}, allowed {TOLERANCE:.0e}")
    return data


def _traced(network: nn.Module, example: Tensor, name: str) -> Any:
    """Return the graph of `network` as onnx_ir has it, not optimized, since that merges weights; without them."""
    try:
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            optimize=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    except torch.onnx.OnnxExporterError as refusal:
        cause = refusal.__cause__ or refusal
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise ArtifactError(f"{name} cannot be exported to ONNX ({type(cause).__name__}: {reason})") from None
    if program is None:
        raise ArtifactError(f"{name} cannot be exported to ONNX: the exporter returned nothing")
    weights = program.model.graph.initializers
    for key in weights.keys() & network.state_dict().keys():
        weights[key].const_value = None
    return program.model


def _filled(graph: Any, network: nn.Module) -> bytes:
    """Return the ONNX file of a graph with the weights of `network`."""
    program = torch.onnx.ONNXProgram(graph.clone(), None)
    program.apply_weights(network.state_dict())
    program.optimize()
    return without_metadata(program.model_proto.SerializeToString())


def without_metadata(data: bytes) -> bytes:
    """Drop stack traces, docs and annotations, which carry the clone's path, and what `with_metadata` writes."""
    import onnx

    model = onnx.load_from_string(data)
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]
    return bytes(model.SerializeToString(deterministic=True))


def with_metadata(data: bytes, told: dict[str, str]) -> bytes:
    """Write into an ONNX file what `told` says of it, by key, for someone who has nothing but the file."""
    import onnx

    model = onnx.load_from_string(data)
    onnx.helper.set_model_props(model, told)
    return bytes(model.SerializeToString(deterministic=True))


class OnnxModule(nn.Module):
    """A module whose forward runs an ONNX model on the CPU: (N, C, H, W) float32 -> (N, classes) float32.

    `fused=False` runs the graph as it is written, operator by operator, without onnxruntime's optimizations, which
    replace quantized operators by integer kernels. Messages call the file `name`.
    """

    def __init__(self, data: bytes, threads: int, fused: bool = True, name: str = "the ONNX model") -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if not fused:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own error types derive from RuntimeError and Exception alike
            raise ArtifactError(f"onnxruntime refuses {name}: {str(error).splitlines()[0]}") from None
        self.input_name = self.session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        array = np.ascontiguousarray(images.detach().float().cpu().numpy())
        logits = self.session.run(None, {self.input_name: array})[0]
        return torch.from_numpy(logits).to(images.device)
