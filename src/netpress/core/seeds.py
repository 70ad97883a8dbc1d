"""What every model stage does with what it makes: each seed once, models saved, metrics written."""

import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netpress.base import files
from netpress.base.errors import ParamsError
from netpress.base.model_files import HISTORY, ONNX, WEIGHTS
from netpress.base.model_id import ROUND, ModelId
from netpress.core import artifacts
from netpress.core.artifacts import FIRST, Parent, Spec
from netpress.core.batches import batches_per_epoch
from netpress.core.context import Context
from netpress.core.dataset import Manifest
from netpress.core.engine import History
from netpress.core.export import Shelf, export_onnx, with_metadata
from netpress.core.measure import count_macs, count_params, evaluate, evidence, weight_bytes
from netpress.core.metrics import CONTROL_VAL_ACC, RIGHT, VAL_ACC
from netpress.core.networks import build_model, require_rebuilt
from netpress.core.predictions import PREDICTED, prediction_files
from netpress.core.ranks import here
from netpress.core.resume import Workspace, finished_seed
from netpress.params.items import Design
from netpress.process import environment
from netpress.process.ahead import is_ahead
from netpress.process.blame import blamed

#: With fewer steps than this, networks from scratch are seldom better than chance.
FEW_STEPS = 200
#: What training varies from seed to seed.
VARYING = (
    "val_acc",
    "val_acc_best",
    "val_loss",
    "val_acc_before_tuning",
    "val_acc_recalibrated",
    "train_acc",
    "val_ece",
    "teacher_agreement",
    CONTROL_VAL_ACC,
)
HISTORY_COLUMNS = ["epoch", "lr", "train_loss", "train_acc", "val_loss", "val_acc"]


@dataclass(frozen=True)
class Made:
    """A network that a method has made, how, and what was found out about it; for `epochs` see `artifacts.Spec`."""

    network: nn.Module
    history: History
    arch: str
    options: dict[str, Any]
    edits: list[artifacts.Edit]
    method: str | None
    parents: Mapping[str, Spec]
    epochs: int
    evidence: dict[str, Any]


def run_seeds(context: Context, make: Callable[[int, Workspace], dict[str, Any]]) -> None:
    """Make every seed of the variant, put the models in place and write the metrics.

    Models and metrics of an earlier run stay until the new ones are complete. A process ahead of the stage makes the
    seeds that nobody is at, the last ones first, and nothing else.

    Args:
        context: the variant at work.
        make: given a seed and its workspace, writes that seed's models below `work.models` and returns its metrics.
    """
    if is_ahead():
        for seed in reversed(context.config.seeds):
            _made(context, seed, make, None, wait=False)
        return
    devices, threads = here().count, context.config.runtime.threads
    many = f"{devices} devices, each with " if devices > 1 else ""
    print(f"{context.model_id}  on {context.device.type}, {many}{threads} threads", flush=True)
    if doubt := few_steps(context):
        print(doubt, flush=True)
    folder = context.model_id.folder(context.root)
    with files.aside_folder(folder) as aside:
        new, rows = aside / "new", dict[int, dict[str, Any]]()
        for wait in (False, True):  # seeds that other processes are at come last
            for seed in context.config.seeds:
                if seed not in rows and (row := _made(context, seed, make, new, wait)):
                    rows[seed] = row
        for place in (new, *sorted(new.glob(f"{ROUND}*"))):
            artifacts.write_seeds(place, context.config.seeds)
        metrics = over_seeds([rows[seed] for seed in context.config.seeds]) | {
            "seeds": context.config.seeds,
            "chance_acc": chance(context.manifest),
            "val_images": sum(context.manifest.counts["val"]),
            "val_images_sha256": context.manifest.sha256["val_images.npy"],
        }
        files.swap(new, folder, aside)
    artifacts.write_metrics(context.root, context.model_id, metrics)
    environment.record(context.root, context.model_id, metrics["weights_sha256"], context.environment)
    print(
        f"{context.model_id}  val {metrics['val_acc']:.2%}  {metrics['params']:,} parameters  "
        f"{metrics['onnx_bytes'] / 1e6:.3f} MB as ONNX",
        flush=True,
    )
    if metrics["val_acc"] <= metrics["chance_acc"]:
        print(
            f"{context.model_id}  warning: no better than naming one class for every image; train longer or prune less",
            flush=True,
        )


