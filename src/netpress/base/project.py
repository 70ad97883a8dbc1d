"""Where the project lies and how its parts are named."""

from pathlib import Path

from netpress.base.errors import NetpressError

#: Sections of params.yaml whose variants are models, in the order of the graph.
MODEL_STAGES = ("train", "distill", "lowrank", "factorize", "prune", "prune_sweep", "quantize")

#: The arrays that every model stage reads.
PREPARED = Path("data/prepared")

#: What the stage `check` leaves; its content never changes.
CHECKED = Path("data/checked")

#: Where users put weights trained elsewhere.
WEIGHTS = Path("data/weights")


def find_root(start: Path | None = None) -> Path:
    """Return the nearest folder at or above `start` (default: the current one) that holds dvc.yaml."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise NetpressError(f"no dvc.yaml in {start} or above it: run this inside a netpress project")


def metrics_file(root: Path, result: str) -> Path:
    """Metrics of a result: of a model on validation, `<section>/<variant>`, or on test, `test/<model id>`."""
    return root / "metrics" / f"{result}.json"
