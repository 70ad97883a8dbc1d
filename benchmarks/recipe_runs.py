"""The runs of `benchmarks/recipes.py`: what each follows from, what it costs, and the lines of those that are done."""

import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from netpress.base import files
from netpress.base.errors import ConfigError, ParamsError
from netpress.base.model_id import ModelId
from netpress.base.project import PREPARED
from netpress.core.batches import enough_epochs, sized
from netpress.core.dataset import Manifest, load_manifest
from netpress.core.measure import count_macs
from netpress.core.networks import build_model
from netpress.core.progressive_resizing import side_in
from netpress.core.resume import code_hashes
from netpress.params.document import parse_document
from netpress.params.families import code_of
from netpress.params.items import NONE, Design
from netpress.params.recipes import Recipe
from netpress.params.schema import parse
from netpress.params.whole import Params

BASELINE = "baseline"
#: Operations of training a multiply-add of the forward pass: 2, and as many again for each of the two gradients.
OPERATIONS = 6
Line = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run, and all that it follows from; `recipe` has its batch size, `images` is 0 for all of them."""

    network: str
    variation: str
    share: float
    seed: int
    epochs: int
    images: int
    arch: str
    options: dict[str, Any]
    recipe: dict[str, Any]
    runtime: dict[str, Any]
    data: str
    code: str

    def done_in(self, lines: list[Line]) -> Line | None:
        """Return the line of this very run, if there is one."""
        facts = json.loads(json.dumps(asdict(self)))
        return next((line for line in lines if facts.items() <= line.items()), None)


@dataclass(frozen=True)
class Plan:
    """What is compared: networks by recipes, for shares of their epochs (`epochs`, or 0: their own), over seeds."""

    networks: list[str]
    variations: list[str]
    shares: list[float]
    seeds: list[int]
    epochs: int
    images: int


def varied(recipe: Recipe, variation: str) -> Recipe:
    """Return `recipe` with the keys that `variation` states, such as `resize_from=0.5,augment.flip=alternating`.

    Raises:
        ParamsError: a key is unknown, or a value out of range.
    """
    raw = recipe.model_dump()
    for change in variation.split(",") if variation != BASELINE else []:
        key, _, text = change.strip().partition("=")
        place = raw["augment"] if key.startswith("augment.") else raw
        name = key.removeprefix("augment.")
        if name not in place or name == "augment" or not text:
            known = [*(k for k in raw if k != "augment"), *(f"augment.{k}" for k in raw["augment"])]
            fault = f"--vary {variation}: '{change}' is no KEY=VALUE of a recipe; keys: {', '.join(known)}"
            raise ParamsError([("--vary", fault)])
        place[name] = parse_document(f"value: {text}".encode(), "--vary").values["value"]
    return parse(Recipe, raw, f"--vary {variation}")


def network_of(params: Params, name: str) -> Design:
    """Return the item of a network that is trained from scratch on the labels.

    Raises:
        ConfigError: there is none of this name.
    """
    items = params.items()
    known = [key for key, item in items.items() if type(item) is Design or getattr(item, "init", "") == NONE]
    if name not in known:
        text = f"no network of train or lowrank of this name that begins from scratch; known: {', '.join(known)}"
        raise ConfigError(f"{name}: {text}")
    found: Design = items[name]
    return found


def jobs_of(root: Path, params: Params, plan: Plan) -> list[Job]:
    """Return the runs, seed by seed, so that what is done at any time compares.

    Raises:
        ConfigError: a network is not one that is trained from scratch on the labels, or a variation is none.
    """
    manifest = load_manifest(root / PREPARED)
    count = image_count(manifest, plan.images)
    runtime = params.runtime.model_copy(update={"threads": 1})
    found = []
    for name in plan.networks:
        item = network_of(params, name)
        code = json.dumps(code_hashes(root, code_of(ModelId(name).section, item)), sort_keys=True)
        for variation in dict.fromkeys([BASELINE, *plan.variations]):
            recipe = sized(varied(params.recipes[item.recipe], variation), count)
            whole = plan.epochs or enough_epochs(recipe, item.epochs, count)
            for seed in plan.seeds:
                for share in plan.shares:
                    job = Job(
                        network=name,
                        variation=variation,
                        share=share,
                        seed=seed,
                        epochs=max(1, round(share * whole)),
                        images=plan.images,
                        arch=item.arch,
                        options=item.options,
                        recipe=recipe.model_dump(),
                        runtime=runtime.model_dump(),
                        data=manifest.data_sha256,
                        code=files.sha256_bytes(code.encode())[:16],
                    )
                    found.append(job)
    return sorted(found, key=lambda job: plan.seeds.index(job.seed))


def image_count(manifest: Manifest, images: int) -> int:
    """Return how many training images there are, at most `images` if that is not 0."""
    whole = sum(manifest.counts["train"])
    return min(images, whole) if images else whole


def operations(root: Path, job: Job) -> int | None:
    """Return the operations of training in a run, with the side that its images have in every epoch.

    None if the network does not take images as small as its recipe makes them.
    """
    manifest, recipe = load_manifest(root / PREPARED), Recipe(**job.recipe)
    count, options = image_count(manifest, job.images), json.dumps(job.options)
    sides = [side_in(recipe, epoch, job.epochs, manifest.resolution) for epoch in range(job.epochs)]
    shape = len(manifest.classes), manifest.channels
    each = {side: _macs(job.arch, options, *shape, side) for side in {manifest.resolution, *sides}}
    known = [each[side] for side in sides]
    return None if None in known else OPERATIONS * count * sum(macs or 0 for macs in known)


@functools.cache
def _macs(arch: str, options: str, classes: int, channels: int, side: int) -> int | None:
    """Return the multiply-adds of an architecture with the JSON `options` for one image, or None if it takes none."""
    network = build_model(arch, classes, channels, **json.loads(options))
    try:
        return count_macs(network, channels, side, side)
    except Exception:  # whatever the network's layers raise
        return None


def read_lines(path: Path) -> list[Line]:
    """Read the results; a last line that was cut off when the process was ended is removed from the file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        files.write_bytes(path, whole.encode())
    return [json.loads(line) for line in whole.splitlines()]
