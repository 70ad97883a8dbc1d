"""What every model stage shares: open the data, make each seed, save models, write metrics."""

import json
import math
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netpress import artifacts, config, environment
from netpress.artifacts import HISTORY, ONNX, WEIGHTS, Loaded, Spec
from netpress.base import files
from netpress.base.errors import ArtifactError, ConfigError, TrainingError
from netpress.base.project import model_folder
from netpress.config import Recipe, Runtime, VariantConfig, parent_of
from netpress.data.batches import DeviceSplit
from netpress.data.prepared import Manifest, load_manifest, load_split
from netpress.engine import History
from netpress.environment import Environment
from netpress.export import export_onnx
from netpress.measure import count_macs, count_params, weight_bytes
from netpress.store import Workspace, code_hashes, finished_seed, of_members

PREPARED = Path("data/prepared")
#: Stage -> the family of its method, where it has one.
METHOD_FAMILIES = {
    "distill": "distill",
    "factorize": "lowrank",
    "prune": "prune",
    "prune_sweep": "prune",
    "quantize": "quantize",
}
HISTORY_COLUMNS = ["epoch", "lr", "train_loss", "train_acc", "val_loss", "val_acc"]


@dataclass(frozen=True)
class Bench:
    """One variant's stage at work: its config, the data, and what it follows from as it was when the stage began.

    `parents` are the specs of each seed's parent or teacher, `code` the hashes of the source files.
    """

    root: Path
    model_id: str
    config: VariantConfig
    manifest: Manifest
    device: torch.device
    parents: dict[int, Spec]
    code: dict[str, str]

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


@dataclass(frozen=True)
class Made:
    """A network that a method has made, and how."""

    network: nn.Module
    history: History
    arch: str
    options: dict[str, Any]
    edits: list[artifacts.Edit]
    method: str | None
    parent: Loaded | None


def open_bench(root: Path, stage: str, variant: str) -> Bench:
    """Read the variant's config, the manifest and the parents' specs, and set up the device."""
    variant_config = config.for_variant(root / "params.yaml", stage, variant)
    device = set_up(variant_config.runtime)
    item, parents = variant_config.item, {}
    if parent_of(item):
        parents = {seed: artifacts.read_spec(_parent_folder(root, item, seed)) for seed in variant_config.seeds}
    code = code_hashes(root / "stages" / f"{'prune' if stage == 'prune_sweep' else stage}.py")
    manifest = load_manifest(root / PREPARED)
    return Bench(root, f"{stage}/{variant}", variant_config, manifest, device, parents, code)


def _parent_folder(root: Path, item: Any, seed: int) -> Path:
    parent = parent_of(item)
    if parent is None:
        raise ConfigError("the variant names no parent")
    return artifacts.seed_folder(model_folder(root, parent), seed)


