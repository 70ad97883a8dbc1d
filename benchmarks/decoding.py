"""Preparing a folder of pictures with one process and over the cores: images a second, processor time, peak memory.

    python benchmarks/decoding.py FOLDER [--resolution PIXELS] [--rounds N]

FOLDER is laid out as the source `imagefolder` takes it. One after the other in each round, each in a process of its
own; what is written is compared.
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

#: Bytes in a unit of ru_maxrss.
UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resolution", type=int, default=224, help="in pixels (default: 224)")
    parser.add_argument("--rounds", type=int, default=2, help="times each is run (default: 2)")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure(args.folder.resolve(), args.resolution, args.child)
        return
    print(f"{'processes':>9} {'images':>8} {'images/s':>9} {'CPU s':>7} {'of it here':>13} {'peak MB':>8} {'each':>8}")
    written = set()
    for _ in range(args.rounds):
        for count in (1, os.cpu_count() or 1):
            command = [sys.executable, __file__, args.folder, f"--resolution={args.resolution}", f"--child={count}"]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            written.add(found["sha256"])
            print(
                f"{count:>9} {found['images']:>8,} {found['images'] / found['seconds']:>9,.0f} "
                f"{found['here'] + found['others']:>7.1f} {found['here']:>13.1f} {found['peak'] / 1e6:>8.1f} "
                f"{found['each'] / 1e6:>8.1f}",
                flush=True,
            )
    print("the same bytes" if len(written) == 1 else "DIFFERENT BYTES")


def measure(folder: Path, resolution: int, count: int) -> None:
    """Prepare `folder` with `count` processes that decode, and print as JSON what it took."""
    from netpress.base.files import sha256_file
    from netpress.core.dataset import MANIFEST
    from netpress.ingest.prepare import prepare
    from netpress.ingest.sources import _pictures
    from netpress.params.items import Data

    _pictures.cores = lambda: count  # type: ignore[assignment, misc]
    data = Data(
        source="imagefolder",
        root=str(folder),
        resolution=resolution,
        val_share=0.1,
        test_share=0.0,
        split_seed=0,
        on_overlap="drop_from_train",
        on_bad_image="skip",
    )
    with tempfile.TemporaryDirectory() as out:
        start = time.monotonic()
        manifest = prepare(folder, data, Path(out) / "prepared")
        seconds, spent = time.monotonic() - start, os.times()
        found: dict[str, Any] = {"seconds": seconds, "images": sum(map(sum, manifest.counts.values()))}
        found["sha256"] = sha256_file(Path(out) / "prepared" / MANIFEST)
    found |= {"here": spent.user + spent.system, "others": spent.children_user + spent.children_system}
    for key, who in (("peak", resource.RUSAGE_SELF), ("each", resource.RUSAGE_CHILDREN)):
        found[key] = resource.getrusage(who).ru_maxrss * UNIT
    print(json.dumps(found))


if __name__ == "__main__":
    main()
