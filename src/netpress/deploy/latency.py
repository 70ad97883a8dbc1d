"""How long a model takes for a batch of images, beside the models that it was made from.

Every file is run in turn for some ten milliseconds, round after round, so that whatever else the machine does meanwhile
meets all of them alike. Each run is timed on its own; medians and ninetieth percentiles are over all rounds.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from netpress.base.errors import ArtifactError
from netpress.core.export import OnnxModule
from netpress.report.latency import ONNXRUNTIME, Setting, Timing

OPENVINO = "openvino"

#: What weights alone are stored as; onnxruntime turns them into floats once, as it loads the file.
STORED = ("FLOAT16", "BFLOAT16", "INT8", "UINT8", "INT4", "UINT4")
#: Seconds for which a file runs before the next one has its turn, and runs of it at most.
TURN, MOST = 0.01, 200


@dataclass(frozen=True)
class File:
    """An ONNX file and the shape (C, H, W) of its images."""

    name: str
    data: bytes
    image: tuple[int, int, int]


def kind_of(data: bytes) -> str:
    """Return what of an ONNX file is in fewer bits: `integers`, also between layers; `weights` alone; or `nothing`."""
    import onnx

    graph = onnx.load_from_string(data).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return "integers"
    types = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}
    return "weights" if types & {*STORED} else "nothing"


def measure(
    listed: Sequence[File], settings: Sequence[Setting], rounds: int, progress: Callable[[], None] = lambda: None
) -> dict[str, list[Timing]]:
    """Run every file at every setting, in turn; return name -> timings, in the order of `settings`.

    Args:
        listed: the files.
        settings: images at once, threads and runtime.
        rounds: turns of each file.
        progress: called when all files have had a turn.

    Raises:
        ArtifactError: a runtime refuses a file.
    """
    found: dict[str, list[Timing]] = {file.name: [] for file in listed}
    for setting in settings:
        runs = {file.name: _runner(file, setting) for file in listed}
        counts = {name: _runs_of_a_turn(run) for name, run in runs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                seconds[name] += _timed(run, counts[name])
            progress()
        for name, values in seconds.items():
            p50, p90 = (float(1000 * np.quantile(values, share)) for share in (0.5, 0.9))
            found[name].append(Timing(**setting._asdict(), p50_ms=p50, p90_ms=p90))
    return found


def runtimes() -> dict[str, str]:
    """Return the runtimes that are installed, with their versions; onnxruntime first."""
    found = {ONNXRUNTIME: version("onnxruntime")}
    if find_spec("openvino"):
        found[OPENVINO] = version("openvino").partition("-")[0]
    return found


def _runner(file: File, setting: Setting) -> Callable[[], object]:
    images = np.random.default_rng(0).normal(size=(setting.batch, *file.image)).astype(np.float32)
    return _RUNNERS[setting.runtime](file, setting.threads, images)


def _onnxruntime(file: File, threads: int, images: np.ndarray) -> Callable[[], object]:
    module = OnnxModule(file.data, threads, name=file.name)
    return lambda: module.session.run(None, {module.input_name: images})


def _openvino(file: File, threads: int, images: np.ndarray) -> Callable[[], object]:
    import openvino

    how = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    core = openvino.Core()
    try:
        request = core.compile_model(core.read_model(file.data), "CPU", how).create_infer_request()
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise ArtifactError(f"OpenVINO refuses {file.name}: {first}; take --runtime onnxruntime alone") from None
    return lambda: request.infer({0: images})


_RUNNERS = {ONNXRUNTIME: _onnxruntime, OPENVINO: _openvino}


def _timed(run: Callable[[], object], count: int) -> Iterator[float]:
    for _ in range(count):
        start = time.perf_counter()
        run()
        yield time.perf_counter() - start


def _runs_of_a_turn(run: Callable[[], object]) -> int:
    """Warm up, and return how often `run` is to be called in a turn."""
    return min(MOST, max(1, round(TURN / statistics.median(_timed(run, 5)))))
