"""What a run can go on from, kept outside the graph: finished seeds, finished steps and checkpoints.

DVC empties a stage's outputs before it runs. Each seed of a variant is therefore made under
`.netpress/runs/<stage>/<variant>/seed_<k>/`, with a fingerprint of all it follows from: params, data, parent, code and
environment. Under another fingerprint nothing of it is used. Checkpoints and steps are removed when their seed is
finished; finished seeds stay, so that adding a seed trains only the new one.
"""

import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.checkpoint import Checkpoint

STORE = Path(".netpress/runs")
#: Parts of the package that no trained model depends on.
UNRELATED = ("cli", "graph.py", "profiles.py", "report", "sources", "verify", "__main__.py")
#: Families of plugins: of these only the members that a variant uses.
FAMILIES = ("distill", "lowrank", "models", "prune", "quantize")


@dataclass(frozen=True)
class Workspace:
    """Where one seed is made: its files below `files`, and what a killed run can go on from."""

    folder: Path
    label: str

    @property
    def files(self) -> Path:
        """Becomes the variant's model folder."""
        return self.folder / "files"

    @property
    def steps(self) -> Path:
        """Records of what is finished, and checkpoints."""
        return self.folder / "steps"

    def checkpoint(self, name: str) -> Checkpoint:
        """Return the checkpoint of one call of `fit`."""
        return Checkpoint(self.steps / name)

    def once(self, name: str, place: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what `make` returns, from its record if it was finished before and its files in `place` are intact."""
        record_file = self.steps / f"{name}.json"
        if record_file.exists():
            try:
                record = files.read_sealed(record_file, "it is made anew")
            except ArtifactError as error:
                print(f"{self.label}: {error}")
            else:
                if record["sha256"] == _hashes(place):
                    value: dict[str, Any] = record["value"]
                    return value
                print(f"{self.label}: files of {place} were changed or are missing; they are made anew")
        value = make()
        files.write_sealed(record_file, {"value": value, "sha256": _hashes(place)})
        return value


def fingerprint(facts: dict[str, Any], script: Path, members: Collection[str]) -> str:
    """Return a hash of `facts` (JSON) and of the code: the stage's `script` and the package.

    `members` are the plugins that the variant uses, such as `models/resnet18.py`; no others of those families count.
    """
    package = Path(__file__).parent
    code = {script.name: files.sha256_file(script)}
    for path in sorted(package.rglob("*.py")):
        name, top = path.relative_to(package).as_posix(), path.relative_to(package).parts[0]
        plugin = top in FAMILIES and not path.name.startswith("_")
        if top not in UNRELATED and (not plugin or name in members):
            code[name] = files.sha256_file(path)
    return files.sha256_bytes(json.dumps([facts, code], sort_keys=True, allow_nan=False).encode())


def finished_seed(
    root: Path, model_id: str, seed: int, print_of: str, make: Callable[[Workspace], dict[str, Any]], out: Path
) -> dict[str, Any]:
    """Copy the files of one seed to the folder `out`, made by `make` unless they were finished before.

    Args:
        root: the project.
        model_id: `<stage>/<variant>`.
        seed: which seed.
        print_of: the fingerprint of all that the seed follows from.
        make: makes the seed in the workspace that it is given and returns the seed's metrics.
        out: gets the files.

    Returns:
        The seed's metrics.
    """
    work = _open(root / STORE / model_id / f"seed_{seed}", f"{model_id} seed {seed}", print_of)
    if (work.steps / "seed.json").exists():
        print(f"{work.label}: finished before with the same params, data and code; taken from {STORE.as_posix()}")
    metrics = work.once("seed", work.files, lambda: make(work))
    for step in work.steps.iterdir():
        if step.name != "seed.json":
            step.unlink()
    files.copy_folder(work.files, out)
    return metrics


def _open(folder: Path, label: str, print_of: str) -> Workspace:
    """Return the workspace in `folder`, emptied if it is of another fingerprint, and without strays of a killed run."""
    work, mark = Workspace(folder, label), folder / "fingerprint.json"
    if folder.exists():
        try:
            same = files.read_sealed(mark, "") == {"fingerprint": print_of}
        except ArtifactError:
            same = False
        if not same:
            print(f"{label}: what a run with other params, data, code or environment left in {STORE} is not used")
            shutil.rmtree(folder)
    for stray in list(folder.rglob(".*.aside")):
        stray.unlink()
    files.write_sealed(mark, {"fingerprint": print_of})
    for part in (work.files, work.steps):
        part.mkdir(parents=True, exist_ok=True)
    return work


def _hashes(place: Path) -> dict[str, str]:
    found = sorted(path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(place).as_posix(): files.sha256_file(path) for path in found}