def _made(
    context: Context, seed: int, make: Callable[[int, Workspace], dict[str, Any]], out: Path | None, wait: bool
) -> dict[str, Any] | None:
    """Return the metrics of one seed, see `finished_seed`; faults are told by the variant's name."""
    try:
        with blamed(context.model_id):
            fingerprint = context.fingerprint(seed)
            return finished_seed(context.root, context.model_id, seed, fingerprint, partial(make, seed), out, wait)
    except ParamsError as error:  # of the item's own keys
        raise error.below(context.model_id.key) from None


def few_steps(context: Context) -> str:
    """Return a warning where a network is trained from scratch in fewer than `FEW_STEPS` steps, else nothing."""
    item, name = context.item, getattr(context.item, "recipe", "")
    if not hasattr(item, "arch") or context.start:
        return ""
    steps = item.epochs * batches_per_epoch(sum(context.manifest.counts["train"]), context.recipe.batch_size)
    if steps >= FEW_STEPS:
        return ""
    return (
        f"{context.model_id}  warning: {steps} steps of training in all, where a network from scratch needs some "
        f"hundreds; raise epochs, lower recipes.{name}.batch_size, or set recipes.{name}.min_steps"
    )


def chance(manifest: Manifest) -> float:
    """Return the accuracy on the validation images up to which a network may just name one class for every image.

    The share of the largest class, and two standard errors more, since the images are a sample.
    """
    counts = manifest.counts["val"]
    share = max(counts) / sum(counts)
    return share + 2 * math.sqrt(share * (1 - share) / sum(counts))


def save(context: Context, folder: Path, seed: int, made: Made, model_id: ModelId | None = None) -> dict[str, Any]:
    """Save one trained network in the forms of a model folder, and return its metrics.

    `model_id` is the variant's unless the network is one of its rounds.
    """
    data = context.manifest
    network = made.network.to("cpu").to(memory_format=torch.contiguous_format).eval()
    in_channels, size = data.channels, data.resolution
    name = f"{model_id or context.model_id} seed {seed}"
    structure = json.dumps([made.arch, made.options, made.edits, len(context.classes)], sort_keys=True)
    onnx = export_onnx(network, in_channels, size, size, name, Shelf(context.graphs, structure))
    spec = Spec(
        model_id=model_id or context.model_id,
        seed=seed,
        arch=made.arch,
        options=made.options,
        edits=made.edits,
        method=made.method,
        init=context.start.init if context.start else None,
        init_sha256=context.start.sha256 if context.start else None,
        parents={r: Parent(model_id=p.model_id, sha256=p.weights_sha256) for r, p in made.parents.items()},
        classes=context.classes,
        in_channels=in_channels,
        height=size,
        width=size,
        mean=list(data.mean),
        std=list(data.std),
        quantized=False,
        epochs=made.epochs,
        data_sha256=data.data_sha256,
        params=count_params(network),
        macs=count_macs(network, in_channels, size, size),
        weight_bytes=weight_bytes(network.state_dict()),
        onnx_bytes=len(onnx),
        sha256={},
    )
    contents = {
        WEIGHTS: artifacts.weights_as_bytes(network),
        ONNX: with_metadata(onnx, spec.feeding()),
        HISTORY: _history_bytes(made.history),
    }
    found = (made.history[-1] if made.history else {}) | made.evidence
    contents |= prediction_files(found[PREDICTED], context.val, context.classes)
    spec = artifacts.save_model(folder, spec, contents)
    return metrics_of(spec, len(contents[WEIGHTS]), made.history, made.evidence)


