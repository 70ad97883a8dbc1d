"""Architectures by name, and rebuilding a network from its spec."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from netpress.base.errors import ArtifactError
from netpress.core.edits import Edit, apply_edits
from netpress.params import plugins
from netpress.params.schema import parse


def build_model(arch: str, num_classes: int = 11, in_channels: int = 3, **options: Any) -> nn.Module:
    """Build a freshly initialized network.

    Args:
        arch: a file of this package, such as `resnet18`.
        num_classes: outputs of the head.
        in_channels: 1 or 3.
        options: the architecture's own options; its file lists them.

    Returns:
        A module from (N, in_channels, H, W) float, H and W at least 28, to (N, num_classes) logits.

    Raises:
        ConfigError: an unknown architecture or option, or an option out of range.
    """
    module = plugins.load("models", arch)
    network: nn.Module = module.build(num_classes, in_channels, parse(module.Options, options, arch))
    return network


@contextmanager
def _on_meta() -> Iterator[None]:
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leaves out `normal_`: without storage it draws nothing, and imports half of torch's compiler for two seconds."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.normal_ else func(*args, **(kwargs or {}))


def build_on_meta(arch: str, num_classes: int = 11, in_channels: int = 3, **options: Any) -> nn.Module:
    """Build a network without storage, for counting."""
    with _on_meta():
        return build_model(arch, num_classes, in_channels, **options)


def build_edited(
    arch: str, num_classes: int, in_channels: int, options: dict[str, Any], edits: list[Edit]
) -> nn.Module:
    """Build a network with the structure that a spec describes, freshly initialized as its architecture does it.

    An architecture that does not leave PyTorch's own initialization says so in its function `initialize(network)`.
    """
    network = build_model(arch, num_classes, in_channels, **options)
    apply_edits(network, edits)
    initialize = getattr(plugins.load("models", arch), "initialize", None)
    if initialize:
        initialize(network)
    return network


def rebuild(
    arch: str,
    num_classes: int,
    in_channels: int,
    options: dict[str, Any],
    edits: list[Edit],
    weights: dict[str, torch.Tensor],
) -> nn.Module:
    """Build the network that a spec describes and give it `weights`; in eval mode.

    Raises:
        ArtifactError: weights missing, left over or of another shape, with their names.
    """
    with _on_meta():
        network = build_model(arch, num_classes, in_channels, **options)
        apply_edits(network, edits)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    faults = [f"missing {name} {shape}" for name, shape in expected.items() if name not in found]
    faults += [f"left over {name} {shape}" for name, shape in found.items() if name not in expected]
    faults += [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if faults:
        more = f" and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ArtifactError(f"the weights do not fit {arch}: {'; '.join(faults[:8])}{more}")
    network.load_state_dict(weights, assign=True)
    return network.eval()
