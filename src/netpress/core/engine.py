"""The one training loop: base training, distillation and fine-tuning."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from netpress.base.errors import ConfigError, TrainingError
from netpress.core.batches import Batch, batches_per_epoch, training_batches
from netpress.core.checkpoint import Checkpoint, History
from netpress.core.kernels import small_maps
from netpress.core.measure import autocast, evaluate
from netpress.core.networks import classifier_name
from netpress.core.optimizer import learning_rate, make_optimizer
from netpress.core.progressive_resizing import check_sides, resized, side_in
from netpress.core.ranks import Ranks, here
from netpress.core.splits import DeviceSplit
from netpress.core.synchronized import synchronized
from netpress.params.recipes import Recipe, Runtime
from netpress.process.progress import EpochProgress

Tensors = tuple[Tensor, ...] | list[Tensor]
#: Names the stream of random numbers that layers draw from, beside those of `core.batches`.
LAYERS = 4
#: Losses are looked at in groups, so that a GPU need not wait after every step.
CHECK_EVERY = 20


class Objective(Protocol):
    """What training lowers.

    Attributes:
        modules: optimized, clipped, checked and checkpointed with the network, such as a projector; never exported.
    """

    modules: nn.ModuleDict

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Hear that `epoch` (from 0) of `epochs` begins."""

    def __call__(self, batch: Batch, logits: Tensor) -> Tensor:
        """Return the loss, a scalar, of a batch and the network's logits (B, classes), in nats."""


class CrossEntropy:
    """Cross-entropy with soft targets, in nats; the objective where there is no teacher."""

    def __init__(self) -> None:
        self.modules = nn.ModuleDict()

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Every epoch is like the others."""

    def __call__(self, batch: Batch, logits: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, batch.targets)


@dataclass(frozen=True)
class Schedule:
    """How long to train, and with which random numbers.

    `first_epoch` is added to the epoch where it names random numbers, so that fine-tuning in rounds sees
    new views in every round.
    """

    recipe: Recipe
    epochs: int
    seed: int
    first_epoch: int = 0


def fit(
    network: nn.Module,
    train: DeviceSplit,
    val: DeviceSplit,
    schedule: Schedule,
    runtime: Runtime,
    label: str,
    objective: Objective | None = None,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train `network` in place and leave it in eval mode.

    Args:
        network: on the splits' device.
        train, val: the splits; `val` is measured after every epoch.
        schedule: recipe, epochs and seed.
        runtime: precision, memory format, compilation.
        label: shown with the progress.
        objective: the loss to lower; cross-entropy if there is none.
        checkpoint: where to go on from, and to keep what is done; `network` must be built as it was then.

    Returns:
        One row per epoch: epoch (from 1), lr, train_loss, train_acc, val_loss, val_acc; the last one with
        `Quality.detail`. Where the recipe averages the weights, validation is of their average, which `network` holds
        in the end. Processes that share the training come to the same network and history.

    Raises:
        TrainingError: the loss or a weight is not finite; says in which epoch and step.
        ConfigError: a batch, or a device's share of it, would hold a single image, or the network does not take images
            as small as the recipe's.
    """
    recipe, ranks = schedule.recipe, here()
    network.to(memory_format=torch.channels_last if runtime.channels_last else torch.contiguous_format)
    forward = torch.compile(network) if runtime.compile else network
    objective = objective or CrossEntropy()
    modules = objective.modules.to(train.images.device).train()
    parameters = [*network.parameters(), *modules.parameters()]
    apart = recipe.body_lr < 1 or recipe.optimizer == "muon"
    head = classifier_name(network, train.num_classes) if apart else ""
    optimizer = make_optimizer(network, recipe, modules, head)
    steps = batches_per_epoch(len(train), recipe.batch_size)
    if len(train) // steps < 2 * ranks.count:
        each = (
            "is a single image" if ranks.count == 1 else f"has fewer than two images for each of {ranks.count} devices"
        )
        raise ConfigError(
            f"{label}: a batch_size of {recipe.batch_size} cuts {len(train)} training images into batches of which one "
            f"{each}, from which no normalization can be computed; choose {4 * ranks.count - 1} or more"
        )
    check_sides(network, recipe, schedule.epochs, train, label)
    average = averaging(network, recipe.average) if recipe.average else None
    state = nn.ModuleDict({"trained": network, "objective": modules})
    if average:
        state["average"] = average
    history = checkpoint.load(state, optimizer) if checkpoint else []
    ranks.begin_alike(state, (label, len(history)))
    quick = nullcontext() if runtime.compile else small_maps(network)
    whole = synchronized(ranks) if runtime.batch_norm == "synchronized" else nullcontext()
    with quick, whole, EpochProgress(label, schedule.epochs, steps, len(train), len(history)) as progress:
        for epoch in range(len(history), schedule.epochs):
            network.train()
            objective.start_epoch(epoch, schedule.epochs)
            torch.manual_seed(layer_seed(schedule, epoch, ranks.number))
            losses: list[Tensor] = []
            hits = torch.zeros((), dtype=torch.int64, device=train.labels.device)
            batches = training_batches(
                train,
                recipe.augment,
                recipe.label_smoothing,
                recipe.batch_size,
                schedule.seed,
                schedule.first_epoch + epoch,
                ranks,
            )
            side = side_in(recipe, epoch, schedule.epochs, train.images.shape[1])
            for step, batch in enumerate(resized(batch, side) for batch in batches):
                lr = learning_rate(recipe, epoch * steps + step, schedule.epochs * steps)
                with autocast(runtime, network, batch.images.device):
                    logits = forward(batch.images)
                loss = objective(batch, logits.float())
                if ranks.count > 1:
                    loss = loss * batch.share  # so that the sum over the processes is the mean over the whole batch
                _update(parameters, optimizer, loss, lr, recipe.clip_norm, ranks)
                if average:
                    average.update_parameters(network)
                losses.append(loss.detach())
                hits += (logits.argmax(1) == batch.targets.argmax(1)).sum()
                if (step + 1) % CHECK_EVERY == 0 or step + 1 == steps:
                    first = step // CHECK_EVERY * CHECK_EVERY
                    losses[first:] = ranks.total(torch.stack(losses[first:])).unbind()
                    _require_finite(losses, epoch, label)
                progress.step()
            ranks.average_statistics(state)
            for trained in (network, modules):
                _require_finite_weights(trained, epoch, label)
            quality = evaluate(average.module if average else network, val, f"{label} after epoch {epoch + 1}")
            row = {
                "epoch": epoch + 1,
                "lr": lr,
                "train_loss": float(torch.stack(losses).double().mean()),
                "train_acc": int(ranks.total(hits)) / len(train),
                "val_loss": quality.loss,
                "val_acc": quality.accuracy,
            }
            history.append(row | (quality.detail(val) if epoch + 1 == schedule.epochs else {}))
            if checkpoint and not ranks.number:
                checkpoint.save_if_due(state, optimizer, history)
            progress.epoch_done(history[-1])
    if average:
        network.load_state_dict(average.module.state_dict())
    if ranks.count > 1:  # what is drawn after it is to be the same in all of them
        torch.manual_seed(layer_seed(schedule, schedule.epochs))
    network.eval()
    return history


