"""One pruning curve: rounds of removal and fine-tuning, every round's model kept.

The shapes of chosen rounds are also trained afresh, to see what the parent's weights were worth: Liu et al.,
Rethinking the value of network pruning, https://arxiv.org/abs/1810.05270. Of such a control the accuracy is kept.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netpress.base import files
from netpress.base.errors import ParamsError
from netpress.core import artifacts
from netpress.core.artifacts import Loaded, Spec
from netpress.core.batches import DeviceSplit, enough_epochs
from netpress.core.context import Bench
from netpress.core.edits import layer_sizes, widths_edit
from netpress.core.engine import Schedule, fit
from netpress.core.measure import count_params, evaluate, evidence
from netpress.core.networks import build_edited
from netpress.core.resume import Workspace
from netpress.core.seeds import CONTROL, Made, run_seeds, save
from netpress.params.items import Prune
from netpress.params.schema import AUTO
from netpress.prune.channels import importance_of, plan_rounds, remove_channels, share_epochs

#: Training and validation.
Splits = tuple[DeviceSplit, DeviceSplit]
ROW = ("params", "macs", "weight_bytes", "onnx_bytes", "checkpoint_bytes", "val_acc", "val_acc_best", "val_loss")


@dataclass(frozen=True)
class Curve:
    """One seed's curve at work. `sizes` are those of the parent's layers, `epochs` those of each round."""

    bench: Bench
    work: Workspace
    seed: int
    splits: Splits
    parent: Loaded
    sizes: dict[str, list[int]]
    channels: int
    epochs: list[int]


def prune_curve(bench: Bench) -> None:
    """Prune every seed of the parent until the share `until` of its parameters is left.

    The model of round j is saved under `round_<j>/seed_<k>/`; the last one also under `seed_<k>/`.
    """
    splits = bench.split("train"), bench.split("val")
    run_seeds(bench, lambda seed, work: _prune_seed(bench, splits, seed, work))


def _prune_seed(bench: Bench, splits: Splits, seed: int, work: Workspace) -> dict[str, Any]:
    """Make the rounds one after the other, each from the model of the one before as it was saved.

    So a run that goes on after a finished round does what an uninterrupted one does.
    """
    item, parent = bench.item, bench.parent(seed)
    network = parent.network
    importance = importance_of(item.method, item.method_options)
    plan = plan_rounds(network, _example(parent.spec), item.rate, item.until, item.round_to, importance)
    epochs = share_epochs(item.epochs, len(plan))
    controls = control_rounds(item, len(plan))
    curve = Curve(bench, work, seed, splits, parent, layer_sizes(network), _channels(network), epochs)
    start = evaluate(network.to(bench.device), splits[1], parent.spec.model_id)
    rounds = [_parent_row(bench, parent, start.accuracy, start.loss)]
    source: Path | None = None
    made = dict[str, Any]()
    for number in range(1, len(epochs) + 1):
        place = work.models / f"round_{number}" / f"seed_{seed}"
        made = work.once(f"round_{number}", place, partial(_prune_round, curve, number, source, place))
        rounds.append(made["row"])
        if number in controls:
            rounds[-1] |= work.once(f"round_{number}_control", place, partial(_train_control, curve, number, place))
        source = place
    files.copy_folder(work.models / f"round_{len(epochs)}" / f"seed_{seed}", work.models / f"seed_{seed}")
    return made["metrics"] | {"epochs": item.epochs, "rate": item.rate, "rounds": rounds}


def _prune_round(curve: Curve, number: int, source: Path | None, place: Path) -> dict[str, Any]:
    """Remove channels of the model in `source` (None: the parent), fine-tune, save to `place`; metrics and row."""
    bench, item, spec = curve.bench, curve.bench.item, curve.parent.spec
    network = (artifacts.load(source) if source else bench.parent(curve.seed)).network
    importance = importance_of(item.method, item.method_options)
    remove_channels(network, _example(spec), item.rate, item.round_to, importance)
    cut = evaluate(network.to(bench.device), curve.splits[1], f"{curve.work.label} round {number} before tuning")
    before = sum(curve.epochs[: number - 1])
    schedule = Schedule(bench.recipe, curve.epochs[number - 1], curve.seed, first_epoch=before)
    title = f"round {number}/{len(curve.epochs)} ({count_params(network):,} parameters)"
    label, checkpoint = f"{curve.work.label} {title}", curve.work.checkpoint(f"round_{number}_fit")
    history = fit(network, *curve.splits, schedule, bench.config.runtime, label, checkpoint=checkpoint)
    edits = [*spec.edits, widths_edit(curve.sizes, network)]
    found = evidence(network, *curve.splits) if number == len(curve.epochs) else {}  # of the curve's result alone
    epochs = spec.epochs + before + len(history)
    made = Made(network, history, spec.arch, spec.options, edits, item.method, curve.parent, epochs, found)
    metrics = save(bench, place, curve.seed, made, f"{bench.model_id}/round_{number}")
    row = {key: metrics[key] for key in (*ROW, "weights_sha256")} | {
        "round": number,
        "rate": item.rate,
        "channels_share": _channels(network) / curve.channels,
        "epochs_total": before + curve.epochs[number - 1],
        "val_acc_before_tuning": cut.accuracy,
    }
    return {"metrics": metrics, "row": row}


def control_rounds(item: Prune, rounds: int) -> set[int]:
    """Return the rounds that get a control, of the `rounds` that the curve has.

    Raises:
        ParamsError: the item names a round that the curve does not reach.
    """
    if not item.control:
        return set()
    beyond = [number for number in item.control_rounds if number > rounds]
    if beyond:
        text = (
            f"control_rounds = {item.control_rounds}: no round {beyond[0]}, since rate {item.rate} reaches until "
            f"{item.until} in {rounds}; name rounds 1 to {rounds}, or write [] for the last"
        )
        raise ParamsError([("control_rounds", text)])
    return set(item.control_rounds) or {rounds}


def _train_control(curve: Curve, number: int, place: Path) -> dict[str, Any]:
    """Train the shape of the round in `place` from weights drawn afresh from the seed; returns its accuracy."""
    bench, spec = curve.bench, artifacts.read_spec(place)
    torch.manual_seed(curve.seed)
    network = build_edited(spec.arch, len(spec.classes), spec.in_channels, spec.options, spec.edits)
    epochs = bench.item.control_epochs
    if epochs == AUTO:
        epochs = enough_epochs(bench.control_recipe, spec.epochs, len(curve.splits[0]))
    schedule = Schedule(bench.control_recipe, epochs, curve.seed)
    label = f"{curve.work.label} control of round {number} ({spec.params:,} parameters)"
    checkpoint = curve.work.checkpoint(f"round_{number}_control_fit")
    runtime = bench.config.runtime
    history = fit(network.to(bench.device), *curve.splits, schedule, runtime, label, checkpoint=checkpoint)
    return {CONTROL: history[-1]["val_acc"]}


def _example(spec: Spec) -> Tensor:
    """Return images to trace the network with: (2, C, H, W)."""
    return torch.zeros(2, spec.in_channels, spec.height, spec.width)


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
