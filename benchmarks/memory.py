"""Peak memory of preparing data, for some images and for ten times as many.

Makes up a folder of pictures, a zip and a tar.gz of it in a temporary folder, prepares each in a process of its own
and prints that process's peak. The last column is what the tenfold data took more, a further image.

    python benchmarks/memory.py [--pictures N]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESOLUTION = 32
CLASSES = 10
KINDS = ("imagefolder", "zip", "tar.gz")
#: Bytes in a unit of ru_maxrss.
UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4000, help="in the smaller folder")
    # A child of its own for each step: numpy in this process would count as part of every child's peak.
    parser.add_argument("--child", nargs=3, metavar=("STEP", "FOLDER", "COUNT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        step, folder, count = args.child
        make(step.removeprefix("make-"), Path(folder), int(count)) if step.startswith("make-") else measure(
            step, folder
        )
        return
    print(f"{'data':<12} {'images':>9} {'bytes of pixels':>16} {'seconds':>8} {'peak MB':>8} {'bytes/image more':>17}")
    for kind in KINDS:
        peaks = []
        for factor in (1, 10):
            count = factor * args.pictures
            with tempfile.TemporaryDirectory() as folder:
                child(f"make-{kind}", folder, count)
                found = json.loads(child(kind, folder, count))
            peaks.append((count, found["peak"]))
            more = ""
            if factor == 10:
                more = f"{(peaks[1][1] - peaks[0][1]) / (peaks[1][0] - peaks[0][0]):.0f}"
            peak = f"{found['peak'] / 1e6:.1f}"
            print(
                f"{kind:<12} {count:>9,} {found['pixels']:>16,} {found['seconds']:>8.1f} {peak:>8} {more:>17}",
                flush=True,
            )


def child(step: str, folder: str, count: int) -> str:
    """Run one step in a process of its own; return what it prints."""
    command = [sys.executable, __file__, "--child", step, folder, str(count)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(kind: str, folder: str) -> None:
    """Prepare the data in `folder` and print the peak of this process as JSON."""
    from netpress.ingest.prepare import prepare
    from netpress.params.items import Data

    data = Data(
        source="imagefolder",
        root="tree" if kind == "imagefolder" else f"pictures.{kind}",
        resolution=RESOLUTION,
        val_share=0.2,
        test_share=0.1,
        split_seed=0,
        on_overlap="drop_from_train",
        on_bad_image="error",
    )
    start = time.monotonic()
    manifest = prepare(Path(folder), data, Path(folder) / "out")
    pixels = sum(map(sum, manifest.counts.values())) * manifest.resolution**2 * manifest.channels
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
    print(json.dumps({"peak": peak, "pixels": pixels, "seconds": time.monotonic() - start}))


def make(kind: str, folder: Path, count: int) -> None:
    """Write made-up data of a kind to `folder`."""
    import shutil

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for k in range(count):
        place = folder / "tree" / f"class{k % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((40, 36)).save(place / f"picture_{k:07}.jpg")
    if kind != "imagefolder":
        shutil.make_archive(str(folder / "pictures"), {"zip": "zip", "tar.gz": "gztar"}[kind], folder, "tree")
        shutil.rmtree(folder / "tree")


if __name__ == "__main__":
    main()
