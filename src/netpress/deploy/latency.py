"""How long a model takes for a batch of images, beside the models that it was made from.

Every file is run in turn for some ten milliseconds, round after round, so that whatever else the machine does meanwhile
meets all of them alike. Each run is timed on its own; medians and ninetieth percentiles are over all rounds.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from netpress.base import files
from netpress.base.errors import ArtifactError, ConfigError, NetpressError
from netpress.core.export import OnnxModule
from netpress.params.schema import Strict, parse

#: What was measured last, outside the graph and outside Git: it is of one machine.
FILE = Path("reports/latency.json")
REMEDY = "run 'python -m netpress latency' again"
#: What weights alone are stored as; onnxruntime turns them into floats once, as it loads the file.
STORED = ("FLOAT16", "BFLOAT16", "INT8", "UINT8", "INT4", "UINT4")
#: Seconds for which a file runs before the next one has its turn, and runs of it at most.
TURN, MOST = 0.01, 200


class Setting(NamedTuple):
    """How files are run: images at once, and threads."""

    batch: int
    threads: int

    def __str__(self) -> str:
        """As in 'batch 1, 2 threads'."""
        return f"batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class File:
    """An ONNX file and the shape (C, H, W) of its images."""

    name: str
    data: bytes
    image: tuple[int, int, int]


class Timing(Strict):
    """Milliseconds of a batch: the median and the ninetieth percentile over all runs."""

    batch: int
    threads: int
    p50_ms: float
    p90_ms: float


class Timed(Strict):
    """What was measured of one file; `sha256` is the file's."""

    sha256: str
    timings: list[Timing]

    def at(self, setting: Setting) -> Timing | None:
        """Return what was measured at a setting."""
        return next((t for t in self.timings if (t.batch, t.threads) == setting), None)


class Records(Strict):
    """What was measured in one go, and on what machine; `load` is the number of running processes before."""

    cpu: str
    cores: int
    onnxruntime: str
    load: float
    rounds: int
    models: dict[str, Timed]


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
        settings: images at once and threads.
        rounds: turns of each file.
        progress: called when all files have had a turn.

    Raises:
        ArtifactError: onnxruntime refuses a file.
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
            found[name].append(Timing(batch=setting.batch, threads=setting.threads, p50_ms=p50, p90_ms=p90))
    return found


def _runner(file: File, setting: Setting) -> Callable[[], object]:
    session = OnnxModule(file.data, setting.threads, name=file.name).session
    images = np.random.default_rng(0).normal(size=(setting.batch, *file.image)).astype(np.float32)
    feed = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, feed)


def _timed(run: Callable[[], object], count: int) -> Iterator[float]:
    for _ in range(count):
        start = time.perf_counter()
        run()
        yield time.perf_counter() - start


def _runs_of_a_turn(run: Callable[[], object]) -> int:
    """Warm up, and return how often `run` is to be called in a turn."""
    return min(MOST, max(1, round(TURN / statistics.median(_timed(run, 5)))))


def write(root: Path, records: Records) -> None:
    """Write what was measured to `FILE`."""
    files.write_json(root / FILE, records.model_dump())


def read(root: Path) -> Records:
    """Read what was measured last.

    Raises:
        NetpressError: nothing was, or the file is damaged.
    """
    if not (root / FILE).is_file():
        raise NetpressError("no latency was measured here; run 'python -m netpress latency' first")
    try:
        raw: Any = files.read_json(root / FILE, REMEDY)
        return parse(Records, raw, FILE.as_posix())
    except ConfigError as error:
        raise ArtifactError(f"{FILE} is damaged ({str(error).splitlines()[0]}); {REMEDY}") from None


def milliseconds(records: Records, known: Mapping[str, str], setting: Setting) -> dict[str, float]:
    """Return the median of each model whose file is still the one that was measured.

    Args:
        records: what was measured.
        known: model id -> sha256 of its ONNX file as it is now.
        setting: of the measurement.
    """
    timed = {name: found for name, found in records.models.items() if known.get(name) == found.sha256}
    return {name: timing.p50_ms for name, found in timed.items() if (timing := found.at(setting))}
