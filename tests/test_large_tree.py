"""ImageNet's layout, train/<wnid>/*.JPEG of 1,000 classes, is a folder of pictures like any other."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIDE = 32
#: Prepares the tree and prints what it took.
PREPARE = """
import json, re, resource, sys, time
from pathlib import Path
from netpress.ingest.prepare import prepare, summary
from netpress.params.items import Data
root = Path(sys.argv[1])
data = Data(source="imagefolder", root="imagenet", resolution=32, val_share=0.1, test_share=0.0, split_seed=0,
            on_overlap="error", on_bad_image="error")
start = time.monotonic()
manifest = prepare(root, data, root / "out")
# Of this program alone: getrusage's is also of the one that started it.
own = int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
peaks = [1024 * own, 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]
print(json.dumps(summary(manifest) | {"seconds": time.monotonic() - start, "peaks": peaks}))
"""


def plant(root, classes, train, val):
    """Lay out small pictures that all differ: `train` and `val` of each class."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        for split, count in (("train", train), ("val", val)):
            folder = root / f"imagenet/{split}/n{label:08}"
            folder.mkdir(parents=True)
            pixels = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
            for k, image in enumerate(pixels):
                Image.fromarray(image).resize((SIDE + 8, SIDE)).save(folder / f"n{label:08}_{k}.JPEG", "JPEG")


def prepared(root):
    done = subprocess.run([sys.executable, "-c", PREPARE, root], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print({key: value for key, value in found.items() if key != "class_names"})
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    ("classes", "train", "val"), [(1000, 1, 1), pytest.param(1000, 90, 10, marks=pytest.mark.exhaustive)]
)
def test_a_thousand_classes_in_the_layout_of_imagenet(tmp_path, classes, train, val):
    """100,000 pictures take minutes on two cores and no more memory than 1,000 do, but for a hash of each."""
    plant(tmp_path, classes, train, val)
    found = prepared(tmp_path)
    assert (found["train_images"], found["val_images"]) == (classes * train, classes * val)
    assert found["class_names"] == [f"n{label:08}" for label in range(classes)]
    assert found["overlaps"] == found["skipped"] == found["duplicates"] == 0
    own, others = found["peaks"]
    assert own < 100e6 + 300 * classes * (train + val)  # as in docs/reliability.md: some 130 bytes a picture
    assert others < 100e6
    labels = np.load(tmp_path / "out/val_labels.npy")
    np.testing.assert_array_equal(np.bincount(labels), [val] * classes)
