"""Made-up but plausible metrics for every model of a params file."""

import hashlib
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netpress.base import files
from netpress.base.model_id import CONTROL, ModelId
from netpress.base.project import PREPARED
from netpress.core.dataset import MANIFEST, Manifest
from netpress.core.metrics import packed
from netpress.params.reader import load
from netpress.params.whole import Params
from netpress.report.collect import Study, collect
from netpress.report.curves import CONTROL_VAL_ACC

#: Validation images that the metrics speak of.
IMAGES = 2000
DEFAULT = Path(__file__).parent.parent / "profiles" / "default.yaml"
#: Accuracy and parameters of networks trained from the start.
TRAINED: dict[str, tuple[float, int]] = {
    "train/resnet18_weak": (0.842, 701_000),
    "train/resnet18_strong": (0.9187, 2_800_000),
    "train/student_alone": (0.8893, 412_000),
    "train/large_cnn": (0.9222, 3_414_000),
    "train/plain_cnn": (0.9021, 275_000),
    "distill/kd_weak": (0.8931, 412_000),
    "distill/kd_strong": (0.9007, 412_000),
    "distill/plain_kd": (0.9094, 275_000),
    "lowrank/large_depthwise": (0.9044, 378_000),
    "lowrank/compact_plain": (0.9141, 248_000),
    "lowrank/compact_groups2": (0.9101, 254_000),
    "lowrank/compact_depthwise": (0.8995, 252_000),
    "factorize/spatial_budget": (0.9188, 1_290_000),
}


#: What is made of them.
OTHERS = (
    *("prune_sweep/resnet18_rate50", "quantize/resnet18_fp16", "quantize/resnet18_int8"),
    *("quantize/student_int8", "quantize/student_gptq4", "quantize/pruned_int8"),
)


def sample_params(**changes: Any) -> Params:
    """Return profiles/default.yaml with some sections replaced (validated models, not raw YAML).

    What the profile has beside the models of `TRAINED` and `OTHERS` is left out, so that adding one changes no table;
    a curve of another network is added.
    """
    whole = load(DEFAULT)
    known = {*TRAINED, *OTHERS}
    sections = {
        section: {name: item for name, item in getattr(whole, section).items() if f"{section}/{name}" in known}
        for section in ("train", "distill", "lowrank", "factorize", "prune_sweep", "quantize")
    }
    of_the_last = sections["quantize"]["pruned_int8"].model_copy(update={"parent": ModelId("prune/main")})
    sections["quantize"] |= {"pruned_int8": of_the_last}
    of_the_student = {"parent": ModelId("distill/kd_strong"), "rate": 0.3}
    sections["prune_sweep"] |= {
        "student_rate30": sections["prune_sweep"]["resnet18_rate50"].model_copy(update=of_the_student)
    }
    claims = {
        name: claim for name, claim in whole.claims.items() if not any(n.endswith(CONTROL) for n in claim.order)
    }  # the samples have no controls
    return whole.model_copy(update={"claims": claims} | sections | changes)


def write_metrics(root: Path, params: Params, seeds: int = 1, controls: bool = False) -> dict[str, dict[str, Any]]:
    """Write the metrics files of every model and of `final` below `root`; returns them by model id.

    Pruned rounds have the controls that their items ask for only where `controls` says so.
    """
    made: dict[str, dict[str, Any]] = {}
    for model_id, item in params.items().items():
        stage = model_id.split("/")[0]
        if stage == "quantize":
            made[model_id] = _quantized(model_id, item, made)
        elif stage in ("prune", "prune_sweep"):
            made[model_id] = _pruned(model_id, item, made[item.parent])
        else:
            made[model_id] = _trained(model_id, item)
    for model_id, metrics in made.items():
        metrics |= {"seeds": list(range(seeds)), "val_images": IMAGES, "val_images_sha256": "0" * 64}
        for number, row in enumerate((metrics, *metrics.get("rounds", []))):
            spread = [row["val_acc"] + 0.002 * (seed - (seeds - 1) / 2) for seed in range(seeds)]
            by_seed = [round(IMAGES * accuracy) / IMAGES for accuracy in spread]
            row |= {"val_acc_by_seed": by_seed, "val_acc_right": right(f"{model_id} {number}", by_seed)}
            row["val_acc"] = statistics.fmean(by_seed)
            if seeds > 1:
                row |= {"n_seeds": seeds, "val_acc_std": 0.0021}
        for number in params.items()[model_id].control_rounds if controls and "rounds" in metrics else ():
            row = metrics["rounds"][number or -1]
            row |= {CONTROL_VAL_ACC: row["val_acc"], f"{CONTROL_VAL_ACC}_right": row["val_acc_right"]}
        write(root, model_id, metrics)
    for model_id in params.final:
        base, _, number = model_id.partition("/round_")
        row = made[base]["rounds"][int(number)] if number else made[base]
        test = {"test_acc": row["val_acc"] - 0.004, "n_images": 3000, "weights_sha256": row["weights_sha256"]}
        write(root, f"test/{model_id}", test)
    return made


