"""Weights trained elsewhere as the start of a training: the only importer of foreign files.

`init` of an item of `train` is `none`, `imagenet` (torchvision's weights of the architecture) or a file of
`data/weights`: safetensors, or a state dict of torch, which is read without running what it may contain.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netpress import artifacts
from netpress.base import plugins
from netpress.base.errors import ArtifactError, ConfigError
from netpress.base.files import sha256_file
from netpress.config import IMAGENET, check_imagenet

WEIGHTS = Path("data/weights")
NONE = "none"
#: Under these keys checkpoints of other programs keep their state dict.
WRAPPERS = ("state_dict", "model_state_dict", "model")
#: Put before every name by `DataParallel`.
PREFIX = "module."
#: Faults named in one message.
NAMED = 8


def hash_of(root: Path, init: str, arch: str) -> str | None:
    """Return what tells one start from another: the file's sha256, the name of torchvision's file, or None for none.

    Raises:
        ConfigError: there is no such start.
    """
    if init == NONE:
        return None
    if init == IMAGENET:
        return _torchvision_weights(arch).url.rsplit("/", 1)[-1]
    return sha256_file(_file(root, init))


def start_from(network: nn.Module, root: Path, init: str, arch: str) -> None:
    """Give the freshly built `network` the weights that `init` names.

    The last linear layer keeps its fresh weights where its shape differs, as it does for other classes.

    Raises:
        ConfigError: there is no such start, or it does not fit the network; names file, tensors and remedy.
    """
    if init == NONE:
        return
    weights = _from_torchvision(arch) if init == IMAGENET else _from_file(_file(root, init))
    own, head = network.state_dict(), head_of(network)
    wrong = dict(_faults(own, weights))
    faults = [fault for name, fault in wrong.items() if name not in head]
    if faults:
        more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise ConfigError(
            f"init = {init}: its weights do not fit {arch}: {'; '.join(faults[:NAMED])}{more}. Name a file of this "
            "architecture with these options and as many input channels, or set init: none"
        )
    afresh = head if head & wrong.keys() else set()
    used = {name for name in own if name in weights and name not in afresh}
    network.load_state_dict({name: weights[name].to(t.dtype) if name in used else t for name, t in own.items()})
    replaced = f"; {' and '.join(sorted(afresh))} start afresh" if afresh else ""
    print(f"starts from {init}{replaced}", flush=True)


def head_of(network: nn.Module) -> set[str]:
    """Return the names of the parameters of the last linear layer."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return {f"{name}.{part}" for name in linear[-1:] for part, _ in network.get_submodule(name).named_parameters()}


def _faults(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield (tensor's name, what is wrong with it)."""
    for name, tensor in own.items():
        if name not in weights:
            if not name.endswith("num_batches_tracked"):  # counts steps, and is not used
                yield name, f"missing {name} {tuple(tensor.shape)}"
        elif weights[name].shape != tensor.shape:
            yield name, f"{name} is {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
    yield from ((name, f"left over {name} {tuple(t.shape)}") for name, t in weights.items() if name not in own)


def _file(root: Path, init: str) -> Path:
    path = root / WEIGHTS / init
    if not path.is_file():
        there = (root / WEIGHTS).iterdir() if (root / WEIGHTS).is_dir() else ()
        known = sorted(entry.name for entry in there if entry.is_file() and entry.name[0] != ".")
        raise ConfigError(f"init = {init}: no file {WEIGHTS / init}{plugins.near_or_known(init, known)}; put it there")
    return path


def _from_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return artifacts.tensors_from_bytes(path.read_bytes(), path)
        return _state_dict(torch.load(path, map_location="cpu", weights_only=True), path)
    except ArtifactError as error:
        raise ConfigError(f"init: {error}; fetch it again") from None
    except ConfigError:
        raise
    except Exception as error:  # damaged and hostile files raise whatever they like
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"init: {path} is no state dict of torch, or holds more than tensors, which is not run ({reason}); "
            "save the bare state dict, best as safetensors"
        ) from None


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ConfigError(f"init: {path} holds no state dict (name -> tensor); save network.state_dict()")
    return {str(name).removeprefix(PREFIX): tensor for name, tensor in loaded.items()}


def _torchvision_weights(arch: str) -> Any:
    check_imagenet(arch, "init")
    from torchvision.models import get_weight

    return get_weight(plugins.load("models", arch).IMAGENET)


def _from_torchvision(arch: str) -> dict[str, Tensor]:
    """Return torchvision's weights from its cache, or fetched and checked against the hash in their name."""
    weights = _torchvision_weights(arch)
    try:
        found: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # urllib's errors, a hash that differs, a damaged cache
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"init = imagenet: {weights.url} cannot be fetched or used ({reason}). Put the file into {cache}, or into "
            f"{WEIGHTS} and name it in init, or set init: none"
        ) from None
    return found
