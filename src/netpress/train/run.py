"""Networks trained afresh: the items of `train`, `lowrank` and `distill`."""

from typing import Any

from netpress.core.context import Bench
from netpress.core.resume import Workspace
from netpress.core.seeds import fit_and_save, fresh_network, run_seeds


def train_design(bench: Bench) -> None:
    """Train every seed of an architecture on the labels alone, save the models and write the metrics."""
    train, val = bench.split("train"), bench.split("val")

    def make(seed: int, work: Workspace) -> dict[str, Any]:
        network = fresh_network(bench.item, bench.manifest, seed)
        if bench.start:
            bench.start.load_into(network)
        return fit_and_save(bench, work, seed, network, (train, val))

    run_seeds(bench, make)
