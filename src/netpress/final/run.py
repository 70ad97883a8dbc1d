"""The test split, opened once for each model that was chosen on validation."""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from netpress.base.model_id import ModelId
from netpress.base.project import PREPARED
from netpress.core import artifacts
from netpress.core.dataset import load_manifest
from netpress.core.fitting import require_same_data
from netpress.core.measure import evaluate
from netpress.core.metrics import RIGHT
from netpress.core.runtime import environment_of, set_up
from netpress.core.splits import device_split
from netpress.params.recipes import Runtime
from netpress.process import environment


def measure_on_test(root: Path, model_id: str, runtime: Runtime) -> None:
    """Write the test accuracy of every seed of a model; without a test split there is none to write.

    Raises:
        ArtifactError: the model is missing or damaged.
        TrainingError: its loss is not finite.
    """
    device = set_up(runtime)
    manifest = load_manifest(root / PREPARED)
    hashes, found = [], []
    split = device_split(root, "test", manifest, device, runtime) if manifest.has_split("test") else None
    folder = ModelId(model_id).folder(root)
    for seed in artifacts.read_seeds(folder):
        loaded = artifacts.load(artifacts.seed_folder(folder, seed))
        require_same_data(loaded.spec, manifest)
        hashes.append(loaded.spec.weights_sha256)
        if split is not None:
            split = replace(split, mean=tuple(loaded.spec.mean), std=tuple(loaded.spec.std))
            found.append(evaluate(loaded.network.to(device), split, f"test of {model_id} seed {seed}"))
    metrics: dict[str, Any] = {"n_images": len(split) if split else 0, "weights_sha256": hashes[0]}
    if found:
        accuracies = [quality.accuracy for quality in found]
        metrics["test_acc"] = statistics.fmean(accuracies)
        metrics["test_acc_by_seed"] = accuracies
        metrics[f"test_acc{RIGHT}"] = [quality.right for quality in found]
        if len(accuracies) > 1:
            metrics["test_acc_std"] = statistics.stdev(accuracies)
        print(f"{model_id}  test {metrics['test_acc']:.2%}")
    artifacts.write_metrics(root, f"test/{model_id}", metrics)
    environment.record(root, f"test/{model_id}", hashes[0], environment_of(runtime, device))
