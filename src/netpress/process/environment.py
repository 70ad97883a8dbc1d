"""Where each result was made: versions, processor, device, threads and flags, beside the metrics and outside the graph.

`metrics/environments.json` is tracked by Git and no stage depends on it, so that no hash depends on a host. Each entry
holds the hash of the result it describes: where the two part, for example because DVC restored an older result,
the environment counts as not recorded.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from netpress.base import files
from netpress.base.errors import ArtifactError, ConfigError
from netpress.params.schema import Strict, parse
from netpress.process.lock import held

FILE = Path("metrics/environments.json")
LOCK = Path(".netpress/locks/environments")
REMEDY = "restore it from Git, or delete it: every run records its environment again"
#: Packages on which the bits of a result depend.
LIBRARIES = (
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxscript",
    "pillow",
    "safetensors",
    "scipy",
    "tensorly",
    "torch",
    "torch-pruning",
    "torchvision",
)
#: Variables that choose kernels, threads or precision; how idle threads wait is none of them.
FLAGS = re.compile(
    r"^(OMP(?!_WAIT)|MKL|OPENBLAS|BLIS|ONEDNN|DNNL|ATEN|TORCH|PYTORCH|CUBLAS|CUDNN|NVIDIA_TF32)_(?!LOGS|HOME|CACHE)"
)

#: The result of `prepare`; the others are model ids, and `test/<model id>`.
DATA = "data"

Environment = dict[str, str]


class Entry(Strict):
    """Where one result was made; `sha256` is the hash of its weights or manifest."""

    environment: str
    sha256: str


class Records(Strict):
    """The whole file: environments by a short name, and the results made in them."""

    environments: dict[str, Environment] = Field(default_factory=dict)
    results: dict[str, Entry] = Field(default_factory=dict)

    def of(self, result: str, sha256: str) -> str | None:
        """Return the name of the environment of `result`, if its record is of the content with this hash."""
        entry = self.results.get(result)
        return entry.environment if entry is not None and entry.sha256 == sha256 else None


def current(**facts: object) -> Environment:
    """Describe this process: plain text by key, without host name, path or time.

    Args:
        facts: what the caller knows beside it, such as device, threads and precision.
    """
    found = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
    }
    found |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    found |= {name: value for name, value in os.environ.items() if FLAGS.match(name)}
    return dict(sorted((found | {key: str(value) for key, value in facts.items()}).items()))


def cpu_name() -> str:
    """Return the processor's name as the system gives it, with family and model, since clouds shorten the name."""
    info = Path("/proc/cpuinfo")
    facts = (
        dict(re.findall(r"^([\w ]+?)\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.M)) if info.is_file() else {}
    )
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return f"{facts['model name']} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"


def name_of(environment: Environment) -> str:
    """Return a short name that depends on the content alone."""
    text = json.dumps(environment, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def record(root: Path, result: str, sha256: str, environment: Environment) -> None:
    """Note that `result` (a model id, or `data`), of content `sha256`, was made in `environment`."""
    with held(root / LOCK):
        records = load(root)
        name = name_of(environment)
        results = records.results | {result: Entry(environment=name, sha256=sha256)}
        _write(root, records.environments | {name: environment}, results)


def results_of(models: Iterable[str], final: Iterable[str]) -> set[str]:
    """Return the results of a project with these model ids, of which `final` are tested."""
    return {DATA, *models, *(f"test/{model_id}" for model_id in final)}


def forget_others(root: Path, wanted: set[str]) -> None:
    """Drop the records of results that are not in `wanted`."""
    with held(root / LOCK):
        records = load(root)
        kept = {result: entry for result, entry in records.results.items() if result in wanted}
        if kept != records.results:
            _write(root, records.environments, kept)


def load(root: Path) -> Records:
    """Read the file; without one there are no records.

    Raises:
        ArtifactError: it is damaged.
    """
    if not (root / FILE).exists():
        return Records()
    try:
        records = parse(Records, files.read_json(root / FILE, REMEDY), "environments")
    except ConfigError as error:
        raise ArtifactError(f"{FILE} is damaged ({str(error).splitlines()[0]}); {REMEDY}") from None
    if changed := [name for name, value in records.environments.items() if name_of(value) != name]:
        raise ArtifactError(f"{FILE} is damaged (environment {changed[0]} is not what was written); {REMEDY}")
    return records


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return key -> the two values, for every key in which two environments differ; `-` stands for absent."""
    pairs = {key: (one.get(key, "-"), other.get(key, "-")) for key in sorted({*one, *other})}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _write(root: Path, environments: dict[str, Environment], results: dict[str, Entry]) -> None:
    used = {entry.environment for entry in results.values()}
    content: dict[str, Any] = {
        "environments": {name: value for name, value in environments.items() if name in used},
        "results": {result: entry.model_dump() for result, entry in results.items()},
    }
    files.write_json(root / FILE, content)
