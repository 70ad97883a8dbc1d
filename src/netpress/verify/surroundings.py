"""What differs between the environment of the committed results and that of the re-run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netpress.base.files import sha256_file
from netpress.base.model_id import ModelId
from netpress.base.project import PREPARED, metrics_file
from netpress.process import environment
from netpress.process.environment import DATA, Environment

MANIFEST = PREPARED / "manifest.json"


@dataclass(frozen=True)
class Surroundings:
    """Two environments compared.

    Attributes:
        differences: key -> (when the results were made, in the re-run).
        unknown: results whose environment is not recorded, then or now.
    """

    differences: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def result_of(stage: str) -> str | None:
    """Return the recorded result that a stage makes, or whose model it measures; None for `aggregate`."""
    if stage == "prepare":
        return DATA
    section, _, variant = stage.partition("@")
    return variant.partition("/round_")[0] if section == "test" else ModelId.of_stage(stage)


def where_made(root: Path, results: Sequence[str]) -> dict[str, Environment | None]:
    """Return the recorded environment of each result, None where none is recorded of its present content."""
    records = environment.load(root)
    found: dict[str, Environment | None] = {}
    for result in results:
        name = records.of(result, _sha256(root, result, records))
        found[result] = records.environments.get(name) if name is not None else None
    return found


def _sha256(root: Path, result: str, records: environment.Records) -> str:
    if result != DATA:
        try:
            return str(json.loads(metrics_file(root, result).read_bytes())["weights_sha256"])
        except (OSError, ValueError, KeyError, TypeError):  # the comparison of the outputs says so
            return ""
    if (root / MANIFEST).is_file():
        return sha256_file(root / MANIFEST)
    entry = records.results.get(DATA)  # of a clone without data, whose manifest cannot be asked
    return entry.sha256 if entry else ""


def compare(before: Mapping[str, Environment | None], after: Mapping[str, Environment | None]) -> Surroundings:
    """Compare the environments of the same results; where several differ in a key, the first one's values stand."""
    differences: dict[str, tuple[str, str]] = {}
    unknown = []
    for result, then in before.items():
        now = after.get(result)
        if then is None or now is None:
            unknown.append(result)
        else:
            differences = environment.differences(then, now) | differences
    return Surroundings(dict(sorted(differences.items())), tuple(unknown))
