"""Training on images in memory and on the same images read from the disk: images a second, and peak memory.

Makes up some images and ten times as many in a temporary folder, and trains one epoch on each, in a process of its
own: once with memory for all, once with a budget that none of them fits. The peak is that of the process; beside it
stands what the process had before the split was opened, imports and network. `cold` has the system forget the file
first, so that every image comes from the disk. Other work on the machine moves images a second; milliseconds of the
processor hardly.

    python benchmarks/streaming.py [--images N] [--side PIXELS] [--budget SIZE]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLASSES, BATCH, PIECE = 10, 32, 500
ARCH, OPTIONS = "compact_cnn", {"groups": "depthwise", "width": 0.125}
#: Bytes in a unit of ru_maxrss.
UNIT = 1 if sys.platform == "darwin" else 1024
ALL = "1TB"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="in the smaller split (default: 2000)")
    parser.add_argument("--side", type=int, default=64, help="of an image, in pixels (default: 64)")
    parser.add_argument("--budget", default="10MB", help="memory for images where they are streamed (default: 10MB)")
    # A child of its own for each measurement: its peak is its own.
    parser.add_argument("--child", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        step, folder = args.child
        make(Path(folder), args.images, args.side) if step == "make" else measure(Path(folder), step == "cold")
        return
    from netpress.process.environment import cpu_name

    print(f"{cpu_name()}; {ARCH} {OPTIONS}, batch {BATCH}, budget {args.budget}")
    print(
        f"{'images':>8} {'MB':>8}  {'where':<14} {'images/s':>9} {'CPU ms/image':>13} {'peak MB':>8} {'before MB':>10}"
    )
    for count in (args.images, 10 * args.images):
        with tempfile.TemporaryDirectory() as folder:
            child("make", folder, ALL, f"--images={count}", f"--side={args.side}")
            for where, budget in (("memory", ALL), ("streamed", args.budget), ("cold", args.budget)):
                found: dict[str, Any] = json.loads(child(where, folder, budget).splitlines()[-1])
                name = "streamed, cold" if where == "cold" else where
                print(
                    f"{count:>8,} {found['bytes'] / 1e6:>8.1f}  {name:<14} {count / found['seconds']:>9,.0f} "
                    f"{1000 * found['cpu'] / count:>13.3f} {found['peak'] / 1e6:>8.1f} {found['before'] / 1e6:>10.1f}",
                    flush=True,
                )


def child(step: str, folder: str, budget: str, *arguments: str) -> str:
    """Run one step in a process of its own, with a budget; return what it prints."""
    command = [sys.executable, __file__, "--child", step, folder, *arguments]
    environ = os.environ | {"NETPRESS_MEMORY": budget}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, env=environ).stdout


def make(folder: Path, count: int, side: int) -> None:
    """Write the arrays of a split of noise, and its manifest as plain JSON."""
    import numpy as np

    from netpress.ingest.arrays import write_array

    rng, prepared = np.random.default_rng(0), folder / "data/prepared"
    prepared.mkdir(parents=True)
    sizes = [min(PIECE, count - start) for start in range(0, count, PIECE)]
    pieces = (rng.integers(0, 256, (size, side, side, 3), np.uint8) for size in sizes)
    labels = np.arange(count) % CLASSES
    facts: dict[str, Any] = dict.fromkeys(
        ("duplicates", "conflicts", "overlaps", "dropped", "near_duplicates", "skipped", "unlabelled"), 0
    )
    facts |= {"source": "noise", "classes": [str(k) for k in range(CLASSES)], "channels": 3, "resolution": side}
    facts |= {"mean": [0.5] * 3, "std": [0.3] * 3, "notes": [], "counts": {"train": np.bincount(labels).tolist()}}
    facts["sha256"] = {
        "train_images.npy": write_array(prepared / "train_images.npy", (count, side, side, 3), "uint8", pieces),
        "train_labels.npy": write_array(prepared / "train_labels.npy", (count,), "int64", [labels]),
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def measure(folder: Path, cold: bool) -> None:
    """Train one epoch on the split in `folder`, and print as JSON what it took."""
    import torch

    from netpress.core.dataset import Manifest
    from netpress.core.engine import Schedule, fit
    from netpress.core.networks import build_model
    from netpress.core.runtime import set_up
    from netpress.core.splits import device_split, drawn
    from netpress.params import reader

    profile = reader.load(Path(__file__).parent.parent / "profiles/default.yaml")
    runtime, recipe = profile.runtime, profile.recipes["plain"].model_copy(update={"batch_size": BATCH})
    device = set_up(runtime)
    manifest = Manifest(**json.loads((folder / "facts.json").read_text(encoding="utf-8")))
    network = build_model(ARCH, CLASSES, 3, **OPTIONS)
    network(torch.zeros(1, 3, manifest.resolution, manifest.resolution)).sum().backward()
    before = peak()
    split = device_split(folder, "train", manifest, device, runtime)
    val = drawn(split, BATCH, 0, "val")
    path = folder / "data/prepared/train_images.npy"
    if cold:
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start, cpu = time.monotonic(), time.process_time()
    fit(network, split, val, Schedule(recipe, epochs=1, seed=0), runtime, "epoch")
    found = {"seconds": time.monotonic() - start, "cpu": time.process_time() - cpu, "peak": peak(), "before": before}
    print(json.dumps(found | {"bytes": path.stat().st_size}))


def peak() -> int:
    """Return the most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


if __name__ == "__main__":
    main()
