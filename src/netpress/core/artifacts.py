"""The only reader and writer of models, their metrics and their tensors.

A model folder holds `spec.json` and the files that it names with their sha256 (`base/model_files.py`). JSON files carry
a seal, their own sha256. So every flipped bit is found when the file is read. There is no pickle.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import StringConstraints
from torch import Tensor, nn

from netpress.base import files
from netpress.base.errors import ArtifactError, ConfigError
from netpress.base.model_files import ONNX, SEEDS, SPEC, WEIGHTS
from netpress.base.project import metrics_file
from netpress.core.edits import Edit
from netpress.core.networks import rebuild
from netpress.params.schema import Strict, parse

#: A file of the model's folder and of no other.
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z]+\.[a-z]+$")]


#: Roles of the parent that is called so; a student may have more teachers.
FIRST = ("from", "teacher")


class Parent(Strict):
    """A model from which another was made, or by which it was taught, and the hash of its weights."""

    model_id: str
    sha256: str


class Spec(Strict):
    """What is needed to rebuild a model and to feed it.

    `epochs` are those that the weights were trained for, the parent's among them where the weights come from it;
    `data_sha256` says which images they were trained and validated on, see `Manifest.data_sha256`.
    """

    model_id: str
    seed: int
    arch: str
    options: dict[str, Any]
    edits: list[Edit]
    method: str | None
    init: str | None
    init_sha256: str | None
    parents: dict[str, Parent]
    classes: list[str]
    in_channels: int
    height: int
    width: int
    mean: list[float]
    std: list[float]
    quantized: bool
    epochs: int
    data_sha256: str
    params: int
    macs: int
    weight_bytes: int
    onnx_bytes: int
    sha256: dict[FileName, str]

    @property
    def parent(self) -> str | None:
        """Model id of what it was made from or, first, taught by."""
        return next((parent.model_id for role, parent in self.parents.items() if role in FIRST), None)

    @property
    def parent_sha256(self) -> str | None:
        """Hash of that parent's weights."""
        return next((parent.sha256 for role, parent in self.parents.items() if role in FIRST), None)

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of an image, (C, H, W)."""
        return self.in_channels, self.height, self.width

    @property
    def weights_sha256(self) -> str:
        """Hash of the file that holds the weights."""
        return self.sha256[ONNX if self.quantized else WEIGHTS]

    def feeding(self) -> dict[str, str]:
        """Return how the model is fed, as its ONNX file says it: text by key, lists in JSON."""
        return {
            "alpha": "composited on white",
            "channel_order": "grey" if self.in_channels == 1 else "RGB",
            "classes": json.dumps(self.classes, ensure_ascii=False),
            "exif_orientation": "applied",
            "height": str(self.height),
            "layout": "NCHW",
            "mean": json.dumps(self.mean),
            "model_id": self.model_id,
            "normalization": "(pixel / 255 - mean) / std, for each channel",
            "output": "logits, one for each class; their softmax are probabilities",
            "resize": "shorter side to the model's size, bilinear with antialiasing; then the centre is cropped",
            "std": json.dumps(self.std),
            "width": str(self.width),
        }


@dataclass(frozen=True)
class Loaded:
    """A model from disk: a module in eval mode on the CPU, its spec, and the folder where it was found."""

    network: nn.Module
    spec: Spec
    folder: Path


def save_model(folder: Path, spec: Spec, contents: dict[str, bytes]) -> Spec:
    """Write the files of one model and, last, its spec with their hashes; returns that spec."""
    spec = spec.model_copy(update={"sha256": {name: files.sha256_bytes(data) for name, data in contents.items()}})
    for name, data in contents.items():
        files.write_bytes(folder / name, data)
    files.write_sealed(folder / SPEC, spec.model_dump())
    return spec


def weights_as_bytes(network: nn.Module) -> bytes:
    """Return the state of `network` as a safetensors file."""
    return tensors_as_bytes(network.state_dict())


def tensors_as_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return `tensors` as a safetensors file."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def read_spec(folder: Path) -> Spec:
    """Read the spec of a model folder.

    Raises:
        ArtifactError: it is missing, damaged or not a spec.
    """
    raw = files.read_sealed(folder / SPEC, _remedy(folder))
    try:
        return parse(Spec, raw, "spec")
    except ConfigError as error:
        fault = str(error).splitlines()[0]
        raise ArtifactError(f"{folder / SPEC} is not the spec of a model ({fault}); {_remedy(folder)}") from None


def read_file(folder: Path, spec: Spec, name: str) -> bytes:
    """Read one file of a model and check its hash.

    Raises:
        ArtifactError: the file is missing, or is not the one that was written.
    """
    return files.read_checked(folder / name, spec.sha256.get(name, ""), _remedy(folder))


def load_model(folder: Path | str) -> tuple[nn.Module, Spec]:
    """Load a model, ready to use.

    Args:
        folder: `models/<stage>/<variant>` (its shipped seed) or one `seed_<k>` below it.

    Returns:
        The module in eval mode on the CPU, from (N, C, H, W) float32, normalized by the spec's mean and
        std, to (N, classes) logits; and its spec. A quantized model's module wraps an onnxruntime session.

    Raises:
        ArtifactError: any file is missing, damaged or does not fit the spec; names file and remedy.
    """
    loaded = load(Path(folder))
    return loaded.network, loaded.spec


def load(folder: Path) -> Loaded:
    """Load a model together with the folder where it was found; see `load_model`."""
    folder = seed_folder(folder, None)
    spec = read_spec(folder)
    contents = {name: read_file(folder, spec, name) for name in spec.sha256}
    if spec.quantized:
        from netpress.core.export import OnnxModule

        return Loaded(OnnxModule(contents[ONNX], torch.get_num_threads()).eval(), spec, folder)
    try:
        weights = tensors_from_bytes(contents[WEIGHTS], folder / WEIGHTS)
        network = rebuild(spec.arch, len(spec.classes), spec.in_channels, spec.options, spec.edits, weights)
    except KeyError:
        raise ArtifactError(f"{folder / SPEC} names no {WEIGHTS}; {_remedy(folder)}") from None
    except (ArtifactError, ConfigError) as error:
        raise ArtifactError(f"{folder}: {error}; {_remedy(folder)}") from None
    return Loaded(network, spec, folder)


def tensors_from_bytes(data: bytes, path: Path) -> dict[str, Tensor]:
    """Read the content of the safetensors file `path`.

    Raises:
        ArtifactError: it is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as load_tensors

    try:
        # Cloned, since where bytes of a file come to lie in memory can decide how kernels round.
        return {name: tensor.clone() for name, tensor in load_tensors(data).items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path} is not a safetensors file ({error})") from None