def set_up(runtime: Runtime) -> torch.device:
    """Fix threads and algorithms, so that the same commit gives the same bits; return the device.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    if runtime.device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device = 'cuda': PyTorch finds no CUDA device here; set it to cpu or auto")
    use_cuda = runtime.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")


def device_split(root: Path, name: str, manifest: Manifest, device: torch.device, runtime: Runtime) -> DeviceSplit:
    """Load one prepared split onto `device`, as uint8."""
    split = load_split(root / PREPARED, name, manifest)
    return DeviceSplit(
        images=torch.from_numpy(split.images).to(device),
        labels=torch.from_numpy(split.labels).to(device),
        num_classes=len(manifest.classes),
        mean=tuple(manifest.mean),
        std=tuple(manifest.std),
        channels_last=runtime.channels_last,
    )


def run_seeds(bench: Bench, make: Callable[[int, Workspace], dict[str, Any]]) -> None:
    """Make every seed of the variant, put the models in place and write the metrics.

    Models and metrics of an earlier run stay until the new ones are complete.

    Args:
        bench: the variant at work.
        make: given a seed and its workspace, writes that seed's models below `work.models` and returns its metrics.
    """
    print(f"{bench.model_id}  on {bench.device.type}, {bench.config.runtime.threads} threads", flush=True)
    here = environment_of(bench.config.runtime, bench.device)
    folder = model_folder(bench.root, bench.model_id)
    with files.aside_folder(folder) as aside:
        new, rows = aside / "new", []
        for seed in bench.config.seeds:
            fingerprint, made = _fingerprint(bench, seed, here), partial(_make_finite, make, seed)
            rows.append(finished_seed(bench.root, bench.model_id, seed, fingerprint, made, new))
        for place in (new, *sorted(new.glob("round_*"))):
            artifacts.write_seeds(place, bench.config.seeds)
        metrics = over_seeds(rows)
        files.swap(new, folder, aside)
    artifacts.write_metrics(bench.root, bench.model_id, metrics)
    environment.record(bench.root, bench.model_id, metrics["weights_sha256"], here)
    print(
        f"{bench.model_id}  val {metrics['val_acc']:.2%}  {metrics['params']:,} parameters  "
        f"{metrics['onnx_bytes'] / 1e6:.3f} MB as ONNX",
        flush=True,
    )


def _make_finite(make: Callable[[int, Workspace], dict[str, Any]], seed: int, work: Workspace) -> dict[str, Any]:
    metrics = make(seed, work)
    require_finite(metrics, work.label)
    return metrics


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


def require_finite(metrics: dict[str, Any], where: str) -> None:
    """Raise unless every number of `metrics` is finite, so that a diverged run never appears as a result."""
    for key, value in metrics.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                require_finite(part, where)
            elif isinstance(part, float) and not math.isfinite(part):
                raise TrainingError(
                    f"{where}: {key} is {part}; nothing was written. Usual causes: the learning rate is too high "
                    "(lower recipes.<name>.lr), or the method broke the network (choose milder method_options)"
                )


def _fingerprint(bench: Bench, seed: int, here: Environment) -> str:
    stage, item, parent = bench.model_id.split("/")[0], bench.item, bench.parents.get(seed)
    members = {f"models/{arch}.py" for arch in (getattr(item, "arch", None), parent and parent.arch) if arch}
    if stage in METHOD_FAMILIES:
        members.add(f"{METHOD_FAMILIES[stage]}/{item.method}.py")
    facts = {
        "model_id": bench.model_id,
        "seed": seed,
        "config": bench.config.model_dump(exclude={"seeds", "item"}) | {"item": item.model_dump()},
        "data": bench.manifest.model_dump(),
        "parent": parent.sha256 if parent else None,
        "environment": here,
        "code": of_members(bench.code, members),
    }
    return files.sha256_bytes(json.dumps(facts, sort_keys=True, allow_nan=False).encode())


def save(bench: Bench, folder: Path, seed: int, made: Made, model_id: str | None = None) -> dict[str, Any]:
    """Save one trained network in the forms of a model folder, and return its metrics.

    `model_id` is the variant's unless the network is one of its rounds.
    """
    data = bench.manifest
    network = made.network.to("cpu").to(memory_format=torch.contiguous_format).eval()
    in_channels, size = data.channels, data.resolution
    onnx = export_onnx(network, in_channels, size, size)
    contents = {WEIGHTS: artifacts.weights_as_bytes(network), ONNX: onnx, HISTORY: _history_bytes(made.history)}
    spec = Spec(
        model_id=model_id or bench.model_id,
        seed=seed,
        arch=made.arch,
        options=made.options,
        edits=made.edits,
        method=made.method,
        parent=made.parent.spec.model_id if made.parent else None,
        parent_sha256=made.parent.spec.weights_sha256 if made.parent else None,
        classes=list(data.classes),
        in_channels=in_channels,
        height=size,
        width=size,
        mean=list(data.mean),
        std=list(data.std),
        quantized=False,
        params=count_params(network),
        macs=count_macs(network, in_channels, size, size),
        weight_bytes=weight_bytes(network.state_dict()),
        onnx_bytes=len(onnx),
        sha256={},
    )
    spec = artifacts.save_model(folder, spec, contents)
    return metrics_of(spec, len(contents[WEIGHTS]), made.history)


def metrics_of(spec: Spec, checkpoint_bytes: int, history: History) -> dict[str, Any]:
    """Return the validation metrics of one seed; the accuracy is the last epoch's."""
    last = history[-1]
    return {
        "arch": spec.arch,
        "method": spec.method,
        "parent": spec.parent,
        "parent_sha256": spec.parent_sha256,
        "val_acc": last["val_acc"],
        "val_acc_best": max(row["val_acc"] for row in history),
        "val_loss": last["val_loss"],
        "params": spec.params,
        "macs": spec.macs,
        "weight_bytes": spec.weight_bytes,
        "onnx_bytes": spec.onnx_bytes,
        "checkpoint_bytes": checkpoint_bytes,
        "epochs": len(history),
        "weights_sha256": spec.weights_sha256,
    }


def over_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the seeds' metrics: means and deviations of what training varies, the rest from the shipped seed."""
    merged = dict(rows[0]) | {"n_seeds": len(rows)}
    for key in ("val_acc", "val_acc_best", "val_loss", "val_acc_before_tuning"):
        if key not in rows[0]:
            continue
        values = [row[key] for row in rows]
        merged[key] = statistics.fmean(values)
        if len(rows) > 1:
            merged[f"{key}_std"] = statistics.stdev(values)
    merged["val_acc_by_seed"] = [row["val_acc"] for row in rows]
    if "rounds" in rows[0]:
        by_round = zip(*(row["rounds"] for row in rows), strict=True)
        merged["rounds"] = [over_seeds(list(same_round)) for same_round in by_round]
    return merged


def _history_bytes(history: History) -> bytes:
    return files.csv_text(history, HISTORY_COLUMNS).encode("utf-8")
