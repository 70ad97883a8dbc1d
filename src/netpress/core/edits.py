"""What compression does to a network's structure, written down so that the network can be rebuilt.

An edit is plain JSON. Two kinds serve every architecture, applied in order, so that chains of methods rebuild too:

- `resize` (pruning) gives layers other sizes: the whole numbers among their attributes, such as `out_channels`, and
  the shapes of their own tensors. The layer stays what it is, so it keeps its class and all else that it holds.
- `replace` (low rank) puts a chain of convolutions or linear layers in the place of a layer.

The name of a layer is that of its module; `""` is the network itself, which may own parameters too.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from netpress.base.errors import ArtifactError

Edit = dict[str, Any]
#: Layer -> {"set": {attribute: whole number or list of them}, "shapes": {own tensor: shape}}.
Sizes = dict[str, dict[str, dict[str, Any]]]

#: What a chain may hold, and the arguments with which each is made; all are attributes of the layer too.
CHAINABLE: dict[str, tuple[str, ...]] = {
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    "Linear": ("in_features", "out_features"),
}


def sizes_of(network: nn.Module) -> Sizes:
    """Return the sizes of every module of `network`: what pruning may change of it."""
    return {
        name: {
            "set": {key: _plain(value) for key, value in vars(module).items() if _is_size(key, value)},
            "shapes": {key: list(tensor.shape) for key, tensor in _own_tensors(module).items()},
        }
        for name, module in network.named_modules()
    }


def resize_edit(before: Sizes, network: nn.Module) -> Edit:
    """Describe how the sizes of `network` differ from `before`, which `sizes_of` gave of it."""
    layers: Sizes = {}
    for name, after in sizes_of(network).items():
        changed = {
            part: {key: value for key, value in values.items() if value != before[name][part].get(key)}
            for part, values in after.items()
        }
        if any(changed.values()):
            layers[name] = changed
    return {"edit": "resize", "layers": layers}


def replace_edit(chains: dict[str, nn.Sequential]) -> Edit:
    """Describe layers replaced by chains of layers that are `CHAINABLE`."""
    return {"edit": "replace", "layers": {name: [_record(layer) for layer in chain] for name, chain in chains.items()}}


def apply_edits(network: nn.Module, edits: list[Edit]) -> None:
    """Change `network` in place: resized layers are initialized again, new ones made on the current default device.

    Raises:
        ArtifactError: an edit of an unknown kind, or one that does not fit the network; names the layer.
    """
    kinds: dict[str, Callable[[nn.Module, str, Any], None]] = {"resize": _resize, "replace": _replace}
    for edit in edits:
        if edit["edit"] not in kinds:
            raise ArtifactError(f"the spec has an edit of unknown kind '{edit['edit']}'; known: {', '.join(kinds)}")
        for name, record in edit["layers"].items():
            try:
                network.get_submodule(name)
            except AttributeError:
                raise ArtifactError(f"the spec edits layer '{name}', which the architecture does not have") from None
            try:
                kinds[edit["edit"]](network, name, record)
            except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
                raise ArtifactError(f"the spec's edit of layer '{name}' does not fit it ({error})") from None


def replace_layer(network: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` in the place of the submodule called `name`."""
    owner, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(owner), attribute, layer)


def _resize(network: nn.Module, name: str, record: dict[str, dict[str, Any]]) -> None:
    layer = network.get_submodule(name)
    for key, value in record["set"].items():
        known = vars(layer).get(key)
        if not _is_size(key, known) or not _is_size(key, value):
            raise ValueError(f"it has no size called {key}")
        vars(layer)[key] = tuple(value) if isinstance(known, tuple) else value
    for key, shape in record["shapes"].items():
        old = _own_tensors(layer)[key]
        if old.ndim != len(shape) or any(new > known for new, known in zip(shape, old.shape, strict=True)):
            raise ValueError(f"{key} is {tuple(old.shape)} and cannot become {tuple(shape)}")
        new = old.detach()[tuple(slice(size) for size in shape)].clone()
        setattr(layer, key, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
    reset = getattr(layer, "reset_parameters", None)
    if record["shapes"] and callable(reset):
        reset()


def _replace(network: nn.Module, name: str, records: list[dict[str, Any]]) -> None:
    replace_layer(network, name, nn.Sequential(*(_made(record) for record in records)))


def _record(layer: nn.Module) -> dict[str, Any]:
    kind = type(layer).__name__
    sizes = {key: _plain(getattr(layer, key)) for key in CHAINABLE[kind]}
    return {"type": kind, **sizes, "bias": layer.bias is not None}


def _made(record: dict[str, Any]) -> nn.Module:
    values = {key: _grouped(record[key]) for key in (*CHAINABLE[record["type"]], "bias")}
    return nn.Conv2d(**values) if record["type"] == "Conv2d" else nn.Linear(**values)


def _grouped(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | str) else list(value)


def _is_size(key: str, value: Any) -> bool:
    """Return whether an attribute is a size: a whole number, or some of them in a tuple or list."""
    if key.startswith("_") or isinstance(value, bool):
        return False
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(entry, int) and not isinstance(entry, bool) for entry in value)
    return isinstance(value, int)


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of `module` itself, not those of the modules in it."""
    return dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
