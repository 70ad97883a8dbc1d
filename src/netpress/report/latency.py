"""What `python -m netpress latency` measured last: read, written, and as a table.

The file lies outside the graph and outside Git: it is of one machine.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from netpress.base import files
from netpress.base.errors import ArtifactError, ConfigError, NetpressError
from netpress.params.schema import Strict, parse
from netpress.report import units
from netpress.report.markdown import table

FILE = Path("reports/latency.json")
REMEDY = "run 'python -m netpress latency' again"
#: Running processes, on average, from which figures are said to be doubtful.
LOADED = 0.5


ONNXRUNTIME = "onnxruntime"


class Setting(NamedTuple):
    """How files are run: images at once, threads, and by what."""

    batch: int
    threads: int
    runtime: str = ONNXRUNTIME

    def __str__(self) -> str:
        """As in 'batch 1, 2 threads', or with the runtime before it where that is not onnxruntime."""
        other = "" if self.runtime == ONNXRUNTIME else f"{self.runtime}, "
        return f"{other}batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}"


#: By this one models are chosen and compared: an image by itself, as a device sees it.
ONE_IMAGE = Setting(1, 1)


class Timing(Strict):
    """Milliseconds of a batch: the median and the ninetieth percentile over all runs."""

    batch: int
    threads: int
    runtime: str = ONNXRUNTIME
    p50_ms: float
    p90_ms: float

    @property
    def setting(self) -> Setting:
        """At which it was measured."""
        return Setting(self.batch, self.threads, self.runtime)


class Timed(Strict):
    """What was measured of one file.

    Attributes:
        sha256: of the model's weights.
        onnx_bytes: of the file without metadata.
        timings: one for each setting.
        beside: the measured model that it was made from or taught by, if any.
        note: why a smaller file is no faster, where it is none.
    """

    sha256: str
    onnx_bytes: int
    timings: list[Timing]
    beside: str | None = None
    note: str = ""

    def at(self, setting: Setting) -> Timing | None:
        """Return what was measured at a setting."""
        return next((t for t in self.timings if t.setting == setting), None)


class Records(Strict):
    """What was measured in one go, on what machine, by which runtimes in which versions.

    `load` is the number of running processes before.
    """

    cpu: str
    cores: int
    runtimes: dict[str, str]
    load: float
    rounds: int
    models: dict[str, Timed]


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


def of_now(records: Records, known: Mapping[str, str]) -> Records:
    """Leave out models that were made again since: `known` is model id -> sha256 of the weights as they are now."""
    models = {name: timed for name, timed in records.models.items() if known.get(name) == timed.sha256}
    return records.model_copy(update={"models": models})


def at(records: Records, setting: Setting = ONE_IMAGE) -> dict[str, float]:
    """Return the median of each model that was measured at a setting."""
    return {name: timing.p50_ms for name, found in records.models.items() if (timing := found.at(setting))}


def latency_table(records: Records) -> str:
    """Return the table of all that was measured, and what is to be known of it, as Markdown; '' where nothing was."""
    settings = list(dict.fromkeys(t.setting for m in records.models.values() for t in m.timings))
    if not settings:
        return ""
    rows = []
    for name, timed in records.models.items():
        cells = [f"{t.p50_ms:.3f} / {t.p90_ms:.3f}" if (t := timed.at(setting)) else "-" for setting in settings]
        parent = records.models.get(timed.beside or "")
        faster = times_as_fast(timed, parent) if parent else None
        beside = ["-", "-", ""] if faster is None else [timed.beside or "", f"{faster:.2f}x", timed.note]
        rows.append([name, units.size(timed.onnx_bytes), *cells, *beside])
    runtimes = ", ".join(f"{name} {version}" for name, version in records.runtimes.items())
    titles = [f"{setting} (ms, p50 / p90)" for setting in settings]
    head = ["Model", "ONNX", *titles, "Beside", "Times as fast", "Note"]
    told = [
        f"{records.cpu}, {records.cores} cores, {runtimes}; {records.rounds} rounds.",
        f"*Times as fast* compares the medians of {settings[0]}.",
    ]
    if records.load > LOADED:
        told.append(f"Other work was running (load {records.load:.1f}): figures are too high, and ratios doubtful.")
    return table(head, rows, last_left=True) + "\n" + "\n".join(told) + "\n"


def times_as_fast(timed: Timed, parent: Timed) -> float | None:
    """Return how many images a model takes in the time of one of its parent's; None where either was not measured."""
    own, its = timed.timings[:1], parent.timings[:1]
    return its[0].p50_ms / own[0].p50_ms if own and its else None
