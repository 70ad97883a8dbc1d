"""Networks trained afresh: the items of `train`, `lowrank` and `distill`."""

from typing import Any

import torch
from torch import nn

from netpress.artifacts import Loaded
from netpress.bench import Bench
from netpress.config import Design
from netpress.data.prepared import Manifest
from netpress.engine import Objective, Schedule, cross_entropy, fit
from netpress.measure import evidence
from netpress.models import build_model
from netpress.runs import Made, run_seeds, save
from netpress.store import Workspace


def fresh_network(item: Design, manifest: Manifest, seed: int) -> nn.Module:
    """Build the item's architecture with weights drawn from `seed`."""
    torch.manual_seed(seed)
    return build_model(item.arch, len(manifest.classes), manifest.channels, **item.options)


def train_design(bench: Bench) -> None:
    """Train every seed of an architecture on the labels alone, save the models and write the metrics."""
    train, val = bench.split("train"), bench.split("val")

    def make(seed: int, work: Workspace) -> dict[str, Any]:
        network = fresh_network(bench.item, bench.manifest, seed)
        if bench.start:
            bench.start.load_into(network)
        return fit_and_save(bench, work, seed, network, (train, val))

    run_seeds(bench, make)


def fit_and_save(
    bench: Bench,
    work: Workspace,
    seed: int,
    network: nn.Module,
    splits: tuple[Any, Any],
    teacher: Loaded | None = None,
    objective: Objective = cross_entropy,
) -> dict[str, Any]:
    """Train `network` under the item's recipe and save it; returns the seed's metrics."""
    item = bench.item
    schedule = Schedule(bench.recipe, item.epochs, seed)
    label = f"{bench.model_id} seed {seed}"
    network = network.to(bench.device)
    history = fit(network, *splits, schedule, bench.config.runtime, label, objective, work.checkpoint("fit"))
    method = getattr(item, "method", None)
    found = evidence(network, *splits, teacher.network if teacher else None)
    made = Made(network, history, item.arch, item.options, [], method, teacher, len(history), found)
    return save(bench, work.models / f"seed_{seed}", seed, made)
