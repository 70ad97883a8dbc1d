"""The card of an exported model: what it is, how good, how large and how fast, how it was made, what it is for."""

import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.base.model_files import ONNX, WEIGHTS
from netpress.base.model_id import ModelId
from netpress.base.project import metrics_file
from netpress.core import artifacts
from netpress.core.artifacts import Spec
from netpress.report import latency, units
from netpress.report.choice import CHANCE
from netpress.report.data_line import data_line


def model_card(root: Path, spec: Spec) -> str:
    """Return the model card, README.md of an exported folder."""
    form = "in fewer bits" if spec.quantized else "fp32"
    sizes = [
        ("parameters", units.short_count(spec.params)),
        ("multiply-adds of an image", units.short_count(spec.macs)),
        (f"`{ONNX}` ({form})", units.size(spec.onnx_bytes)),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in [*_accuracy(root, spec), *sizes, *_time(root, spec)])
    weights = "" if spec.quantized else f", `{WEIGHTS}` for PyTorch"
    kind = "grey" if spec.in_channels == 1 else "RGB"
    return f"""# {spec.model_id}

An image classifier of {len(spec.classes)} classes: {", ".join(spec.classes)}.

```sh
pip install numpy pillow onnxruntime
python predict.py PICTURE...
```

`{ONNX}` takes `images`, (N, {spec.in_channels}, {spec.height}, {spec.width}) float32, {kind}, normalized with the mean
and deviation in `model.json`, and gives `logits`, (N, {len(spec.classes)}); their softmax are probabilities.
`predict.py` reads pictures as the model was trained to see them{weights}.

| | |
|---|---|
{table}

## How it was made

{_lineage(root, spec)}

## Data and licence

{data_line(root)} The weights follow from these data and from netpress, which is under the MIT licence; the data's own
licence says what else holds.

## Use and limits

It names one of its classes for every picture, also for pictures of something else: the probabilities say nothing of
that. It was trained and measured on pictures like those of its data; others want a measurement of their own. The
validation accuracy is of the images by which models were compared, so it may be slightly too high. Where a mistake
harms someone, do not rely on it alone.
"""


def _accuracy(root: Path, spec: Spec) -> list[tuple[str, str]]:
    """Return the rows of the accuracies: of this network on validation images, and on test images if measured."""
    rows = []
    metrics = _metrics(root, spec)
    by_seed, seeds = metrics.get("val_acc_by_seed"), metrics.get("seeds", [])
    own = by_seed[seeds.index(spec.seed)] if by_seed and spec.seed in seeds else metrics.get("val_acc")
    if own is not None and (count := metrics.get("val_images")):
        low, high = wilson(own, count)
        text = f"{units.percent(own)} % of {count:,} images (95 %: {units.percent(low)} to {units.percent(high)})"
        rows.append(("validation accuracy", text + (f"; {CHANCE}" if own <= (metrics.get("chance_acc") or 0) else "")))
    test = metrics_file(root, f"test/{spec.model_id}")
    if test.is_file():
        found = files.read_sealed(test, "run 'dvc repro'")
        text = f"{units.percent(found['test_acc'])} % of {found['n_images']:,} images"
        rows.append(("test accuracy", text + (", mean over seeds" if len(seeds) > 1 else "")))
    return rows


def wilson(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share that was found on `count` images: Wilson 1927, https://doi.org/10.2307/2276774."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return centre - half, centre + half


def _metrics(root: Path, spec: Spec) -> dict[str, Any]:
    """Return the metrics of the model, or of its round, as they stand in the file of its variant."""
    model_id = ModelId(spec.model_id)
    path = metrics_file(root, model_id.base)
    if not path.is_file():
        return {}
    whole = files.read_sealed(path, "run 'dvc repro'")
    if model_id.round is None:
        return whole
    rounds = {row["round"]: row for row in whole.get("rounds", [])}
    shared = {key: whole[key] for key in ("seeds", "val_images", "chance_acc") if key in whole}
    return shared | rounds.get(model_id.round, {})


def _time(root: Path, spec: Spec) -> list[tuple[str, str]]:
    """Return the row of the latency, where it was measured of this very file."""
    if not (root / latency.FILE).is_file():
        return []
    records = latency.read(root)
    known = {spec.model_id: spec.weights_sha256}
    found = latency.at(latency.of_now(records, known)).get(spec.model_id)
    return [("an image on one thread", f"{found:.3f} ms ({records.cpu})")] if found else []


def _lineage(root: Path, spec: Spec) -> str:
    """Return what it was made from, line by line, back to networks that were trained on labels alone."""
    lines: list[str] = []
    waiting: list[tuple[str, Spec | None]] = [(spec.model_id, spec)]
    seen = {spec.model_id}
    while waiting:
        name, one = waiting.pop(0)
        if one is None:
            lines.append(f"- `{name}`: not in this project any more")
            continue
        roles = ", ".join(f"{role} `{parent.model_id}`" for role, parent in one.parents.items())
        lines.append(f"- `{name}`: {one.options.get('name', one.arch)}, {_how(one)}{f'; {roles}' if roles else ''}")
        above = [parent.model_id for parent in one.parents.values() if parent.model_id not in seen]
        waiting += [(parent, _spec_of(root, parent, spec.seed)) for parent in above]
        seen |= {*above}
    again = f"Seed {spec.seed}. `dvc repro {ModelId(spec.model_id).stage}` makes it again."
    return "\n".join([*lines, "", again])


def _how(spec: Spec) -> str:
    """Say what made a network what it is; its epochs count its parent's where the weights come from there."""
    if not spec.epochs:
        return f"`{spec.method}`, not trained here" if spec.method else "brought in with its weights"
    return f"{f'`{spec.method}`' if spec.method else 'trained on the labels'}, {spec.epochs} epochs in all"


def _spec_of(root: Path, model_id: str, seed: int) -> Spec | None:
    try:
        return artifacts.read_spec(artifacts.seed_folder(ModelId(model_id).folder(root), seed))
    except ArtifactError:
        return None
