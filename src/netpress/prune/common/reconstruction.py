"""Weights refitted by least squares after channels have left, so that each layer gives what it gave before.

He et al., Channel pruning for accelerating very deep neural networks, https://arxiv.org/abs/1707.06168, section 3:
min_W ||Y - X W^T||^2 for one layer after the other, Y from the network before the removal, X from the one after it, in
which the layers before are refitted already. Like Luo et al., ThiNet, https://arxiv.org/abs/1707.06342, eq. (7).
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from netpress.core.batches import Batch
from netpress.core.unfolding import rows_of

#: Share of the inputs' mean square by which changes are held back, so that weights of inputs never seen stay.
DAMPING = 1e-3
#: Images whose inputs are unfolded at once.
CHUNK = 16

Batches = Callable[[], Iterator[Batch]]


@torch.no_grad()
def reconstruct(
    network: nn.Module, full: nn.Module, removed: dict[str, list[int]], batches: Batches, count: int
) -> list[str]:
    """Refit the layers of `network` whose inputs lost channels, in place and in their order; leaves eval mode.

    Convolutions of one group that are padded by zeros, and linear layers; the others stay as they are. On the images
    that it is fitted on no layer is further from its outputs than it was: D = W - W0, the change that minimizes
    ||Y - X W^T||^2 + d ||D||^2, is 0 where no change is better.

    Args:
        network: after the removal.
        full: before it.
        removed: layer -> outputs of `full` that it lost.
        batches: gives the same training batches each time that it is called.
        count: how many of them are used.

    Returns:
        The names of the layers that were refitted.
    """
    network.eval()
    full.eval()
    names = _thinned(network, full, next(iter(batches())).images[:1])
    for name in names:
        layer, outputs = network.get_submodule(name), full.get_submodule(name)
        gone = {*removed.get(name, [])}
        kept = [i for i in range(len(outputs.weight)) if i not in gone]  # type: ignore[arg-type]
        pairs = _pairs(network, full, name, islice(batches(), count))
        _refit(layer, ((given, now, before[:, kept]) for given, now, before in pairs))  # type: ignore[arg-type]
    return names


def _thinned(network: nn.Module, full: nn.Module, images: Tensor) -> list[str]:
    """Return the layers of `network` that can be refitted and have fewer inputs than in `full`, as they are called."""
    called: list[str] = []

    def note(name: str, _layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        if inputs and name not in called:
            called.append(name)

    hooks = []
    for name, layer in network.named_modules():
        before = full.get_submodule(name)
        if _can_refit(layer) and _can_refit(before) and layer.weight.shape[1] < before.weight.shape[1]:
            hooks.append(layer.register_forward_hook(partial(note, name)))
    network(images)
    for hook in hooks:
        hook.remove()
    return called


def _can_refit(layer: nn.Module) -> TypeGuard[nn.Conv2d | nn.Linear]:
    """Return whether `layer` is linear, or a convolution of one group that pads, if at all, so many zeros."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear)


def _pairs(
    network: nn.Module, full: nn.Module, name: str, batches: Iterator[Batch]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield inputs and outputs of the layer in `network` and its outputs in `full`: rows (n, I kh kw), (n, O), (n, O').

    A layer that is called several times for a batch gives as many of each.
    """
    now, before = list[tuple[Tensor, Tensor]](), list[Tensor]()
    layer: Any = network.get_submodule(name)
    # What follows may change them in place, such as a ReLU.
    keeps = layer.register_forward_hook(lambda _, inputs, output: now.append((inputs[0].clone(), output.clone())))
    aims = full.get_submodule(name).register_forward_hook(lambda _, __, output: before.append(output.clone()))
    for batch in batches:
        network(batch.images)
        full(batch.images)
        for (given, output), aim in zip(now, before, strict=True):
            for chunk in zip(given.split(CHUNK), output.split(CHUNK), aim.split(CHUNK), strict=True):
                yield rows_of(layer, chunk[0]), _outputs(layer, chunk[1]), _outputs(layer, chunk[2])
        now.clear()
        before.clear()
    keeps.remove()
    aims.remove()


def _outputs(layer: nn.Module, output: Tensor) -> Tensor:
    """Return the outputs, a row for each place: (n, O)."""
    return output.flatten(2).transpose(1, 2).flatten(0, 1) if isinstance(layer, nn.Conv2d) else output.flatten(0, -2)


def _refit(layer: nn.Conv2d | nn.Linear, rows: Iterator[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Change weight and bias so that the layer's outputs come nearest to others; `rows` as `_pairs` yields them."""
    bias: Tensor | None = layer.bias
    moment: Tensor | float = 0.0
    cross: Tensor | float = 0.0
    for given, now, aim in rows:
        one = given.new_ones(len(given), int(bias is not None))
        columns = torch.cat([given, one], 1).double()  # (n, I kh kw + 1)
        moment = moment + columns.T @ columns
        cross = cross + columns.T @ (aim.double() - now.double())
    if not isinstance(moment, Tensor) or not isinstance(cross, Tensor):
        raise ValueError("there was no batch")
    damping = DAMPING * moment.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    change = torch.linalg.solve(moment + damping * torch.eye(len(moment), device=moment.device), cross).T
    if bias is not None:
        bias += change[:, -1].to(bias.dtype)
        change = change[:, :-1]
    layer.weight += change.reshape(layer.weight.shape).to(layer.weight.dtype)
