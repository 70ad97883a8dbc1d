"""A variant's stage at its beginning: config, data on the device, parents, and all that its results follow from."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from netpress.base.errors import ArtifactError, ConfigError, ParamsError
from netpress.base.files import sha256_bytes
from netpress.base.model_id import ModelId
from netpress.base.project import PREPARED
from netpress.core import artifacts
from netpress.core.artifacts import Loaded, Spec
from netpress.core.batches import Batch, DeviceSplit, device_split, enough_epochs, sized, training_batches
from netpress.core.dataset import Manifest, load_manifest
from netpress.core.engine import History, Objective, Schedule, fit
from netpress.core.resume import Workspace, code_hashes
from netpress.params import plugins, reader
from netpress.params.families import code_of
from netpress.params.items import RECIPE_KEYS, Recipe, Runtime, VariantConfig, parents_of
from netpress.params.schema import AUTO, parse
from netpress.process import environment
from netpress.process.environment import Environment


@dataclass(frozen=True)
class Start:
    """Weights trained elsewhere from which a training begins: what `init` says, the file's hash, and how to load it."""

    init: str
    sha256: str
    load_into: Callable[[nn.Module], None]


@dataclass(frozen=True)
class Method:
    """A file that an item names, imported, and its options, parsed."""

    name: str
    module: ModuleType
    options: Any


