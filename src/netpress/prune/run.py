"""One pruning curve: rounds of removal and fine-tuning, every round's model kept, after sparse training if asked.

The shapes of chosen rounds are also trained from scratch, to see what the parent's weights were worth: Liu et al.,
Rethinking the value of network pruning, https://arxiv.org/abs/1810.05270. Of such a control the accuracy is kept.
"""

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netpress.base import files
from netpress.base.errors import ParamsError
from netpress.base.model_files import WEIGHTS
from netpress.base.model_id import ROUND
from netpress.core import artifacts
from netpress.core.artifacts import Loaded, Spec
from netpress.core.batches import enough_epochs
from netpress.core.bn_recalibration import recalibrate
from netpress.core.context import Context, Method
from netpress.core.edits import Sizes, resize_edit, sizes_of
from netpress.core.measure import Quality, count_params, evaluate, evidence, size_of
from netpress.core.metrics import CONTROL_VAL_ACC, RIGHT, VAL_ACC
from netpress.core.networks import build_edited, require_rebuilt
from netpress.core.resume import Workspace
from netpress.core.seeds import Made, run_seeds, save
from netpress.distill.teaching.taught import tuning
from netpress.params.items import Prune
from netpress.params.plugins import misfit
from netpress.params.schema import AUTO, LAST
from netpress.prune.common.channels import remove_channels
from netpress.prune.common.plan import next_rate_of, plan_rounds, share_epochs
from netpress.prune.common.ranking import Goal
from netpress.prune.common.reconstruction import reconstruct
from netpress.prune.common.sparsity import Sparse, groups_of

ROW = (
    *("params", "macs", "weight_bytes", "onnx_bytes", "checkpoint_bytes"),
    *(VAL_ACC, f"{VAL_ACC}{RIGHT}", "val_acc_best", "val_loss"),
)


@dataclass(frozen=True)
class Curve:
    """One seed's curve at work.

    Attributes:
        parent: the model before pruning, with the `sizes` of its layers and its `channels` in all.
        plan: of each round, the share of the channels that leaves and the size that is left.
        epochs: of fine-tuning in each round.
    """

    context: Context
    work: Workspace
    seed: int
    parent: Loaded
    sizes: Sizes
    channels: int
    plan: list[tuple[float, int]]
    epochs: list[int]


def prune_curve(context: Context) -> None:
    """Prune every seed of the parent until the schedule ends.

    The model of round j is saved under `round_<j>/seed_<k>/`; the last one also under `seed_<k>/`.
    """
    run_seeds(context, lambda seed, work: _prune_seed(context, seed, work))


def _prune_seed(context: Context, seed: int, work: Workspace) -> dict[str, Any]:
    """Make the rounds one after the other, each from the model of the one before as it was saved.

    So a run that goes on after a finished round does what an uninterrupted one does.
    """
    item, parent = context.item, context.parent(seed)
    network = parent.network
    plan = plan_rounds(network, _example(parent.spec), next_rate_of(item), item.round_to, item.until_of)
    epochs = share_epochs(item.epochs, len(plan), item.sparse_epochs)
    controls = control_rounds(item, len(plan))
    curve = Curve(context, work, seed, parent, sizes_of(network), _channels(network), plan, epochs)
    start = evaluate(network.to(context.device), context.val, parent.spec.model_id)
    rounds = [_parent_row(item, parent, start)]
    source: Path | None = None
    made = dict[str, Any]()
    for number in range(1, len(epochs) + 1):
        place = work.models / f"{ROUND}{number}" / f"seed_{seed}"
        made = work.once(f"round_{number}", place, partial(_prune_round, curve, number, source, place))
        rounds.append(made["row"])
        if number in controls:
            rounds[-1] |= work.once(f"round_{number}_control", place, partial(_train_control, curve, number, place))
        source = place
    shutil.rmtree(_sparse_place(work), ignore_errors=True)
    files.copy_folder(work.models / f"{ROUND}{len(epochs)}" / f"seed_{seed}", work.models / f"seed_{seed}")
    return made["metrics"] | {"epochs": item.epochs, "rate": item.rate, "rounds": rounds}


def _prune_round(curve: Curve, number: int, source: Path | None, place: Path) -> dict[str, Any]:
    """Remove channels of the model in `source` (None: `_first`), fine-tune, save to `place`; metrics and row."""
    context, item, spec = curve.context, curve.context.item, curve.parent.spec
    network = artifacts.load(source).network.to(context.device) if source else _first(curve)
    last, before = number == len(curve.epochs), item.sparse_epochs + sum(curve.epochs[: number - 1])
    label = f"{curve.work.label} round {number}"
    method = context.method()
    score = score_of(method)
    if hasattr(score, "observe"):
        score.observe(network, context.batches(curve.seed, before))
    rate, left = curve.plan[number - 1]
    example, full = _example(spec).to(context.device), copy.deepcopy(network)
    share: float | Goal = rate
    if item.scope != "local":
        comparable = getattr(method.module, "COMPARABLE", False)
        share = Goal(item.scope, comparable, partial(size_of, of=item.until_of, image=example.shape[1:]), left)
    removed = remove_channels(network, example, share, item.round_to, score, method.name)
    if item.reconstruct:
        reconstruct(network, full, removed, partial(context.batches, curve.seed, before), item.reconstruct)
    edits = [*spec.edits, resize_edit(curve.sizes, network)]
    require_rebuilt(network, spec.arch, len(spec.classes), spec.options, edits, spec.image)
    found = evaluate(network, context.val, f"{label} before tuning").named("val_acc_before_tuning")
    if item.bn_batches:
        recalibrate(network, context.batches(curve.seed, before), item.bn_batches)
        found |= evaluate(network, context.val, f"{label} recalibrated").named("val_acc_recalibrated")
    title = f"round {number}/{len(curve.epochs)} ({count_params(network):,} parameters)"
    epochs = curve.epochs[number - 1]
    with tuning(context, curve.seed, network) as objective:
        history = context.fit(
            curve.work, f"round_{number}_fit", network, curve.seed, objective, before, epochs, label=title
        )
    why = evidence(network, context.train, context.val) if last else {}  # of the curve's result alone
    parents = {"from": spec}
    total = spec.epochs + before + len(history)
    made = Made(network, history, spec.arch, spec.options, edits, item.method, parents, total, why)
    metrics = save(context, place, curve.seed, made, context.model_id.of_round(number))
    row = {key: metrics[key] for key in (*ROW, "weights_sha256")} | {
        "round": number,
        "rate": rate,
        "channels_share": _channels(network) / curve.channels,
        "epochs_total": before + epochs,
    }
    return {"metrics": metrics, "row": row | found}


