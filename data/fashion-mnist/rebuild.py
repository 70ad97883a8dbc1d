"""Draw the embedded subset of Fashion-MNIST again, or check the files that are here.

    python data/fashion-mnist/rebuild.py FOLDER     draw the subset from the upstream files in FOLDER
    python data/fashion-mnist/rebuild.py --check    check the committed files alone

FOLDER holds the four upstream files (train-images-idx3-ubyte.gz and so on, packed or not). They are in
Debian's package dataset-fashion-mnist, or torchvision.datasets.FashionMNIST(root, download=True) puts them
into root/FashionMNIST/raw. Needs numpy alone.
"""

import argparse
import gzip
import hashlib
import sys
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SEED = 0
CLASSES = 10
SIDE = 28
PER_CLASS = {"train": 1000, "t10k": 300}
PARTS = ("images-idx3-ubyte", "labels-idx1-ubyte")
#: sha256 of the decompressed upstream files; the packing differs from one distributor to the next.
UPSTREAM = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class RebuildError(Exception):
    """Shown as one line."""


def sha256(data: bytes) -> str:
    """Return the sha256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def read(folder: Path, name: str) -> bytes:
    """Return the decompressed bytes of `name` or `name`.gz in `folder`."""
    packed, plain = folder / f"{name}.gz", folder / name
    try:
        if packed.is_file():
            return gzip.decompress(packed.read_bytes())
        return plain.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise RebuildError(f"{folder / name}[.gz] cannot be read ({error})") from None


def choose(labels: np.ndarray, per_class: int, seed: int, stream: int) -> np.ndarray:
    """Return the sorted indices of `per_class` images of each class.

    Args:
        labels: (N) classes, 0 to 9.
        per_class: images of each class.
        seed: names the stream of random numbers, with `stream` and the class.
        stream: 0 for the training images, 1 for the test images.
    """
    chosen = []
    for label in range(CLASSES):
        mine = np.flatnonzero(labels == label)
        if len(mine) < per_class:
            raise RebuildError(f"class {label} has {len(mine)} images, {per_class} are needed")
        chosen.append(np.random.default_rng([seed, stream, label]).permutation(mine)[:per_class])
    return np.sort(np.concatenate(chosen))


def subset(images: bytes, labels: bytes, per_class: int, seed: int, stream: int) -> tuple[bytes, bytes]:
    """Return the chosen images and labels as IDX files, in their original order."""
    pictures = np.frombuffer(images, np.uint8, offset=16).reshape(-1, SIDE, SIDE)
    classes = np.frombuffer(labels, np.uint8, offset=8)
    if len(pictures) != len(classes):
        raise RebuildError(f"{len(pictures)} images but {len(classes)} labels")
    index = choose(classes, per_class, seed, stream)
    count = len(index).to_bytes(4, "big")
    return (
        images[:4] + count + images[8:16] + pictures[index].tobytes(),
        labels[:4] + count + classes[index].tobytes(),
    )


def rebuild(source: Path, out: Path) -> None:
    """Write the four subset files and SHA256SUMS into `out`."""
    upstream = {name: read(source, name) for name in UPSTREAM}
    for name, data in upstream.items():
        if sha256(data) != UPSTREAM[name]:
            raise RebuildError(f"{source / name}[.gz] is not the upstream file: its sha256 is {sha256(data)}")
    sums = []
    for stream, (split, per_class) in enumerate(PER_CLASS.items()):
        names = [f"{split}-{part}" for part in PARTS]
        made = subset(upstream[names[0]], upstream[names[1]], per_class, SEED, stream)
        for name, data in zip(names, made, strict=True):
            # No file name and no time in the gzip header, so that the same bytes come out again.
            (out / f"{name}.gz").write_bytes(gzip.compress(data, compresslevel=9, mtime=0))
            sums.append(f"{sha256(data)}  {name}\n")
    (out / "SHA256SUMS").write_text("".join(sums), encoding="utf-8", newline="\n")


def check(folder: Path) -> None:
    """Compare the files in `folder` with SHA256SUMS, and the images of each class with the numbers above."""
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RebuildError(f"{folder / 'SHA256SUMS'} cannot be read ({error.strerror})") from None
    sums = {name: digest for digest, name in (line.split() for line in lines)}
    if set(sums) != set(UPSTREAM):
        raise RebuildError(f"SHA256SUMS names {sorted(sums)} in place of {sorted(UPSTREAM)}")
    for name, digest in sums.items():
        data = read(folder, name)
        if sha256(data) != digest:
            raise RebuildError(f"{name} differs from SHA256SUMS: restore it with 'git checkout -- data/fashion-mnist'")
        if "labels" in name:
            counts = np.bincount(np.frombuffer(data, np.uint8, offset=8), minlength=CLASSES)
            if set(counts) != {PER_CLASS[name.split("-")[0]]}:
                raise RebuildError(f"{name}: unequal classes {counts.tolist()}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="folder with the upstream files")
    parser.add_argument("--check", action="store_true", help="check the committed files, change nothing")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write or check (default: beside this script)")
    args = parser.parse_args(arguments)
    if (args.folder is None) != args.check:
        parser.error("name either FOLDER or --check")
    try:
        if args.folder is not None:
            rebuild(args.folder, args.out)
        check(args.out)
    except (RebuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("ok: 10,000 training and 3,000 test images, 1,000 and 300 of each class")
    return 0


if __name__ == "__main__":
    sys.exit(main())
