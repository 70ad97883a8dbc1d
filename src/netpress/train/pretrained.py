"""Weights trained elsewhere as the start of a training: the only importer of foreign files.

They are a file of `data/weights` that `init` of an item of `train` names, safetensors or a state dict of torch, which
is read without running what it may contain; or published weights that the options of the architecture ask for, which
are fetched when the training begins, and never when a model is rebuilt or counted.
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
from netpress.core.context import Context, Start
from netpress.core.networks import classifier_name
from netpress.params import plugins
from netpress.params.items import NONE
from netpress.params.reader import published_weights, weights_file
from netpress.params.schema import parse

#: Under these keys checkpoints of other programs keep their state dict.
WRAPPERS = ("state_dict", "model_state_dict", "model")
#: Put before every name by `DataParallel`.
PREFIX = "module."
#: torchvision's file of its DenseNets says `norm.1` for what the network calls `norm1`.
RENAMED = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d\.)")
#: Faults named in one message.
NAMED = 8


def with_start(context: Context) -> Context:
    """Return `context` with the start that its item names in `init` or in the options of the architecture, if any.

    Raises:
        ConfigError: there is no such file.
        ArtifactError: published weights cannot be fetched, or are not those that were published.
    """
    item, key, classes = context.item, context.model_id.key, len(context.classes)
    module, published = plugins.load("models", item.arch), published_weights(item)
    if published is None and item.init == NONE:
        return context
    if hasattr(module, "fetch") and published:
        weights = module.fetch(parse(module.Options, item.options, f"{key}.options"))
        sha256 = files.sha256_bytes(artifacts.tensors_as_bytes(weights))
        name = f"{published} (sha256 {sha256[:8]})"
        load = partial(give, weights=weights, name=name, arch=item.arch, key=key, classes=classes)
        return replace(context, start=Start(published, sha256, load))
    path = _from_torchvision(published, key) if published else weights_file(context.root, item.init, f"{key}.init")
    sha256 = files.sha256_file(path)
    key = f"{key}.{'options' if published else 'init'}"
    load = partial(load_into, path=path, sha256=sha256, arch=item.arch, key=key, classes=classes)
    return replace(context, start=Start(published or item.init, sha256, load))


def load_into(network: nn.Module, path: Path, sha256: str, arch: str, key: str, classes: int) -> None:
    """Give the freshly built `network` of architecture `arch` the weights of the file `path`; see `give`.

    Raises:
        ArtifactError: the file was changed meanwhile, is damaged, holds more than tensors or does not fit the
            network; names file, tensors and remedy.
    """
    weights = read_weights(files.read_checked(path, sha256, "it was changed meanwhile: run this stage again"), path)
    give(network, weights, f"{path} (sha256 {sha256[:8]})", arch, key, classes)


def give(network: nn.Module, weights: Mapping[str, Tensor], name: str, arch: str, key: str, classes: int) -> None:
    """Give the freshly built `network` of architecture `arch` for `classes` the `weights` that are called `name`.

    The layer that makes the logits keeps its fresh weights where the others differ in shape, as they do for other
    classes, or are missing. Where the network sees grey images and the weights colours, those of the first
    convolution are added up: a grey image gives what it gave as three equal channels.

    Raises:
        ArtifactError: they do not fit; names tensors and remedy.
    """
    own = network.state_dict()
    name_of_head = classifier_name(network, classes)
    head = {tensor for tensor in own if tensor.startswith(f"{name_of_head}.")}
    weights = dict(weights)
    summed = _add_up_colours(network, weights)
    wrong = dict(_faults(own, weights))
    faults = [fault for tensor, fault in wrong.items() if tensor not in head]
    if faults:
        more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise ArtifactError(
            f"{key}: the weights of {name.rsplit(' (', 1)[0]} do not fit {arch}: {'; '.join(faults[:NAMED])}{more}. "
            "Name weights of this architecture with the same options and as many input channels, or none"
        )
    fresh = head if head & wrong.keys() else set()
    used = {tensor for tensor in own if tensor in weights and tensor not in fresh}
    network.load_state_dict({n: weights[n].to(t.dtype) if n in used else t for n, t in own.items()})
    rest = f"; {summed} adds up three channels" if summed else ""
    rest += f"; {' and '.join(sorted(fresh))} start from scratch" if fresh else ""
    print(f"starts from {name.rsplit('/', 1)[-1]}{rest}", flush=True)


def _add_up_colours(network: nn.Module, weights: dict[str, Tensor]) -> str | None:
    """Add up the three input channels of the first convolution's weights for a `network` of one; return their name."""
    convolutions = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    name, first = convolutions[0] if convolutions else ("", None)
    found = weights.get(f"{name}.weight")
    if first is None or found is None or first.in_channels != 1 or found.ndim != 4 or found.shape[1] != 3:
        return None
    weights[f"{name}.weight"] = found.sum(1, keepdim=True)
    return f"{name}.weight"


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
    return {RENAMED.sub(r"\1\2", str(name).removeprefix(prefix)): tensor for name, tensor in loaded.items()}


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


def _from_torchvision(name: str, key: str) -> Path:
    """Return torchvision's file of the weights `name` in its cache, fetched if it is not there, its hash checked."""
    from torchvision.models import get_weight  # takes seconds

    weights: Any = get_weight(name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    if not path.is_file():
        try:
            weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:  # urllib's errors, a hash that differs, a full disk
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ArtifactError(
                f"{key}.options: {weights.url} cannot be fetched ({reason}). Put that file into {path.parent}, or into "
                f"{WEIGHTS.as_posix()} and name it in init, or set weights: none"
            ) from None
    begin = path.stem.rsplit("-", 1)[-1]
    if not files.sha256_file(path).startswith(begin):  # torchvision checks what it fetches, not what its cache holds
        raise ArtifactError(
            f"{path} is not the file that was published: its sha256 does not begin with {begin}; delete it"
        )
    return path
