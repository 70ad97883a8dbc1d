"""A folder that stands alone: one model, how to feed it, a script that does, and a card that says what it is."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from netpress.base import files
from netpress.base.errors import ArtifactError, ConfigError, NetpressError
from netpress.base.model_files import ONNX, WEIGHTS
from netpress.base.model_id import ModelId
from netpress.base.project import PREPARED
from netpress.core import artifacts
from netpress.core.artifacts import Loaded
from netpress.core.dataset import load_manifest, open_images
from netpress.core.export import OnnxModule
from netpress.deploy.model_card import model_card
from netpress.deploy.predictor import CARD, Card, normalized

SCRIPT, README = "predict.py", "README.md"
#: Images on which the exported model is compared with its source, and pictures on which the script is.
COMPARED, PICTURES = 256, 8
#: Largest difference between the logits of both, relative to the largest logit.
TOLERANCE = 1e-3


def export(root: Path, model_id: str, folder: Path, overwrite: bool) -> list[str]:
    """Write the shipped seed of a model to `folder`, once it is seen to answer as the model does; return the files.

    Raises:
        NetpressError: the folder is there and not to be overwritten, or the exported model answers otherwise.
        ArtifactError: the model is missing or damaged.
    """
    if folder.exists() and not overwrite:
        raise ConfigError(f"{folder} exists; name another folder, or add --force to overwrite it")
    if folder.exists() and not (folder / CARD).is_file() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds something else than an exported model; name another folder")
    loaded = artifacts.load(ModelId(model_id).folder(root))
    data = artifacts.read_file(loaded.folder, loaded.spec, ONNX)
    images = _images(root, loaded)
    expected = _compared(loaded, data, images)
    contents = {
        ONNX: data,
        CARD: (json.dumps(_card(loaded, data).model_dump(), ensure_ascii=False, indent=1) + "\n").encode(),
        SCRIPT: Path(__file__).with_name("standalone.py").read_bytes(),
        README: model_card(root, loaded.spec).encode(),
    }
    if not loaded.spec.quantized:
        contents[WEIGHTS] = artifacts.read_file(loaded.folder, loaded.spec, WEIGHTS)
    with files.aside_folder(folder) as aside:
        new = aside / "new"
        for name, content in contents.items():
            files.write_bytes(new / name, content)
        _run_script(new, images[:PICTURES], [loaded.spec.classes[k] for k in expected[:PICTURES]])
        files.swap(new, folder, aside)
    return sorted(contents)


def _card(loaded: Loaded, data: bytes) -> Card:
    spec = loaded.spec
    return Card(
        model_id=spec.model_id,
        classes=spec.classes,
        channels=spec.in_channels,
        height=spec.height,
        width=spec.width,
        mean=spec.mean,
        std=spec.std,
        onnx_sha256=files.sha256_bytes(data),
    )


def _images(root: Path, loaded: Loaded) -> np.ndarray:
    """Return images (N, H, W, C) uint8 to compare with: of validation where they fit the model, else noise."""
    spec = loaded.spec
    if (root / PREPARED / "val_images.npy").is_file():
        images = open_images(root / PREPARED, "val", load_manifest(root / PREPARED))
        if images.shape[1:] == (spec.height, spec.width, spec.in_channels):
            return images[:COMPARED]
    shape = (COMPARED, spec.height, spec.width, spec.in_channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _compared(loaded: Loaded, data: bytes, images: np.ndarray) -> list[int]:
    """Return the classes that the exported model names, which are those of its source."""
    spec = loaded.spec
    fed = normalized(images, spec.mean, spec.std)
    with torch.inference_mode():
        logits = OnnxModule(data, 1, name=spec.model_id)(torch.from_numpy(fed)).numpy()
        source = loaded.network(torch.from_numpy(fed)).numpy()
    off = float(np.abs(logits - source).max() / np.abs(source).max())
    if not off <= TOLERANCE:
        text = f"its ONNX file answers otherwise than the model, by {off:.1%} of the largest logit"
        raise ArtifactError(f"{spec.model_id}: {text}; run 'dvc repro' to make it again")
    return [int(k) for k in logits.argmax(1)]


def _run_script(folder: Path, images: np.ndarray, expected: list[str]) -> None:
    """Run the exported script on pictures, and compare the classes that it names."""
    with TemporaryDirectory() as place:
        names = [f"{place}/{k}.png" for k in range(len(images))]
        for name, image in zip(names, images, strict=True):
            Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(name)
        command = [sys.executable, str(folder / SCRIPT), *names]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    lines = done.stdout.splitlines()
    found = [line.split("\t")[1].rpartition(" ")[0] for line in lines] if not done.returncode else []
    if found != expected:
        said = done.stderr.strip().splitlines()[-1:] or [f"it names {found}, the model {expected}"]
        raise NetpressError(f"the exported {SCRIPT} does not do what the model does: {said[0]}")
