"""The line of metrics/summary.md that says of which data its tables are, and the mark on tables of other data.

Here and not with the report, because `prepare` marks old tables before anything trains.
"""

from pathlib import Path

from pydantic import ConfigDict, Field

from netpress.base import files
from netpress.base.errors import ArtifactError, ConfigError
from netpress.params.schema import Strict, parse

#: What `prepare` says of the data.
FACTS = Path("metrics/data.json")
TABLES = Path("metrics/summary.md")
REMEDY = "run 'dvc repro prepare'"
START, MARK = "Data: ", "**These tables, and the figures in plots/, are of other data than those prepared now.**"


class _Facts(Strict):
    model_config = ConfigDict(extra="ignore")

    source: str
    classes: int
    resolution: int
    channels: int
    train_images: int
    val_images: int
    test_images: int = 0
    manifest_sha256: str = Field(min_length=64)


def data_line(root: Path) -> str:
    """Return which data lie prepared: source, classes, pixels, images of each split, and the manifest's hash.

    Empty without metrics/data.json.

    Raises:
        ArtifactError: the file is damaged.
    """
    if not (root / FACTS).exists():
        return ""
    try:
        facts = parse(_Facts, files.read_json(root / FACTS, REMEDY), "data")
    except ArtifactError as error:
        raise ArtifactError(str(error).replace(str(root / FACTS), FACTS.as_posix())) from None
    except ConfigError as error:
        raise ArtifactError(f"{FACTS.as_posix()} is damaged ({str(error).splitlines()[0]}); {REMEDY}") from None
    splits = (("training", facts.train_images), ("validation", facts.val_images), ("test", facts.test_images))
    images = ", ".join(f"{count:,} {name}" for name, count in splits if count)
    return (
        f"{START}{facts.source}, {facts.classes} classes, {facts.resolution}x{facts.resolution} pixels in "
        f"{facts.channels} channel{'s' if facts.channels > 1 else ''}; images: {images} "
        f"(sha256 of the manifest: {facts.manifest_sha256[:12]})."
    )


def mark_tables(root: Path) -> bool:
    """Put a mark on top of tables that are of other data than those prepared now, or take it away; whether it is there.

    Tables that do not say of which data they are stay as they are.
    """
    path, now = root / TABLES, data_line(root)
    if not path.exists() or not now:
        return False
    text = path.read_text(encoding="utf-8")
    tables = text.partition("\n\n")[2] if text.startswith(MARK) else text
    shown = next((line for line in tables.splitlines() if line.startswith(START)), now)
    other = shown != now
    marked = (
        f"{MARK}\n`dvc repro` makes new ones. Prepared now: {now.removeprefix(START)}\n\n{tables}" if other else tables
    )
    if marked != text:
        files.write_text(path, marked)
    return other
