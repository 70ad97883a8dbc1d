"""Outputs of layers inside a network, by the layers' names."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netpress.base.errors import ParamsError
from netpress.base.words import near_or_known

#: Tap -> shape of its output for one image, such as (C, H, W).
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Taps:
    """The layers, as `named_modules` names them, whose outputs a method wants to see."""

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What a network says of a batch: logits (B, classes), and the output (B, ...) of each tap, as float32."""

    logits: Tensor
    features: dict[str, Tensor]


class Tapped:
    """Keeps the outputs of some layers of `network`, as of its last forward pass, until it is closed.

    Raises:
        ParamsError: of `method_options`; there is no layer of a name. `whose` is what the message calls the network.
    """

    def __init__(self, network: nn.Module, names: Iterable[str], whose: str) -> None:
        layers = dict(network.named_modules())
        self._network, self._outputs = network, dict[str, Tensor]()
        for name in names:
            if not name or name not in layers:
                known = [layer for layer in layers if layer]
                text = f"method_options: the {whose} has no layer '{name}'{near_or_known(name, known)}"
                raise ParamsError([("method_options", text)])
        self._hooks = [layers[name].register_forward_hook(_Keep(self._outputs, name)) for name in names]

    def seen(self, logits: Tensor) -> Seen:
        """Return what the last forward pass gave; `logits` were its result."""
        return Seen(logits.float(), {name: output.float() for name, output in self._outputs.items()})

    @torch.no_grad()
    def shapes(self, images: Tensor) -> Shapes:
        """Return the shapes that the taps give for each of `images` (B, C, H, W)."""
        self._network.eval()(images)
        return {name: tuple(output.shape[1:]) for name, output in self._outputs.items()}

    def close(self) -> None:
        """Leave the network as it was."""
        for hook in self._hooks:
            hook.remove()
        self._outputs.clear()


class _Keep:
    """A forward hook that keeps a layer's output under the layer's name."""

    def __init__(self, outputs: dict[str, Tensor], name: str) -> None:
        self._outputs, self._name = outputs, name

    def __call__(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            text = f"method_options: layer '{self._name}' gives a {type(output).__name__}, not a tensor; name another"
            raise ParamsError([("method_options", text)])
        self._outputs[self._name] = output.clone()  # what follows may change it in place, such as a ReLU