@dataclass(frozen=True)
class Context:
    """Everything that one variant's stage works with, as it was when the stage began.

    Attributes:
        root: the project's folder.
        model_id: `<section>/<variant>`.
        config: the item, its recipes, seeds and runtime; `auto` is already a number.
        manifest: of the data.
        device: where the networks are.
        parents: role -> seed -> the parent's spec.
        code: file -> sha256 of the code from which the results follow.
        environment: where the stage computes.
        start: the weights with which its networks begin, if they were trained elsewhere.
    """

    root: Path
    model_id: ModelId
    config: VariantConfig
    manifest: Manifest
    device: torch.device
    parents: dict[str, dict[int, Spec]]
    code: dict[str, str]
    environment: Environment
    start: Start | None = None

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
    def classes(self) -> list[str]:
        """The names of the classes: the item's own, or its parent's, or those of the data."""
        specs = [*self.parents.get("from", {}).values()]
        return getattr(self.item, "class_names", None) or (specs[0].classes if specs else list(self.manifest.classes))

    @property
    def control_recipe(self) -> Recipe:
        """The recipe of the item's controls."""
        if self.config.control_recipe is None:
            raise ConfigError(f"{self.model_id} names no control_recipe")
        return self.config.control_recipe

    def split(self, name: str) -> DeviceSplit:
        """Return the split `train` or `val` on the device; it is read once."""
        return self.train if name == "train" else self.val

    @cached_property
    def train(self) -> DeviceSplit:
        """The training images on the device."""
        return device_split(self.root, "train", self.manifest, self.device, self.config.runtime)

    @cached_property
    def val(self) -> DeviceSplit:
        """The validation images on the device."""
        return device_split(self.root, "val", self.manifest, self.device, self.config.runtime)

    def parent(self, seed: int, role: str = "") -> Loaded:
        """Load the parent of this seed, or its only one, in one of the item's roles; by default the first role.

        Raises:
            ArtifactError: it is damaged, or has been made again since the stage began.
        """
        role = role or self.item.roles[0]
        loaded = artifacts.load(_parent_folder(self.root, self.item, role, seed))
        if loaded.spec != self.parents[role][seed]:
            raise ArtifactError(f"{loaded.folder} was made again meanwhile; run this stage again")
        return loaded

    def method(self, key: str = "method") -> Method:
        """Return the file that the item names under `key`, with its options; for a fault see `run_seeds`."""
        choice = next(choice for choice in self.item.choices if choice.key == key)
        name = getattr(self.item, key)
        module = plugins.load(choice.folder, name, key)
        return Method(name, module, parse(module.Options, getattr(self.item, choice.options), choice.options))

    def batches(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield the training batches that the item's recipe gives in one epoch, counted from 0."""
        recipe = self.recipe
        return training_batches(self.train, recipe.augment, recipe.label_smoothing, recipe.batch_size, seed, epoch)

    def fit(
        self,
        work: Workspace,
        name: str,
        network: nn.Module,
        seed: int,
        objective: Objective | None = None,
        first_epoch: int = 0,
        epochs: int | None = None,
        recipe: Recipe | None = None,
        label: str = "",
    ) -> History:
        """Train `network` in place, and leave it on the device; see `engine.fit`.

        Args:
            work: where the seed is made; the checkpoint is kept there under `name`.
            name: of this training among those of the seed.
            network: what to train.
            seed: draws order and augmentation.
            objective: the loss to lower; cross-entropy if there is none.
            first_epoch: the epochs before this training that saw other views.
            epochs, recipe: the item's, unless given.
            label: shown with the progress after the model and the seed.
        """
        schedule = Schedule(recipe or self.recipe, self.item.epochs if epochs is None else epochs, seed, first_epoch)
        return fit(
            network.to(self.device),
            self.train,
            self.val,
            schedule,
            self.config.runtime,
            f"{work.label} {label}".strip(),
            objective,
            work.checkpoint(name),
        )

    def fingerprint(self, seed: int) -> str:
        """Return a hash of all that one seed follows from."""
        facts = {
            "model_id": self.model_id,
            "seed": seed,
            "config": self.config.model_dump(exclude={"seeds", "item"})
            | {"item": self.item.model_dump(exclude={"seeds"})},
            "data": self.manifest.model_dump(),
            "parents": {role: specs[seed].sha256 for role, specs in self.parents.items()},
            "start": self.start.sha256 if self.start else None,
            "environment": self.environment,
            "code": self.code,
        }
        return sha256_bytes(json.dumps(facts, sort_keys=True, allow_nan=False).encode())


def open_context(root: Path, section: str, variant: str) -> Context:
    """Read the variant's config, the manifest and the parents' specs, and set up the device."""
    read = reader.for_variant(root / "params.yaml", section, variant)
    device = set_up(read.runtime)
    parents = {
        role: {seed: artifacts.read_spec(_parent_folder(root, read.item, role, seed)) for seed in read.seeds}
        for role in parents_of(read.item)
    }
    code = code_hashes(root, code_of(section, read.item))
    manifest = load_manifest(root / PREPARED)
    for spec in (spec for specs in parents.values() for spec in specs.values()):
        require_same_data(spec, manifest)
    here = environment_of(read.runtime, device)
    config = fitted(read, sum(manifest.counts["train"]))
    model_id = ModelId(f"{section}/{variant}")
    check_feeding(read.item, manifest, model_id.key)
    manifest = fed(manifest, read.item, parents)
    return Context(root, model_id, config, manifest, device, parents, code, here)


def fed(manifest: Manifest, item: Any, parents: dict[str, dict[int, Spec]]) -> Manifest:
    """Return `manifest` with the normalization of the item's networks: their own, or that of what they start from."""
    own = getattr(item, "normalization", None) or next(iter(parents.get("from", {}).values()), None)
    return manifest.model_copy(update={"mean": list(own.mean), "std": list(own.std)}) if own else manifest


def check_feeding(item: Any, manifest: Manifest, where: str) -> None:
    """Raise unless an item's own normalization and class names, if any, are as many as the data have.

    Raises:
        ParamsError: they are not, or the names are those of the data in another order.
    """
    own, names = getattr(item, "normalization", None), getattr(item, "class_names", None)
    if own and not len(own.mean) == len(own.std) == manifest.channels:
        text = (
            f"states {len(own.mean)} means and {len(own.std)} deviations; the images have {manifest.channels} channels"
        )
        raise ParamsError([(f"{where}.normalization", f"{where}.normalization: {text}")])
    key = f"{where}.class_names"
    if names and len(names) != len(manifest.classes):
        text = f"{len(names)} names; the data have {len(manifest.classes)} classes"
        raise ParamsError([(key, f"{key}: {text}")])
    if names and names != list(manifest.classes) and sorted(names) == sorted(manifest.classes):
        text = (
            f"another order than that of the labels ({', '.join(manifest.classes[:5])}, ...): the answers would not fit"
        )
        raise ParamsError([(key, f"{key}: {text}")])


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


def _parent_folder(root: Path, item: Any, role: str, seed: int) -> Path:
    return artifacts.seed_folder(parents_of(item)[role].folder(root), seed)


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
