"""A note beside tables whose models were made in more than one environment."""

from collections import Counter
from pathlib import Path

from netpress.base.files import write_text
from netpress.process import environment
from netpress.process.environment import Records
from netpress.report.collect import Study

#: Not in the tables: their hashes must not depend on where models were made.
FILE = Path("reports/environments.md")
HEADING = "Made in more than one environment"


def note(study: Study, records: Records) -> str:
    """Return a paragraph that says how many models were made where; nothing for one environment or none recorded.

    Environments are named by the keys in which they differ. A model without a record, or whose record is of other
    weights, counts as not recorded.
    """
    models = [model for model in study.models if model.id.round is None]  # a round is made with its variant
    counts = Counter(records.of(model.id, model.measured.weights_sha256) for model in models)
    if len(counts) < 2:
        return ""
    found = {name: records.environments.get(name, {}) for name in counts if name is not None}
    keys = sorted({key for environment in found.values() for key in environment})
    differing = [key for key in keys if len({environment.get(key) for environment in found.values()}) > 1]
    lines = [f"{HEADING} (`metrics/environments.json`), so that figures may differ for that reason too:"]
    for name, where in sorted(found.items(), key=lambda pair: (-counts[pair[0]], pair[0])):
        words = ", ".join(f"`{key}: {where.get(key, '-')}`" for key in differing)
        lines.append(f"- {_models(counts[name])}: {words or 'in one environment'}")
    if None in counts:
        lines.append(f"- {_models(counts[None])}: not recorded")
    return "\n".join(lines) + "\n"


def write_note(root: Path, study: Study) -> str:
    """Write the note to `FILE`, which Git and DVC do not know, or remove the one of an earlier run; returns it."""
    text = note(study, environment.load(root))
    if text:
        write_text(root / FILE, text)
    else:
        (root / FILE).unlink(missing_ok=True)
    return text


def _models(count: int) -> str:
    return f"{count} model" if count == 1 else f"{count} models"
