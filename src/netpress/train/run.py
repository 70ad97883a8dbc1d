"""Networks trained on the labels alone: the items of `train` and `lowrank`."""

from typing import Any

from netpress.core.context import Context
from netpress.core.resume import Workspace
from netpress.core.seeds import fresh_network, run_seeds, save_design


def train_design(context: Context) -> None:
    """Train every seed of an architecture on the labels alone, save the models and write the metrics."""

    def make(seed: int, work: Workspace) -> dict[str, Any]:
        network = fresh_network(context.item, context.manifest, seed)
        if context.start:
            context.start.load_into(network)
        history = context.fit(work, "fit", network, seed) if context.item.epochs else []
        network.to(context.device)
        return save_design(context, work, seed, network, history)

    run_seeds(context, make)
