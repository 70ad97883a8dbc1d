"""What compression does to a network's structure, written down so that the network can be rebuilt.

An edit is plain JSON. `widths` gives layers other channel counts (pruning); `sequence` replaces a layer
by a chain of convolutions (low rank). Edits are applied in order, so chains of methods rebuild too.
"""

from typing import Any

from torch import nn

from netpress.base.errors import ArtifactError

Edit = dict[str, Any]


def widths_edit(before: dict[str, list[int]], network: nn.Module) -> Edit:
    """Describe how the layers' sizes in `network` differ from `before` (see `layer_sizes`)."""
    after = layer_sizes(network)
    return {"edit": "widths", "layers": {name: size for name, size in after.items() if size != before[name]}}


def layer_sizes(network: nn.Module) -> dict[str, list[int]]:
    """Return the size of every layer: [in, out, groups], [features] or [in, out] for conv, norm, linear."""
    sizes: dict[str, list[int]] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            sizes[name] = [module.in_channels, module.out_channels, module.groups]
        elif isinstance(module, nn.BatchNorm2d):
            sizes[name] = [module.num_features]
        elif isinstance(module, nn.Linear):
            sizes[name] = [module.in_features, module.out_features]
    return sizes


def sequence_edit(chains: dict[str, nn.Sequential]) -> Edit:
    """Describe layers replaced by chains of convolutions."""
    return {"edit": "sequence", "layers": {name: [_conv_record(c) for c in chain] for name, chain in chains.items()}}


def apply_edits(network: nn.Module, edits: list[Edit]) -> None:
    """Change `network` in place; new layers are made on the current default device, untrained.

    Raises:
        ArtifactError: an edit of an unknown kind, or one that names a layer that is not there.
    """
    for edit in edits:
        for name, record in edit["layers"].items():
            try:
                layer = network.get_submodule(name)
            except AttributeError:
                raise ArtifactError(f"the spec edits layer '{name}', which the architecture does not have") from None
            if edit["edit"] == "widths":
                replace_layer(network, name, _resized(layer, record))
            elif edit["edit"] == "sequence":
                replace_layer(network, name, nn.Sequential(*(_conv_from(r) for r in record)))
            else:
                raise ArtifactError(f"the spec has an edit of unknown kind '{edit['edit']}'; known: widths, sequence")


def replace_layer(network: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` in the place of the submodule called `name`."""
    owner, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(owner), attribute, layer)


def _resized(layer: nn.Module, size: list[int]) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        record = _conv_record(layer) | dict(zip(("in", "out", "groups"), size, strict=True))
        return _conv_from(record)
    if isinstance(layer, nn.BatchNorm2d):
        return nn.BatchNorm2d(size[0], eps=layer.eps, momentum=layer.momentum)
    if isinstance(layer, nn.Linear):
        return nn.Linear(size[0], size[1], bias=layer.bias is not None)
    raise ArtifactError(f"the spec resizes a {type(layer).__name__}, which has no channels")


def _conv_record(conv: nn.Module) -> dict[str, Any]:
    if not isinstance(conv, nn.Conv2d):
        raise ArtifactError(f"a chain of convolutions holds a {type(conv).__name__}")
    return {
        "in": conv.in_channels,
        "out": conv.out_channels,
        "kernel": list(conv.kernel_size),
        "stride": list(conv.stride),
        "padding": [int(p) for p in conv.padding],
        "dilation": list(conv.dilation),
        "groups": conv.groups,
        "bias": conv.bias is not None,
    }


def _conv_from(record: dict[str, Any]) -> nn.Conv2d:
    return nn.Conv2d(
        record["in"],
        record["out"],
        tuple(record["kernel"]),
        stride=tuple(record["stride"]),
        padding=tuple(record["padding"]),
        dilation=tuple(record["dilation"]),
        groups=record["groups"],
        bias=record["bias"],
    )