def metrics_of(spec: Spec, checkpoint_bytes: int, history: History, evidence: dict[str, Any]) -> dict[str, Any]:
    """Return the validation metrics of one seed: the last epoch's, and `evidence`, which says them without an epoch."""
    last = history[-1] if history else {}
    metrics = {
        "arch": spec.arch,
        "method": spec.method,
        "parent": spec.parent,
        "parent_sha256": spec.parent_sha256,
        **{f"{role}_sha256": parent.sha256 for role, parent in spec.parents.items() if role not in FIRST},
        "val_acc": last.get("val_acc"),
        "val_acc_best": max((row["val_acc"] for row in history), default=None),
        "val_loss": last.get("val_loss"),
        **{key: value for key, value in last.items() if key not in HISTORY_COLUMNS},
        "params": spec.params,
        "macs": spec.macs,
        "weight_bytes": spec.weight_bytes,
        "onnx_bytes": spec.onnx_bytes,
        "checkpoint_bytes": checkpoint_bytes,
        "epochs": len(history),
        "weights_sha256": spec.weights_sha256,
    }
    return {key: value for key, value in (metrics | evidence).items() if key != PREDICTED}


def over_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the seeds' metrics: means and deviations of what training varies, the rest from the shipped seed."""
    merged = dict(rows[0]) | {"n_seeds": len(rows)}
    for key in VARYING:
        if key not in rows[0]:
            continue
        values = [row[key] for row in rows]
        merged[key] = statistics.fmean(values)
        if len(rows) > 1:
            merged[f"{key}_std"] = statistics.stdev(values)
    for key in (key for key in (VAL_ACC, CONTROL_VAL_ACC) if key in rows[0]):
        merged[f"{key}_by_seed"] = [row[key] for row in rows]
    for key in (key for key in rows[0] if key.endswith(RIGHT)):
        merged[key] = [row[key] for row in rows]
    if "val_acc_by_class" in rows[0]:
        merged["val_acc_by_class"] = [
            _mean(shares) for shares in zip(*(r["val_acc_by_class"] for r in rows), strict=True)
        ]
    if "rounds" in rows[0]:
        by_round = zip(*(row["rounds"] for row in rows), strict=True)
        merged["rounds"] = [over_seeds(list(same_round)) for same_round in by_round]
    return merged


def _mean(shares: tuple[float | None, ...]) -> float | None:
    known = [share for share in shares if share is not None]
    return statistics.fmean(known) if known else None


def _history_bytes(history: History) -> bytes:
    rows = [{column: row[column] for column in HISTORY_COLUMNS} for row in history]
    return files.csv_text(rows, HISTORY_COLUMNS).encode("utf-8")


def fresh_network(item: Design, manifest: Manifest, seed: int) -> nn.Module:
    """Build the item's architecture with weights drawn from `seed`.

    Raises:
        ParamsError: it gives no logits, or would not come back from its spec; see `networks.require_rebuilt`.
    """
    torch.manual_seed(seed)
    network = build_model(item.arch, len(manifest.classes), manifest.channels, **item.options)
    size = manifest.resolution
    shape = (manifest.channels, size, size)
    require_rebuilt(network, item.arch, len(manifest.classes), item.options, [], shape, "arch")
    return network


def save_design(
    context: Context,
    work: Workspace,
    seed: int,
    network: nn.Module,
    history: History,
    teachers: Mapping[str, Spec] | None = None,
    taught: Tensor | None = None,
) -> dict[str, Any]:
    """Save the item's architecture, trained, and by whom; returns the metrics. For `taught` see `measure.evidence`."""
    item = context.item
    found = evidence(network, context.train, context.val, taught)
    if not history:  # a trained network as it came
        quality = evaluate(network, context.val, work.label)
        found |= {VAL_ACC: quality.accuracy, "val_acc_best": quality.accuracy, "val_loss": quality.loss}
        found |= quality.detail(context.val)
    method = getattr(item, "method", None)
    made = Made(network, history, item.arch, item.options, [], method, teachers or {}, len(history), found)
    return save(context, work.models / f"seed_{seed}", seed, made)
