"""An item and its parents against the prepared data: what follows from them, and what does not fit them."""

from typing import Any

from netpress.base.errors import ArtifactError, ParamsError
from netpress.base.project import PREPARED
from netpress.core.artifacts import Spec
from netpress.core.batches import enough_epochs, sized
from netpress.core.dataset import Manifest
from netpress.params.items import RECIPE_KEYS, VariantConfig
from netpress.params.schema import AUTO


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