def right(name: str, accuracies: Sequence[float]) -> list[str]:
    """Return which of `IMAGES` images are named right at these accuracies, one for each seed, as metrics keep it.

    Images are as hard for one network as for another, but for a little that is the network's and the seed's own.
    """
    hard = np.random.default_rng(0).random(IMAGES)
    found = []
    for seed, accuracy in enumerate(accuracies):
        own = np.random.default_rng([seed, *name.encode()]).normal(0, 0.03, IMAGES)
        place = np.argsort(np.argsort(hard + own))
        found.append(packed(place < round(accuracy * IMAGES)))
    return found


def study_in(root: Path, params: Params) -> Study:
    """Collect the metrics below `root` as the stage does."""
    return collect(root, params.items(), params.final, params.claims, params.experiments)


def write(root: Path, model_id: str, metrics: dict[str, Any]) -> None:
    """Write one metrics file."""
    files.write_sealed(root / "metrics" / f"{model_id}.json", metrics)


def write_manifest(root: Path, sha256: dict[str, str]) -> None:
    """Write the manifest of prepared data: four images of two classes, files of these hashes."""
    counts = ("duplicates", "conflicts", "overlaps", "dropped", "near_duplicates", "skipped", "unlabelled")
    manifest = Manifest(
        source="x",
        classes=["a", "b"],
        channels=1,
        resolution=1,
        counts={"train": [2, 2]},
        mean=[0.0],
        std=[1.0],
        sha256=sha256,
        notes=[],
        **dict.fromkeys(counts, 0),
    )
    (root / PREPARED).mkdir(parents=True, exist_ok=True)
    files.write_sealed(root / PREPARED / MANIFEST, manifest.model_dump())


def _measures(name: str, accuracy: float, params: int) -> dict[str, Any]:
    return {
        "val_acc": round(accuracy, 4),
        "val_acc_best": round(accuracy + 0.001, 4),
        "val_loss": 0.31,
        "params": params,
        "macs": 37 * params,
        "weight_bytes": 4 * params,
        "onnx_bytes": 4 * params + 11_000,
        "checkpoint_bytes": 4 * params + 8_000,
        "weights_sha256": hashlib.sha256(name.encode()).hexdigest(),
    }


def _trained(model_id: str, item: Any) -> dict[str, Any]:
    accuracy, params = TRAINED.get(model_id, (0.88, 300_000))
    kinds = {"arch": getattr(item, "arch", "large_cnn"), "method": getattr(item, "method", None)}
    found = {"train_acc": accuracy + 0.03, "val_ece": 0.021, "val_acc_by_class": [accuracy - 0.01, accuracy + 0.01]}
    if hasattr(item, "teacher"):
        found |= {"teacher_agreement": 0.93}
    return _measures(model_id, accuracy, params) | kinds | found | {"epochs": item.epochs, "n_seeds": 1}


def _pruned(model_id: str, item: Any, parent: dict[str, Any]) -> dict[str, Any]:
    count = math.ceil(math.log(item.until) / (2 * math.log(1 - item.rate)))
    rounds = []
    for number in range(count + 1):
        channels = (1 - item.rate) ** number
        accuracy = parent["val_acc"] - 0.003 * number**2
        row = _measures(f"{model_id}/{number}", accuracy, int(parent["params"] * channels**2))
        if number == 0:
            row = {key: parent[key] for key in row}
        rounds.append(row | {"round": number, "rate": item.rate, "channels_share": channels, "epochs_total": number})
    kinds = {"arch": parent["arch"], "method": item.method, "epochs": item.epochs, "n_seeds": 1}
    return rounds[-1] | kinds | {"rounds": rounds}


def _quantized(model_id: str, item: Any, made: dict[str, dict[str, Any]]) -> dict[str, Any]:
    base, _, number = item.parent.partition("/round_")
    parent = made[base]["rounds"][int(number)] if number else made[base]
    share = 0.5 if item.method == "fp16" else 0.27
    row = _measures(model_id, parent["val_acc"] - 0.001, parent["params"])
    row["onnx_bytes"] = int(share * parent["onnx_bytes"])
    return row | {"arch": made[base]["arch"], "method": item.method, "epochs": 0, "n_seeds": 1}
