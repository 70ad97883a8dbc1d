"""One pruning curve: rounds of removal and fine-tuning, every round's model kept."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netpress.artifacts import Loaded
from netpress.channels import importance_of, plan_rounds, remove_channels, share_epochs
from netpress.engine import Schedule, fit
from netpress.measure import count_params, evaluate
from netpress.models import layer_sizes, widths_edit
from netpress.runs import Bench, Made, run_seeds, save

ROW = ("params", "macs", "weight_bytes", "onnx_bytes", "checkpoint_bytes", "val_acc", "val_acc_best", "val_loss")


def prune_curve(bench: Bench) -> None:
    """Prune every seed of the parent until the share `until` of its parameters is left.

    The model of round j is saved under `round_<j>/seed_<k>/`; the last one also under `seed_<k>/`.
    """
    splits = bench.split("train"), bench.split("val")
    run_seeds(bench, lambda seed, folder: _prune_seed(bench, splits, seed, folder))


def _prune_seed(bench: Bench, splits: tuple[Any, Any], seed: int, folder: Path) -> dict[str, Any]:
    item, runtime = bench.item, bench.config.runtime
    train, val = splits
    parent = bench.parent(seed)
    network, spec = parent.network, parent.spec
    importance = importance_of(item.method, item.method_options)
    example = torch.zeros(2, spec.in_channels, spec.height, spec.width)
    plan = plan_rounds(network, example, item.rate, item.until, item.round_to, importance)
    epochs = share_epochs(item.epochs, len(plan))
    sizes, channels = layer_sizes(network), _channels(network)
    start = evaluate(network.to(bench.device), val)
    rounds = [_parent_row(bench, parent, start.accuracy, start.loss)]
    metrics: dict[str, Any] = {}
    for number, round_epochs in enumerate(epochs, start=1):
        network.to("cpu")
        remove_channels(network, example, item.rate, item.round_to, importance)
        cut = evaluate(network.to(bench.device), val)
        schedule = Schedule(bench.recipe, round_epochs, seed, first_epoch=sum(epochs[: number - 1]))
        label = f"{bench.model_id} seed {seed} round {number}/{len(epochs)} ({count_params(network):,} parameters)"
        history = fit(network, train, val, schedule, runtime, label)
        edits = [*spec.edits, widths_edit(sizes, network)]
        made = Made(network, history, spec.arch, spec.options, edits, item.method, parent)
        round_id = f"{bench.model_id}/round_{number}"
        metrics = save(bench, folder / f"round_{number}" / f"seed_{seed}", seed, made, round_id)
        rounds.append(
            {key: metrics[key] for key in (*ROW, "weights_sha256")}
            | {
                "round": number,
                "rate": item.rate,
                "channels_share": _channels(network) / channels,
                "epochs_total": sum(epochs[:number]),
                "val_acc_before_tuning": cut.accuracy,
            }
        )
    shutil.copytree(folder / f"round_{len(epochs)}" / f"seed_{seed}", folder / f"seed_{seed}")
    return metrics | {"epochs": item.epochs, "rate": item.rate, "rounds": rounds}


def _parent_row(bench: Bench, parent: Loaded, accuracy: float, loss: float) -> dict[str, Any]:
    """Round 0: the parent as it is."""
    spec = parent.spec
    return {
        "round": 0,
        "rate": bench.item.rate,
        "params": spec.params,
        "macs": spec.macs,
        "weight_bytes": spec.weight_bytes,
        "onnx_bytes": spec.onnx_bytes,
        "channels_share": 1.0,
        "epochs_total": 0,
        "val_acc": accuracy,
        "val_loss": loss,
        "weights_sha256": spec.weights_sha256,
    }


def _channels(network: nn.Module) -> int:
    """Count the output channels of all convolutions."""
    return sum(module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d))
