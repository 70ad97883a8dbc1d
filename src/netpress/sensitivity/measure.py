"""What a trained network loses on images where one layer alone is made smaller.

Rounding is compared with the network as it is. Pruning and low rank are training's beginning, and most of what they do
before it is that normalizations no longer fit; so these are measured again on the images, and the result is compared
with the network whose normalizations were measured again likewise: what is left is the layer's own.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from netpress.base.errors import TrainingError
from netpress.core.batches import Batch, batches_per_epoch
from netpress.core.bn_recalibration import recalibrate
from netpress.core.measure import count_params
from netpress.core.splits import DeviceSplit
from netpress.quantize.common.answers import divergence
from netpress.sensitivity.changes import Change, Observed, four_bits, half_pruned, half_rank, int8

#: Images that pass through a network at once, at most.
BATCH = 128


@dataclass(frozen=True)
class Way:
    """A way to make a layer smaller.

    Attributes:
        key, title: its name in tables and in pictures.
        change: makes a layer smaller.
        refitted: whether normalizations are measured again, since training would follow.
    """

    key: str
    title: str
    change: Change
    refitted: bool


WAYS = (
    Way("int8", "int8", int8, refitted=False),
    Way("4bit", "4-bit weights", four_bits, refitted=False),
    Way("pruned", "half pruned", half_pruned, refitted=True),
    Way("rank", "half rank", half_rank, refitted=True),
)


@dataclass(frozen=True)
class Effect:
    """What one change does: `kl` = KL(original || changed) in nats, mean over images; `drop` of accuracy, in points."""

    kl: float
    drop: float


@dataclass(frozen=True)
class Row:
    """One layer: its name and type, its parameters, their share of all, and key of a way -> effect, if it applies."""

    layer: str
    kind: str
    params: int
    share: float
    effects: dict[str, Effect | None]


def measure(
    network: nn.Module,
    images: DeviceSplit,
    ways: Sequence[Way] = WAYS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Change every convolution and linear layer of `network` that runs, alone and in every way.

    Args:
        network: comes to eval mode, and otherwise stays as it is.
        images: at least 2.
        ways: to change a layer.
        progress: called after each change with how many are done, and how many there are.

    Returns:
        A row for each layer, in the order of `named_modules`.

    Raises:
        TrainingError: logits are not finite.
    """
    seen = look(network.eval(), images)
    originals = {False: logits_of(network, images, "the network")}
    again = refitted(copy.deepcopy(network), images)
    originals[True] = logits_of(again, images, "the network with normalizations measured again")
    params, rows = count_params(network), []
    for done, name in enumerate(seen.ranges):
        effects: dict[str, Effect | None] = {}
        for number, way in enumerate(ways, 1):
            changed = way.change(network, name, seen)
            effects[way.key] = None
            if changed is not None:
                changed = refitted(changed, images) if way.refitted else changed
                logits = logits_of(changed, images, f"layer '{name}', {way.title}")
                effects[way.key] = effect(originals[way.refitted], logits, images.labels)
            progress(done * len(ways) + number, len(seen.ranges) * len(ways))
        layer = network.get_submodule(name)
        own = count_params(layer)
        rows.append(Row(name, type(layer).__name__, own, own / params, effects))
    return rows


def look(network: nn.Module, images: DeviceSplit) -> Observed:
    """Return what is seen of `network` on images: of convolutions and linear layers themselves, no subclasses."""
    found: dict[str, tuple[float, float]] = {}

    def note(name: str, _layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        if not given:  # called by keyword; then it gets no value
            return
        low, high = (float(extreme) for extreme in given[0].aminmax())
        before = found.get(name, (low, high))
        found[name] = min(low, before[0]), max(high, before[1])

    layers = {name: module for name, module in network.named_modules() if type(module) in (nn.Conv2d, nn.Linear)}
    hooks = [module.register_forward_pre_hook(partial(note, name)) for name, module in layers.items()]
    with torch.inference_mode():
        for batch in batches_of(images):
            network(batch.images)
    for hook in hooks:
        hook.remove()
    return Observed(images.normalize(images.images[:2]), {name: found[name] for name in layers if name in found})


def refitted(network: nn.Module, images: DeviceSplit) -> nn.Module:
    """Measure the normalizations of `network` again, in place, on images without augmentation; return it."""
    recalibrate(network, batches_of(images), len(images))
    return network


def batches_of(images: DeviceSplit) -> Iterator[Batch]:
    """Yield all images in their order, without augmentation, in batches of nearly equal size."""
    every = torch.arange(len(images), device=images.labels.device)
    for index in every.tensor_split(batches_per_epoch(len(images), BATCH)):
        targets = nn.functional.one_hot(images.labels[index], images.num_classes).float()
        plain = partial(images.normalize, images.images[index])
        yield Batch(plain(), targets, index, plain)


@torch.inference_mode()
def logits_of(network: nn.Module, images: DeviceSplit, what: str) -> Tensor:
    """Return (N, classes) float64; raise a TrainingError where one is not finite, `what` says of which network."""
    logits = torch.cat([network(batch.images) for batch in batches_of(images)]).double()
    if not logits.isfinite().all():
        raise TrainingError(f"{what}: logits are not finite, so that nothing can be compared; train the model again")
    return logits


def effect(original: Tensor, changed: Tensor, labels: Tensor) -> Effect:
    """Compare logits (N, classes) of two networks on the same images with `labels` (N)."""
    kl = max(divergence(original, changed), 0.0)  # rounding may leave a little below 0
    right, still_right = (int((logits.argmax(1) == labels).sum()) for logits in (original, changed))
    return Effect(kl, 100 * (right - still_right) / len(labels))