def seed_folder(folder: Path, seed: int | None) -> Path:
    """Return the folder of a model's `seed`, of its only seed, or (seed None) of the shipped one.

    Raises:
        ArtifactError: there is no model, or not of that seed.
    """
    if (folder / SPEC).is_file():
        return folder
    known = read_seeds(folder)
    chosen = known[0] if known and (seed is None or len(known) == 1) else seed
    if chosen not in known:
        raise ArtifactError(f"{folder} has no seed {seed}, only {known}; list the same seeds in params.yaml")
    return folder / f"seed_{chosen}"


def read_seeds(folder: Path) -> list[int]:
    """Return which seeds a variant's folder holds; the first is the shipped one.

    Raises:
        ArtifactError: the list is missing or damaged.
    """
    known: list[int] = files.read_sealed(folder / SEEDS, _remedy(folder)).get("seeds", [])
    return known


def write_seeds(folder: Path, seeds: list[int]) -> None:
    """Record which seeds a variant's folder holds; the first is the shipped one."""
    files.write_sealed(folder / SEEDS, {"seeds": seeds})


def write_metrics(root: Path, result: str, metrics: dict[str, Any]) -> None:
    """Write the metrics of a model id, or of `test/<model id>`."""
    files.write_sealed(metrics_file(root, result), metrics)


def _remedy(folder: Path) -> str:
    # DVC restores what its cache holds, also where that is damaged (treeverse/dvc #5978): then only force helps.
    if not folder.exists():
        return f"run 'dvc pull' if a DVC remote holds {folder.as_posix()}, or 'dvc repro' to make it"
    return f"run 'dvc repro' to make {folder.as_posix()} again, with --force if that does not help"
