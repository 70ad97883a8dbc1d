"""Weights trained elsewhere as the start of a training: the only importer of foreign files.

`init` of an item of `train` is `none`, `imagenet` (torchvision's weights of the architecture) or a file of
`data/weights`: safetensors, or a state dict of torch, which is read without running what it may contain.
"""

import io
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.base.project import WEIGHTS
from netpress.core import artifacts
from netpress.core.context import Bench, Start
from netpress.params import plugins
from netpress.params.items import IMAGENET, NONE
from netpress.params.reader import check_imagenet, weights_file

#: Under these keys checkpoints of other programs keep their state dict.
WRAPPERS = ("state_dict", "model_state_dict", "model")
#: Put before every name by `DataParallel`.
PREFIX = "module."
#: Faults named in one message.
NAMED = 8


def with_start(bench: Bench) -> Bench:
    """Return `bench` with the start that `init` of its item names, if any.

    Raises:
        ConfigError: there is no such file, or torchvision has no weights for the architecture.
        ArtifactError: torchvision's weights cannot be fetched, or are not those that were published.
    """
    init, arch, key = bench.item.init, bench.item.arch, f"{bench.model_id.replace('/', '.')}.init"
    if init == NONE:
        return bench
    path = _from_torchvision(arch, key) if init == IMAGENET else weights_file(bench.root, init, key)
    sha256 = files.sha256_file(path)
    return replace(bench, start=Start(init, sha256, partial(load_into, path=path, sha256=sha256, arch=arch, key=key)))


def load_into(network: nn.Module, path: Path, sha256: str, arch: str, key: str) -> None:
    """Give the freshly built `network` of architecture `arch` the weights of the file `path`.

    The last linear layer keeps its fresh weights where the file's differ in shape, as they do for other classes, or
    are missing.

    Raises:
        ArtifactError: the file was changed meanwhile, is damaged, holds more than tensors or does not fit the
            network; names file, tensors and remedy.
    """
    weights = read_weights(files.read_checked(path, sha256, "it was changed meanwhile: run this stage again"), path)
    own, head = network.state_dict(), head_of(network)
    wrong = dict(_faults(own, weights))
    faults = [fault for name, fault in wrong.items() if name not in head]
    if faults:
        more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise ArtifactError(
            f"{key}: the weights of {path} do not fit {arch}: {'; '.join(faults[:NAMED])}{more}. Name a file of this "
            "architecture with the same options and as many input channels, or set init: none"
        )
    afresh = head if head & wrong.keys() else set()
    used = {name for name in own if name in weights and name not in afresh}
    network.load_state_dict({name: weights[name].to(t.dtype) if name in used else t for name, t in own.items()})
    rest = f"; {' and '.join(sorted(afresh))} start afresh" if afresh else ""
    print(f"starts from {path.name} (sha256 {sha256[:8]}){rest}", flush=True)


def head_of(network: nn.Module) -> set[str]:
    """Return the names of the parameters of the last linear layer."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return {f"{name}.{part}" for name in linear[-1:] for part, _ in network.get_submodule(name).named_parameters()}


def read_weights(data: bytes, path: Path) -> dict[str, Tensor]:
    """Read the content of `path`: safetensors by its name, or else a state dict of torch; nothing in it is run.

    Raises:
        ArtifactError: it is neither, or damaged.
    """
    if path.suffix == ".safetensors":
        return artifacts.tensors_from_bytes(data, path)
    try:
        return _state_dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), path)
    except ArtifactError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it names {named[1]}, which is not run" if named else "it is none, or holds more than tensors"
    except Exception as error:  # damaged files raise whatever they like
        reason = (str(error) or type(error).__name__).splitlines()[0]
    raise ArtifactError(
        f"{path} cannot be read as a state dict of torch ({reason}); fetch it again, or save network.state_dict() alone"
    ) from None


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict that `loaded` is or wraps, without `DataParallel`'s prefix."""
    for key in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ArtifactError(f"{path} holds no state dict (name -> tensor); save network.state_dict() alone")
    prefix = PREFIX if all(str(name).startswith(PREFIX) for name in loaded) else ""
    return {str(name).removeprefix(prefix): tensor for name, tensor in loaded.items()}


def _faults(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield (tensor's name, what is wrong with it)."""
    for name, tensor in own.items():
        found = weights.get(name)
        if found is None:
            if not name.endswith("num_batches_tracked"):  # counts steps, and is not used
                yield name, f"missing {name} {tuple(tensor.shape)}"
        elif found.shape != tensor.shape:
            yield name, f"{name} is {tuple(found.shape)}, expected {tuple(tensor.shape)}"
        elif found.layout != torch.strided or found.is_meta or found.is_floating_point() != tensor.is_floating_point():
            kind = str(found.dtype).removeprefix("torch.")
            yield (
                name,
                f"{name} holds no plain {'floating-point' if tensor.is_floating_point() else 'whole'} numbers ({kind})",
            )
        elif not found.to(tensor.dtype).isfinite().all():
            yield name, f"{name} holds NaN or infinities"
    yield from ((name, f"left over {name} {tuple(t.shape)}") for name, t in weights.items() if name not in own)


def _from_torchvision(arch: str, key: str) -> Path:
    """Return torchvision's file of the architecture in its cache, fetched if it is not there, its hash checked."""
    check_imagenet(arch, key)
    from torchvision.models import get_weight  # takes seconds

    weights: Any = get_weight(plugins.load("models", arch).IMAGENET)
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    if not path.is_file():
        try:
            weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:  # urllib's errors, a hash that differs, a full disk
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ArtifactError(
                f"{key} = 'imagenet': {weights.url} cannot be fetched ({reason}). Put that file into {path.parent}, or "
                f"into {WEIGHTS.as_posix()} and name it in init, or set init: none"
            ) from None
    begin = path.stem.rsplit("-", 1)[-1]
    if not files.sha256_file(path).startswith(begin):  # torchvision checks what it fetches, not what its cache holds
        raise ArtifactError(
            f"{path} is not the file that was published: its sha256 does not begin with {begin}; delete it"
        )
    return path
