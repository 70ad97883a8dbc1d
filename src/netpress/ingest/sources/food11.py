"""Food-11: 16,643 photos of food in eleven classes. Singla, Yuan, Ebrahimi, https://doi.org/10.1145/2986035.2986039.

A folder or an archive in one of its two layouts, also a folder or two further down: the course's
(`training/{label}_{i}.jpg`, `validation/{label}_{i}.jpg`, `testing/{i}.jpg` without labels) or class folders
(`training/Bread/{i}.jpg`, `validation/`, `evaluation/`). Both give the same images in the same order.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from netpress.base.errors import DataError
from netpress.ingest.archives import folder_of
from netpress.ingest.pieces import Piece, Source
from netpress.ingest.sources._pictures import PICTURES, Pictures, pieces
from netpress.ingest.sources._tree import Tree
from netpress.params.items import Data

#: In the order of the labels.
CLASSES = (
    "Bread",
    "Dairy product",
    "Dessert",
    "Egg",
    "Fried food",
    "Meat",
    "Noodles-Pasta",
    "Rice",
    "Seafood",
    "Soup",
    "Vegetable-Fruit",
)
SPLIT_NAMES = {"training": "train", "validation": "val", "evaluation": "test", "testing": "test"}
#: Images of the published data set.
OFFICIAL = {"train": 9866, "val": 3430, "test": 3347}
#: Folders above the splits that are gone down into.
DEEPEST = 2
LABELLED = re.compile(r"(\d+)_(\d+)", re.ASCII)
#: Files that come along with pictures and are none.
STRAYS = re.compile(r"thumbs\.db|desktop\.ini|.*\.(txt|md|csv|json|pdf)", re.IGNORECASE)


def read(place: Path, data: Data, aside: Path) -> Source:
    """List every picture of Food-11 at `place`; they are decoded when they are asked for.

    Raises:
        DataError: no folder `training` or `validation`, a missing class, a label outside 0 to 10, or a file whose name
            fits neither layout; names the file or folder.
    """
    tree = Tree(folder_of(place, aside, data.root), data.root)
    folders = _split_folders(tree)
    splits: dict[str, Iterator[Piece]] = {}
    unlabelled: Iterable[Piece] = ()
    counts = {}
    for name, folder in folders.items():
        if name == "test" and _has_no_labels(tree, folder):
            names = sorted(_pictures(tree, folder), key=_number)
            counts[name] = len(names)
            unlabelled = pieces(tree, [Pictures.of(folder, 0, names)], data.resolution)
            continue
        listed = _by_class(tree, folder)
        counts[name] = sum(len(found.listed()) for found in listed)
        splits[name] = pieces(tree, listed, data.resolution)
    return Source(CLASSES, splits, sum(counts.values()), unlabelled, (*tree.notes(), *_differences(counts)))


def _split_folders(tree: Tree) -> dict[str, Path]:
    folder = tree.root
    for _ in range(DEEPEST + 1):
        inside = tree.folders(folder)
        found = {place.name.lower(): place for place in inside}
        if "training" in found:
            if "validation" not in found:
                raise DataError(f"{tree.show(folder)} has training but no validation; Food-11 has both")
            if "testing" in found and "evaluation" in found:
                raise DataError(f"{tree.show(folder)} has both testing and evaluation; keep one of them")
            return {split: found[name] for name, split in SPLIT_NAMES.items() if name in found}
        if len(inside) != 1:
            break
        folder = inside[0]
    raise DataError(
        f"{tree.show(folder)} has no folder training; Food-11 is laid out as training/0_12.jpg or "
        "training/Bread/12.jpg, with validation beside it"
    )


def _has_no_labels(tree: Tree, folder: Path) -> bool:
    """Return whether no picture of the test folder says its class."""
    names = [] if tree.folders(folder) else _pictures(tree, folder)
    return bool(names) and not any(LABELLED.fullmatch(Path(name).stem) for name in names)


def _by_class(tree: Tree, folder: Path) -> list[Pictures]:
    """List the pictures of a labelled split, class by class, each in the order of their numbers."""
    folders = tree.folders(folder)
    beside = [name for name in tree.others(folder) if not name.startswith(".") and not STRAYS.fullmatch(name)]
    if folders and beside:
        raise DataError(f"{tree.show(folder)} has class folders and also {beside[0]}; keep one of the two layouts")
    listed = _from_folders(tree, folders) if folders else _from_names(tree, folder)
    missing = [f"{label} ({name})" for label, name in enumerate(CLASSES) if label not in listed]
    if missing:
        raise DataError(f"{tree.show(folder)} lacks the class {', '.join(missing)}; each split needs all eleven")
    return [listed[label] for label in range(len(CLASSES))]


def _from_names(tree: Tree, folder: Path) -> dict[int, Pictures]:
    """Sort the pictures of the course's layout by the label in their names."""
    names: dict[int, list[str]] = {}
    for name in _pictures(tree, folder):
        match = LABELLED.fullmatch(Path(name).stem)
        if match is None:
            shown = tree.show(folder / name)
            raise DataError(f"{shown}: the name says no label; expected <label>_<number>.jpg such as 0_12.jpg")
        label = int(match[1]) if len(match[1]) < 9 else len(CLASSES)
        if label >= len(CLASSES):
            raise DataError(f"{tree.show(folder / name)}: label {match[1][:9]}, allowed are 0 to {len(CLASSES) - 1}")
        names.setdefault(label, []).append(name)
    return {label: Pictures.of(folder, label, sorted(found, key=_number)) for label, found in names.items()}


def _from_folders(tree: Tree, folders: list[Path]) -> dict[int, Pictures]:
    """List the pictures of the layout with class folders; they may be named by the class or by its label."""
    known = {_plain(name): label for label, name in enumerate(CLASSES)}
    known |= {str(label): label for label in range(len(CLASSES))}
    found: dict[int, Pictures] = {}
    for place in folders:
        label = known.get(_plain(place.name))
        if label is None:
            raise DataError(
                f"{tree.show(place)} is none of the classes {', '.join(CLASSES)}; rename it or move it away"
            )
        if label in found:
            raise DataError(f"{tree.show(place)} and {found[label].folder.name} are the same class; keep one of them")
        names = _pictures(tree, place)
        if not names:
            raise DataError(f"{tree.show(place)} holds no picture; each class needs some")
        found[label] = Pictures.of(place, label, sorted(names, key=_number))
    return found


def _pictures(tree: Tree, folder: Path) -> list[str]:
    """Return the names of the pictures below `folder`; a file that is none and no known stray is refused."""
    names = [name for name in tree.files(folder) if not STRAYS.fullmatch(Path(name).name)]
    for name in names:
        if not name.lower().endswith(PICTURES):
            shown = tree.show(folder / name)
            raise DataError(f"{shown}: no picture by its name; expected {', '.join(PICTURES)}; move it away")
    return names


def _number(name: str) -> tuple[int, str]:
    """Return what sorts pictures: the number at the end of the name, so that both layouts give one order."""
    match = re.search(r"(\d{1,18})$", Path(name).stem, re.ASCII)
    return (int(match[1]) if match else -1, name)


def _plain(name: str) -> str:
    """Return a class's name without case, spaces and signs, as copies of the data set differ in them."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _differences(counts: dict[str, int]) -> Iterator[str]:
    if any(counts.get(split) != official for split, official in OFFICIAL.items()):
        shown = ", ".join(f"{split} {counts.get(split, 0):,} (published: {n:,})" for split, n in OFFICIAL.items())
        yield f"not the published Food-11: {shown}"