def _first(curve: Curve) -> nn.Module:
    """Return the network of which the first round removes channels: the parent, trained sparse if the item says so."""
    context, work = curve.context, curve.work
    network, place = context.parent(curve.seed).network.to(context.device), _sparse_place(work)
    if context.item.sparse_epochs:
        work.once("sparse", place, partial(_train_sparse, curve, network, place / WEIGHTS))
        tensors = artifacts.tensors_from_bytes((place / WEIGHTS).read_bytes(), place / WEIGHTS)
        network.load_state_dict(tensors)
    return network


def _train_sparse(curve: Curve, network: nn.Module, path: Path) -> dict[str, Any]:
    """Train `network` in place with the penalty of `prune.common.sparsity`, and write its tensors to `path`."""
    context, item = curve.context, curve.context.item
    example = _example(curve.parent.spec).to(context.device)
    with tuning(context, curve.seed, network) as objective:
        if item.sparsity:
            groups = groups_of(network, example, curve.plan[0][0], item.round_to)
            objective = Sparse(objective, groups, item.sparsity)
        label = f"sparse training before {len(curve.epochs)} rounds"
        context.fit(curve.work, "sparse_fit", network, curve.seed, objective, epochs=item.sparse_epochs, label=label)
    files.write_bytes(path, artifacts.tensors_as_bytes(network.state_dict()))
    return {}


def _sparse_place(work: Workspace) -> Path:
    """Return where the network lies after sparse training, until the seed is finished."""
    return work.folder / "sparse"


def score_of(method: Method) -> Any:
    """Return the method's score of channels.

    Raises:
        ParamsError: it is no function, or it or its `observe` cannot be called as `prune.common.channels` says.
    """
    score = method.call("scores", method.options, gives=(Callable,))
    calls = {"score(group)": score}
    if hasattr(score, "observe"):
        calls["observe(network, batches)"] = score.observe
    for call, function in calls.items():
        if fault := misfit(function, call):
            raise method.unfit(fault)
    return score


def control_rounds(item: Prune, rounds: int) -> set[int]:
    """Return the rounds that get a control, of the `rounds` that the curve has.

    Raises:
        ParamsError: the item names a round that the curve does not reach.
    """
    beyond = [number for number in item.control_rounds if number > rounds]
    if beyond:
        text = (
            f"control_rounds: no round {beyond[0]}, since rate {item.rate} reaches until {item.until} in {rounds}; "
            f"name rounds 1 to {rounds}, or write last"
        )
        raise ParamsError([("control_rounds", text)])
    return {rounds if number == LAST else number for number in item.control_rounds}


def _train_control(curve: Curve, number: int, place: Path) -> dict[str, Any]:
    """Train the shape of the round in `place` from weights drawn from the seed; returns its accuracy."""
    context, spec = curve.context, artifacts.read_spec(place)
    recipe, epochs = context.control_recipe, context.item.control_epochs
    torch.manual_seed(curve.seed)
    network = build_edited(spec.arch, len(spec.classes), spec.in_channels, spec.options, spec.edits)
    if epochs == AUTO:
        epochs = enough_epochs(recipe, spec.epochs, len(context.train))
    label = f"control of round {number} ({spec.params:,} parameters)"
    name = f"round_{number}_control_fit"
    history = context.fit(curve.work, name, network, curve.seed, epochs=epochs, recipe=recipe, label=label)
    return {f"{CONTROL_VAL_ACC}{suffix}": history[-1][f"{VAL_ACC}{suffix}"] for suffix in ("", RIGHT)}


def _example(spec: Spec) -> Tensor:
    """Return images to trace the network with: (2, C, H, W)."""
    return torch.zeros(2, spec.in_channels, spec.height, spec.width)


def _parent_row(item: Prune, parent: Loaded, quality: Quality) -> dict[str, Any]:
    """Round 0: the parent as it is."""
    spec = parent.spec
    return {
        "round": 0,
        "rate": item.rate,
        "params": spec.params,
        "macs": spec.macs,
        "weight_bytes": spec.weight_bytes,
        "onnx_bytes": spec.onnx_bytes,
        "channels_share": 1.0,
        "epochs_total": 0,
        **quality.named(VAL_ACC),
        "val_loss": quality.loss,
        "weights_sha256": spec.weights_sha256,
    }


def _channels(network: nn.Module) -> int:
    """Count the output channels of all convolutions."""
    return sum(module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d))
