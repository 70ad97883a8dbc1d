"""A data source looked through without keeping anything of it."""

import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from netpress.core.dataset import UNLABELLED
from netpress.ingest.pieces import Source
from netpress.params import plugins
from netpress.params.items import Data
from netpress.process.progress import ImageProgress

#: Bad images named at most.
NAMED = 200


@dataclass(frozen=True)
class Seen:
    """How many images of each split can be used, how many others there are, and what is wrong with them."""

    counts: dict[str, int]
    bad: int
    lines: tuple[str, ...]


def open_source(root: Path, data: Data, aside: Path) -> Source:
    """List the images of the source that params.yaml names; an archive is unpacked into the folder `aside`.

    Raises:
        DataError: the data cannot be used as they lie there.
    """
    source: Source = plugins.load("ingest/sources", data.module, "data.source").read(root / data.root, data, aside)
    return source


def look_through(root: Path, data: Data) -> Seen:
    """Open every image of the source, with a progress bar.

    Raises:
        DataError: the data cannot be used as they lie there.
    """
    counts: dict[str, int] = {}
    bad, lines = 0, list[str]()
    with tempfile.TemporaryDirectory(prefix="netpress-") as folder:
        source = open_source(root, data, Path(folder) / "unpacked")
        with closing(ImageProgress("opening", source.total)) as progress:
            for name, pieces in {**source.splits, UNLABELLED: source.unlabelled}.items():
                for piece in pieces:
                    counts[name] = counts.get(name, 0) + len(piece.labels)
                    bad += len(piece.bad)
                    lines += piece.bad[: NAMED - len(lines)]
                    progress.add(len(piece.labels) + len(piece.bad))
    return Seen(counts, bad, tuple(lines))