def averaging(network: nn.Module, decay: float) -> AveragedModel:
    """Return a running average of weights and statistics: decay * average + (1 - decay) * network at every step.

    At step n the decay is at most (1 + n) / (10 + n), so that a short training does not end with an average of its
    start. Tarvainen and Valpola, https://arxiv.org/abs/1703.01780.
    """

    def update(average: Tensors, current: Tensors, steps: Tensor | int) -> None:
        get_ema_multi_avg_fn(min(decay, (1 + int(steps)) / (10 + int(steps))))(average, current, steps)

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


def layer_seed(schedule: Schedule, epoch: int, number: int = 0) -> int:
    """Return the seed of what layers of process `number` draw in one epoch, such as dropout, below 2**63."""
    names = [schedule.seed, schedule.first_epoch + epoch, LAYERS, *[number] * bool(number)]
    state = np.random.SeedSequence(names).generate_state(1, np.uint64)
    return int(state[0] >> 1)


def _update(
    parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    lr: float,
    clip_norm: float,
    ranks: Ranks,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    ranks.sum_gradients(parameters)
    if clip_norm:
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()


def _require_finite(losses: list[Tensor], epoch: int, label: str) -> None:
    recent = torch.stack(losses[-CHECK_EVERY:])
    for offset in _positions(~torch.isfinite(recent)):
        step = len(losses) - len(recent) + offset
        raise TrainingError(
            f"{label}: the loss became {float(recent[offset])} in epoch {epoch + 1}, step {step + 1}; nothing was "
            "written. Usual causes: the learning rate is too high (lower recipes.<name>.lr), gradients are not "
            "clipped (set clip_norm: 5.0), bf16 is too coarse (set runtime.precision: fp32), or the loss of the "
            "item's method, if it has one, is not finite itself"
        )


def _positions(mask: Tensor) -> Iterator[int]:
    yield from mask.nonzero().flatten().tolist()


def _require_finite_weights(network: nn.Module, epoch: int, label: str) -> None:
    wrong = [name for name, tensor in network.state_dict().items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise TrainingError(
            f"{label}: {wrong[0]} became NaN or infinite in epoch {epoch + 1}"
            f"{f', and {len(wrong) - 1} other tensors' if len(wrong) > 1 else ''}; nothing was written. "
            "Usual cause: the learning rate is too high (lower recipes.<name>.lr)"
        )
