"""Everything that one variant's stage works with: config, data on the device, parents, what its results follow from."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any

import torch
from torch import nn

from netpress.base.errors import ArtifactError, ConfigError, ParamsError
from netpress.base.files import sha256_bytes
from netpress.base.model_id import ModelId
from netpress.base.project import PREPARED
from netpress.core import artifacts
from netpress.core.artifacts import Loaded, Spec
from netpress.core.batches import Batch, training_batches
from netpress.core.dataset import Manifest, load_manifest
from netpress.core.engine import History, Objective, Schedule, fit
from netpress.core.export import Graphs
from netpress.core.fitting import check_feeding, fed, fitted, require_same_data
from netpress.core.ranks import shared_out
from netpress.core.resume import Workspace, code_hashes
from netpress.core.runtime import devices_of, environment_of, set_up
from netpress.core.splits import DeviceSplit, device_split
from netpress.params import plugins, reader
from netpress.params.families import code_of
from netpress.params.items import VariantConfig, parents_of
from netpress.params.recipes import Recipe
from netpress.params.schema import parse
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

    def call(self, function: str, *arguments: Any, gives: tuple[Any, ...]) -> Any:
        """Call a function of the file.

        Raises:
            ParamsError: what it returns is of none of the types `gives`.
        """
        value = getattr(self.module, function)(*arguments)
        if not isinstance(value, gives):
            kinds = " or ".join("None" if kind is NoneType else kind.__name__ for kind in gives)
            raise self.unfit(f"{function} returned {plugins.in_words(value)}; return {kinds}")
        return value

    def unfit(self, text: str) -> ParamsError:
        """Return the error of a file that does not do what its family's files do."""
        return ParamsError([("method", f"method = {self.name}: {text}")])


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
        graphs: those of the networks that are exported so far, since seeds have one structure.
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
    graphs: Graphs = field(default_factory=dict)

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
    """Read the variant's config, the manifest and the parents' specs, and set up the device.

    Where several devices share the training, other processes come to its end, and this one does not come back.
    """
    read = reader.for_variant(root / "params.yaml", section, variant)
    device, model_id = set_up(read.runtime), ModelId(f"{section}/{variant}")
    if read.item.epochs:  # else nothing is trained
        root = shared_out(root, model_id, devices_of(read.runtime), device)
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
    check_feeding(read.item, manifest, model_id.key)
    manifest = fed(manifest, read.item, parents)
    return Context(root, model_id, config, manifest, device, parents, code, here)


def _parent_folder(root: Path, item: Any, role: str, seed: int) -> Path:
    return artifacts.seed_folder(parents_of(item)[role].folder(root), seed)
