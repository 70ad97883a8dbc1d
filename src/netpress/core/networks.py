"""Architectures by name, and rebuilding a network from its spec."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from netpress.base.errors import ArtifactError, ConfigError, ParamsError
from netpress.core.edits import Edit, apply_edits
from netpress.params import plugins
from netpress.params.schema import parse

#: Mean and deviation per channel.
Normalization = tuple[Sequence[float], Sequence[float]]


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
        ConfigError: an unknown architecture or option, an option out of range, or a file that builds no network.
    """
    module = plugins.load("models", arch)
    network = module.build(num_classes, in_channels, parse(module.Options, options, arch))
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{arch}: build returned {plugins.in_words(network)}; return a torch.nn.Module")
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
    """Build a network for counting: without storage, or on the CPU where its code computes with numbers."""
    try:
        with _on_meta():
            return build_model(arch, num_classes, in_channels, **options)
    except Exception:  # torch's errors of tensors without numbers are of many types; a true fault comes again
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
    network = build_on_meta(arch, num_classes, in_channels, **options)
    if _keeps_other_tensors(network):  # which weights do not bring back
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


def _keeps_other_tensors(network: nn.Module) -> bool:
    """Return whether parts of `network` hold tensors that its state dict does not: they are made when it is built."""
    stored = network.state_dict(keep_vars=True).values()
    known = {id(tensor) for tensor in stored}
    held = [tensor for module in network.modules() for tensor in (*module._buffers.values(), *vars(module).values())]
    return any(isinstance(tensor, torch.Tensor) and id(tensor) not in known for tensor in held)


def require_rebuilt(
    network: nn.Module,
    arch: str,
    num_classes: int,
    options: dict[str, Any],
    edits: list[Edit],
    shape: tuple[int, int, int],
    key: str = "from",
) -> None:
    """Raise unless `network` gives logits, and, rebuilt from what its spec will say, the same; before it is trained.

    `shape` is that of an image, (C, H, W); `key` is the key of the item that names the network. It keeps its mode.

    Raises:
        ParamsError: it does not, or it does not run at all; names the first layer that fails or whose outputs differ.
    """
    was_training, device = network.training, next(network.parameters()).device
    images = torch.linspace(-1, 1, 2 * math.prod(shape), device=device).reshape(2, *shape)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # what is drawn changes no training
        again = rebuild(arch, num_classes, shape[0], options, edits, copies_of(network)).to(device)
        fault = (
            _fault_of_run(network.eval(), images, num_classes)
            or _fault_of_rebuilt(network, again, images)
            or _fault_of_run(again.train(), images, num_classes)
        )
    network.train(was_training)
    if fault:
        raise ParamsError([(key, f"{key}: {_title(arch, options)}{fault}")])


def _title(arch: str, options: dict[str, Any]) -> str:
    """Return what messages call a network: its architecture, or what the architecture's file says in `title`."""
    module = plugins.load("models", arch)
    return str(module.title(parse(module.Options, options, arch))) if hasattr(module, "title") else arch


@torch.inference_mode()
def _fault_of_run(network: nn.Module, images: torch.Tensor, num_classes: int) -> str:
    """Say what `network`, in the mode that it is in, does in place of giving logits; nothing if it gives them."""
    when = " while it is trained" if network.training else ""
    if failing := failing_part(network, images):
        place = f"layer '{failing[0]}'" if failing[0] else "the network"
        return f": {place} does not run on images of {tuple(images.shape[1:])}{when} ({failing[1]})"
    logits = network(images)
    if not isinstance(logits, torch.Tensor):
        return f" gives a {type(logits).__name__}{when}; a tensor (images, classes) is needed"
    found = tuple(logits.shape)
    if logits.ndim != 2 or len(logits) != len(images):
        return f" gives {found} for {len(images)} images{when}; a tensor (images, classes) is needed"
    return "" if found[1] == num_classes else f" gives {found}{when}; the data have {num_classes} classes"


def _fault_of_rebuilt(network: nn.Module, again: nn.Module, images: torch.Tensor) -> str:
    """Name the first layer whose outputs differ between `network` and `again`, its twin; nothing if there is none."""
    ours, theirs = (outputs_of(net, images) for net in (network, again))
    for name, tensor in ours.items():
        if name not in theirs or not torch.equal(tensor.nan_to_num(), theirs[name].nan_to_num()):
            return (
                f": layer '{name}' does not come back with the same outputs when the network is built again; "
                "keep all that it computes with in parameters and buffers, and draw nothing while it is built"
            )
    return ""


def failing_part(network: nn.Module, images: torch.Tensor) -> tuple[str, str] | None:
    """Run the network; return the name of the innermost part of several layers that fails, and why, or None."""
    names = {module: name for name, module in network.named_modules() if any(True for _ in module.children())}
    running: list[str] = []
    hooks = [m.register_forward_pre_hook(lambda module, _: running.append(names[module])) for m in names]
    hooks += [m.register_forward_hook(lambda *_: running.pop() and None) for m in names]
    try:
        with torch.inference_mode():
            network(images)
    except Exception as error:  # whatever code of others raises where its sizes do not fit
        return running[-1] if running else "", (str(error).strip() or type(error).__name__).splitlines()[0]
    finally:
        for hook in hooks:
            hook.remove()
    return None


def copies_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of the state of `network`, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


@torch.inference_mode()
def outputs_of(network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what each module of `network` gives for `images` where that is one tensor, by name, in their order."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            found[name] = output

    hooks = [module.register_forward_hook(partial(keep, name)) for name, module in network.named_modules()]
    network(images)
    for hook in hooks:
        hook.remove()
    return found


def classifier_name(network: nn.Module, num_classes: int) -> str:
    """Return the name of the layer that makes the logits: the last with `num_classes` outputs, linear or convolution.

    Raises:
        ConfigError: there is none.
    """
    found = [name for name, module in network.named_modules() if _outputs(module) == num_classes]
    if not found:
        raise ConfigError(f"no linear layer or convolution has {num_classes} outputs, one for each class")
    return found[-1]


def _outputs(module: nn.Module) -> int:
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    return module.out_features if isinstance(module, nn.Linear) else 0


def renormalize(network: nn.Module, given: Normalization, wanted: Normalization) -> None:
    """Let `network`, which was trained on images normalized by `wanted`, take images that are normalized by `given`.

    Each is the mean and the deviation per channel, pixels in 0..1. Where they are equal nothing is done.
    """
    if given == wanted:
        return
    mean, std = (torch.tensor(values)[:, None, None] for values in given)  # (C, 1, 1)
    own_mean, own_std = (torch.tensor(values)[:, None, None] for values in wanted)
    scale, shift = std / own_std, (mean - own_mean) / own_std

    def feed(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0] * scale.to(inputs[0].device) + shift.to(inputs[0].device), *inputs[1:])

    network.register_forward_pre_hook(feed)
