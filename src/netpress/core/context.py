"""A variant's stage at its beginning: config, data on the device, parents, and all that its results follow from."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netpress.base.errors import ArtifactError, ConfigError, ParamsError
from netpress.base.files import sha256_bytes
from netpress.base.project import PREPARED, model_folder
from netpress.core import artifacts
from netpress.core.artifacts import Loaded, Spec
from netpress.core.batches import DeviceSplit, device_split, enough_epochs, sized
from netpress.core.dataset import Manifest, load_manifest
from netpress.core.resume import code_hashes, of_members
from netpress.params import reader
from netpress.params.items import RECIPE_KEYS, Recipe, Runtime, VariantConfig, parent_of
from netpress.params.schema import AUTO
from netpress.process import environment
from netpress.process.environment import Environment


@dataclass(frozen=True)
class Start:
    """Weights trained elsewhere from which a training begins: what `init` says, the file's hash, and how to load it."""

    init: str
    sha256: str
    load_into: Callable[[nn.Module], None]


@dataclass(frozen=True)
class Bench:
    """One variant's stage at work: its config, the data, and what it follows from as it was when the stage began.

    `parents` are the specs of each seed's parent or teacher, `code` the hashes of the source files, `environment` where
    the stage computes, `start` the weights with which its networks begin, if they were trained elsewhere.
    """

    root: Path
    model_id: str
    config: VariantConfig
    manifest: Manifest
    device: torch.device
    parents: dict[int, Spec]
    code: dict[str, str]
    environment: Environment
    start: Start | None = None

    @property
    def key(self) -> str:
        """The dotted key of the variant's item."""
        return "prune" if self.model_id == "prune/main" else self.model_id.replace("/", ".")

    @property
    def item(self) -> Any:
        """The variant's item of params.yaml."""
        return self.config.item

    @property
    def recipe(self) -> Recipe:
        """The item's recipe."""
        if self.config.recipe is None:
            raise ConfigError(f"{self.model_id} names no recipe")
        return self.config.recipe

    @property
    def control_recipe(self) -> Recipe:
        """The recipe of the item's controls."""
        if self.config.control_recipe is None:
            raise ConfigError(f"{self.model_id} names no control_recipe")
        return self.config.control_recipe

    def split(self, name: str) -> DeviceSplit:
        """Load one split onto the device."""
        return device_split(self.root, name, self.manifest, self.device, self.config.runtime)

    def parent(self, seed: int) -> Loaded:
        """Load the parent's or teacher's model of this seed, or its only one.

        Raises:
            ArtifactError: it is damaged, or has been made anew since the stage began.
        """
        loaded = artifacts.load(_parent_folder(self.root, self.item, seed))
        if loaded.spec != self.parents[seed]:
            raise ArtifactError(f"{loaded.folder} was made anew meanwhile; run this stage again")
        return loaded

    def fingerprint(self, seed: int) -> str:
        """Return a hash of all that one seed follows from."""
        item, parent = self.item, self.parents.get(seed)
        members = {f"models/{arch}.py" for arch in (getattr(item, "arch", None), parent and parent.arch) if arch}
        if hasattr(item, "method"):
            members.add(f"{item.family}/{item.method}.py")
        facts = {
            "model_id": self.model_id,
            "seed": seed,
            "config": self.config.model_dump(exclude={"seeds", "item"}) | {"item": item.model_dump(exclude={"seeds"})},
            "data": self.manifest.model_dump(),
            "parent": parent.sha256 if parent else None,
            "start": self.start.sha256 if self.start else None,
            "environment": self.environment,
            "code": of_members(self.code, members),
        }
        return sha256_bytes(json.dumps(facts, sort_keys=True, allow_nan=False).encode())


def open_bench(root: Path, stage: str, variant: str) -> Bench:
    """Read the variant's config, the manifest and the parents' specs, and set up the device."""
    variant_config = reader.for_variant(root / "params.yaml", stage, variant)
    device = set_up(variant_config.runtime)
    item, parents = variant_config.item, {}
    if parent_of(item):
        parents = {seed: artifacts.read_spec(_parent_folder(root, item, seed)) for seed in variant_config.seeds}
    code = code_hashes(root / "stages" / f"{'prune' if stage == 'prune_sweep' else stage}.py")
    manifest = load_manifest(root / PREPARED)
    for parent in parents.values():
        require_same_data(parent, manifest)
    here = environment_of(variant_config.runtime, device)
    config = fitted(variant_config, sum(manifest.counts["train"]))
    return Bench(root, f"{stage}/{variant}", config, manifest, device, parents, code, here)


def fitted(config: VariantConfig, images: int) -> VariantConfig:
    """Return `config` with the batch sizes and epochs that its recipes mean for `images` training images."""
    changes: dict[str, Any] = {}
    for key, epochs_key in zip(RECIPE_KEYS, ("epochs", "control_epochs"), strict=True):
        if recipe := getattr(config, key):
            recipe = sized(recipe, images)
            changes[key] = recipe
            stated = getattr(config.item, epochs_key)
            if stated != AUTO:
                item = changes.get("item", config.item)
                changes["item"] = item.model_copy(update={epochs_key: enough_epochs(recipe, stated, images)})
    return config.model_copy(update=changes)


def require_same_data(spec: Spec, manifest: Manifest) -> None:
    """Raise unless the model of `spec` was trained and validated on the images that `manifest` describes.

    Otherwise images that it was trained on may be among those on which its children are judged.

    Raises:
        ArtifactError: names the model, how the data differ, and the way out.
    """
    if spec.data_sha256 == manifest.data_sha256:
        return
    size = manifest.resolution
    differences = [
        f"{spec.height}x{spec.width} pixels and not {size}x{size}" if (spec.height, spec.width) != (size, size) else "",
        f"{spec.in_channels} channels and not {manifest.channels}" if spec.in_channels != manifest.channels else "",
        "other classes" if spec.classes != list(manifest.classes) else "",
    ]
    how = ", ".join(filter(None, differences)) or "other images, or another split of them"
    raise ArtifactError(
        f"models/{spec.model_id} (seed {spec.seed}) was made with other data than those in {PREPARED.as_posix()}: "
        f"{how}; run 'dvc repro' to train it again on these, or set the section data of params.yaml back"
    )


def _parent_folder(root: Path, item: Any, seed: int) -> Path:
    parent = parent_of(item)
    if parent is None:
        raise ConfigError("the variant names no parent")
    return artifacts.seed_folder(model_folder(root, parent), seed)


def set_up(runtime: Runtime) -> torch.device:
    """Fix threads and algorithms, so that the same commit gives the same bits; return the device.

    Raises:
        ParamsError: CUDA is asked for and there is none.
    """
    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32
    if runtime.device == "cuda" and not torch.cuda.is_available():
        text = "runtime.device = 'cuda': PyTorch finds no CUDA device here; set it to cpu or auto"
        raise ParamsError([("runtime.device", text)])
    if runtime.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    return torch.device("cuda")


def environment_of(runtime: Runtime, device: torch.device) -> Environment:
    """Describe where this process computes."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return environment.current(
        device=f"cuda ({gpu}, CUDA {torch.version.cuda})" if gpu else device.type,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=runtime.threads,
        precision=runtime.precision,
        channels_last=runtime.channels_last,
        compile=runtime.compile,
    )
