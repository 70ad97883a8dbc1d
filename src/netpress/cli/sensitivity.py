"""Measure which layers of a trained model bear to be made smaller, and which do not.

    python -m netpress sensitivity train/resnet18_strong
    python -m netpress sensitivity prune/main/round_1 --images 2000 --seed 1 --json

Each convolution and linear layer is changed alone, without training, in four ways:

    int8     its weight rounded to 8 bits, a scale for each output channel; its inputs rounded to 8 bits
    4bit     its weight rounded to 4 bits, a scale for each block of 32 inputs
    pruned   half of its output channels gone, those of smallest norm, with all that depends on them
    rank     its weight cut to half of its rank, by SVD

For each the table says the divergence KL(original || changed) of the answers in nats, and the points of accuracy lost.
Both are measured on training images, never on validation: what is chosen by them can then be judged on validation. For
the last two, normalizations are measured again on the same images, and so are the original's. The table goes to
reports/sensitivity/<section>_<variant>.csv too, and a picture of it beside that; no result follows from them.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from netpress.base.errors import ConfigError
from netpress.base.project import PREPARED, find_root
from netpress.cli._arguments import whole_number
from netpress.cli._models import made

if TYPE_CHECKING:
    from netpress.core.artifacts import Loaded

#: Where tables and pictures go, below the project's folder.
REPORTS = Path("reports/sensitivity")
#: Names the random numbers by which images are drawn.
STREAM = "sensitivity"
#: Columns of a table that goes into no terminal.
UNLIMITED = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL_ID", help="such as train/resnet18_strong or prune/main/round_2")
    parser.add_argument("--images", type=_images, default=512, metavar="N", help="training images (default: 512)")
    own = "the model of this seed, or its only one, and what draws the images (default: the seed that is shipped)"
    parser.add_argument("--seed", type=_seed, metavar="K", help=own)
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"the folder to write to (default: {REPORTS})")
    parser.add_argument("--json", action="store_true", help="for scripts: one JSON object instead of the table")


def run(args: argparse.Namespace) -> None:
    """Measure one model of the project around the current folder, print the table and write it and its picture."""
    from netpress.base import files
    from netpress.core.dataset import load_manifest
    from netpress.core.fitting import require_same_data
    from netpress.core.runtime import set_up
    from netpress.core.splits import device_split, drawn
    from netpress.params import reader
    from netpress.process.progress import ImageProgress
    from netpress.sensitivity import figure, table
    from netpress.sensitivity.measure import measure

    root = find_root()
    runtime = reader.for_shared(root / "params.yaml").runtime
    device = set_up(runtime)
    loaded = _load(root, args.model, args.seed)
    spec, manifest = loaded.spec, load_manifest(root / PREPARED)
    require_same_data(spec, manifest)
    fed = manifest.model_copy(update={"mean": spec.mean, "std": spec.std})
    seed = spec.seed if args.seed is None else args.seed
    images = drawn(device_split(root, "train", fed, device, runtime), args.images, seed, STREAM)
    progress = ImageProgress("measuring", 0, unit="changes")
    rows = measure(loaded.network.to(device), images, progress=progress.reached)
    progress.close()
    name = args.model.replace("/", "_")
    shown = args.out or REPORTS
    folder = args.out or root / REPORTS
    files.write_csv(folder / f"{name}.csv", table.csv_rows(rows), table.COLUMNS)
    told = f"{args.model}, seed {spec.seed}, one layer changed at a time, on {len(images):,} training images"
    files.write_bytes(folder / f"{name}.png", figure.draw(rows, told))
    if args.json:
        facts = {"model_id": args.model, "seed": spec.seed, "weights_sha256": spec.weights_sha256}
        facts |= {"images": len(images), "drawn_by": seed, "layers": [asdict(row) for row in rows]}
        print(json.dumps(facts, indent=1))
        return
    print(told, table.text(rows, shutil.get_terminal_size((UNLIMITED, 0)).columns), sep="\n\n")
    print(f"wrote {shown / name}.csv and .png")


def _load(root: Path, name: str, seed: int | None) -> "Loaded":
    """Load a model that is not quantized, of its seed; say what to do where there is none."""
    from netpress.core import artifacts

    folder = made(root, name).folder(root)
    known_seeds = artifacts.read_seeds(folder)
    if seed is not None and len(known_seeds) > 1 and seed not in known_seeds:
        raise ConfigError(f"--seed {seed}: {name} has the seeds {', '.join(map(str, known_seeds))}; name one of them")
    spec = artifacts.read_spec(artifacts.seed_folder(folder, seed))
    if spec.quantized:
        raise ConfigError(f"{name} is quantized, so that its layers cannot be changed; name {spec.parent}")
    return artifacts.load(artifacts.seed_folder(folder, seed))


def _images(text: str) -> int:
    count = whole_number(text)
    if count < 2:
        raise argparse.ArgumentTypeError("normalizations are measured on 2 images or more")
    return count


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 0")
    return int(text)
