"""What a run can go on from, kept outside the graph: finished seeds, finished steps and checkpoints.

DVC empties a stage's outputs before it runs. Each seed of a variant is therefore made under
`.netpress/runs/<stage>/<variant>/seed_<k>/`, with a fingerprint of all it follows from: params, data, parent, code and
environment. Under another fingerprint nothing of it is used. Checkpoints and steps are removed when their seed is
finished; finished seeds stay, so that adding a seed trains only the new one.

What several variants compute alike is kept beside, each under a fingerprint of its own: `kept`.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.core.checkpoint import Checkpoint
from netpress.process.lock import held

STORE = Path(".netpress/runs")
REMEDY = "it is made again"


@dataclass(frozen=True)
class Workspace:
    """Where one seed is made: its files below `models`, and what a killed run can go on from."""

    folder: Path
    label: str

    @property
    def models(self) -> Path:
        """Becomes the variant's model folder."""
        return self.folder / "models"

    @property
    def steps(self) -> Path:
        """Records of what is finished, and checkpoints."""
        return self.folder / "steps"

    def checkpoint(self, name: str) -> Checkpoint:
        """Return the checkpoint of one call of `fit`."""
        return Checkpoint(self.steps / name)

    def recorded(self, name: str, place: Path) -> dict[str, Any] | None:
        """Return what was recorded of a finished step, if its files in `place` are intact; else nothing."""
        record_file = self.steps / f"{name}.json"
        if not record_file.exists():
            return None
        try:
            record = files.read_sealed(record_file, REMEDY)
        except ArtifactError as error:
            print(f"{self.label}: {error}", flush=True)
            return None
        if record["sha256"] != _hashes(place):
            print(f"{self.label}: files of {place} were changed or are missing; they are made again", flush=True)
            return None
        value: dict[str, Any] = record["value"]
        return value

    def record(self, name: str, place: Path, value: dict[str, Any]) -> dict[str, Any]:
        """Record that a step is finished, with the hashes of its files in `place`; returns `value`."""
        files.write_sealed(self.steps / f"{name}.json", {"value": value, "sha256": _hashes(place)})
        return value

    def once(self, name: str, place: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what `make` returns, from its record if it was finished before and its files in `place` are intact."""
        value = self.recorded(name, place)
        return self.record(name, place, make()) if value is None else value


def code_hashes(root: Path, code: Sequence[str]) -> dict[str, str]:
    """Return file -> sha256 of the files and folders `code` of the project; see `families.code_of`.

    To be called when a stage begins: what it has imported does not change when a file is edited meanwhile.
    """
    places = [root / name for name in code]
    found = {path for place in places for path in ([place] if place.is_file() else place.rglob("*.py"))}
    return {path.relative_to(root).as_posix(): files.sha256_file(path) for path in sorted(found)}


def finished_seed(
    root: Path,
    model_id: str,
    seed: int,
    fingerprint: str,
    make: Callable[[Workspace], dict[str, Any]],
    out: Path | None,
    wait: bool = True,
) -> dict[str, Any] | None:
    """Copy the files of one seed to the folder `out`, made by `make` unless they were finished before.

    Args:
        root: the project.
        model_id: `<stage>/<variant>`.
        seed: which seed.
        fingerprint: the fingerprint of all that the seed follows from.
        make: makes the seed in the workspace that it is given and returns the seed's metrics.
        out: gets the files; None leaves them where they are made.
        wait: for another process that is at this seed.

    Returns:
        The seed's metrics; None where another process is at it, which is not to be waited for.
    """
    folder, label = root / STORE / model_id / f"seed_{seed}", f"{model_id} seed {seed}"
    with held(folder, label, wait) as ours:
        if not ours:
            return None
        work = _open(folder, label, fingerprint)
        metrics = work.recorded("seed", work.models)
        if metrics is None:
            metrics = work.record("seed", work.models, make(work))
        else:
            text = "finished before with the same params, data and code"
            print(f"{work.label}: {text}; taken from {STORE.as_posix()}", flush=True)
        for step in work.steps.iterdir():
            if step.name != "seed.json":
                step.unlink()
        if out:
            files.copy_folder(work.models, out)
        return metrics


def kept(path: Path, fingerprint: str, label: str, make: Callable[[], bytes]) -> bytes:
    """Return what `make` returns, from the file `path` if it was made before and is intact.

    Of several processes that want it at the same time one makes it, and the others wait.

    Args:
        path: of the file; `<stem>.json` beside it holds its hash and the fingerprint.
        fingerprint: of all that the content follows from.
        label: what it is, for messages.
        make: computes the content.
    """
    record_file = path.with_suffix(".json")
    with held(path.with_suffix(""), label):
        if record_file.exists():
            try:
                record = files.read_sealed(record_file, REMEDY)
                if record["fingerprint"] == fingerprint:
                    return files.read_checked(path, record["sha256"], REMEDY)
            except ArtifactError as error:
                print(f"{label}: {error}", flush=True)
        data = make()
        files.write_bytes(path, data)
        files.write_sealed(record_file, {"fingerprint": fingerprint, "sha256": files.sha256_bytes(data)})
        return data


def _open(folder: Path, label: str, fingerprint: str) -> Workspace:
    """Return the workspace in `folder`, emptied if it is of another fingerprint, and without strays of a killed run."""
    work, mark = Workspace(folder, label), folder / "fingerprint.json"
    known = ""
    with suppress(ArtifactError):  # killed before it was written, or damaged: then nothing is there to go on from
        known = files.read_sealed(mark, "")["sha256"]
    if known != fingerprint:
        if known and _unfinished(work):
            text = "what a run with other params, data, code or environment left"
            print(f"{label}: {text} in {STORE.as_posix()} is not used", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    for stray in list(folder.rglob(".*.aside")):
        stray.unlink()
    files.write_sealed(mark, {"sha256": fingerprint})
    for part in (work.models, work.steps):
        part.mkdir(parents=True, exist_ok=True)
    return work


def _unfinished(work: Workspace) -> bool:
    """Return whether there are steps or checkpoints that a killed run could go on from."""
    left = {step.name for step in work.steps.glob("*")}
    return bool(left) and "seed.json" not in left


def _hashes(place: Path) -> dict[str, str]:
    found = sorted(path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(place).as_posix(): files.sha256_file(path) for path in found}
