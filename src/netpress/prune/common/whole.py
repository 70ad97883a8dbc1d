"""Parts of a network that keep all their channels: attention, and those in which channels cannot be followed."""

from typing import Any

import torch
from torch import Tensor, nn

from netpress.base.errors import ParamsError

#: How attention calls its number of heads.
HEADS = ("num_heads", "heads", "n_heads", "n_head", "num_attention_heads")


def has_heads(module: nn.Module) -> bool:
    """Return whether `module` is attention, whose channels belong to heads and do not leave one by one."""
    return any(isinstance(vars(module).get(key), int) for key in HEADS)


def cannot_prune(network: nn.Module, part: str, reason: str) -> ParamsError:
    """Return the refusal of a network whose `part` cannot lose channels."""
    kind = type(network.get_submodule(part)).__name__
    place = f"layer '{part}'" if part else "the network as a whole"
    text = f"the channels of {place} ({kind}) cannot be removed ({reason}); choose another network"
    return ParamsError([("from", f"from: {text}")])


def untraceable_part(network: nn.Module, example: Tensor) -> str:
    """Return the name of the smallest part of `network` in which channels cannot be followed; "" is all of it."""
    import torch_pruning as tp

    inputs: dict[str, tuple[Any, ...]] = {}
    names = {module: name for name, module in network.named_modules() if any(True for _ in module.children())}
    hooks = [m.register_forward_pre_hook(lambda module, args: inputs.update({names[module]: args})) for m in names]
    with torch.no_grad():
        network(example)
    for hook in hooks:
        hook.remove()
    for name, args in sorted(inputs.items(), key=lambda entry: len(list(network.get_submodule(entry[0]).modules()))):
        try:
            part = tp.DependencyGraph().build_dependency(network.get_submodule(name), args, verbose=False)
            list(part.get_all_groups())
        except Exception:  # it is the one that is looked for
            return name
    return ""
