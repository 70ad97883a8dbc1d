"""Anyone's own pictures: a folder for each class, with or without ready splits.

Either `root/<class>/*.jpg`, or `root/{train,val,test}/<class>/*.jpg` where val (also `valid`, `validation`)
and test may be absent; `root` is a folder or an archive of it. Pictures become RGB squares.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from netpress.base.errors import DataError
from netpress.ingest.archives import folder_of
from netpress.ingest.pieces import Piece, Source
from netpress.ingest.sources._pictures import PICTURES, Pictures, pieces
from netpress.ingest.sources._tree import Tree
from netpress.params.items import Data

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read(place: Path, data: Data, aside: Path) -> Source:
    """List every picture below `place`; they are decoded when they are asked for.

    A picture that cannot be used becomes a line of `Piece.bad`.

    Raises:
        DataError: no classes, classes that differ between splits, a class with too few pictures to be split, or a tree
            that cannot be read.
    """
    tree = Tree(folder_of(place, aside, data.root), data.root)
    folders = split_folders(tree)
    classes = classes_of(tree, folders["train"])
    splits: dict[str, Iterator[Piece]] = {}
    total = 0
    drawn = _drawn(folders, data)
    for name, folder in folders.items():
        _require_same_classes(name, classes_of(tree, folder), classes)
        found = [tree.files(folder / class_name) for class_name in classes]
        counts = {tree.show(folder / class_name): len(names) for class_name, names in zip(classes, found, strict=True)}
        require_enough(counts, drawn if name == "train" else [])
        total += sum(counts.values())
        listed = [Pictures.of(folder / classes[label], label, names) for label, names in enumerate(found)]
        splits[name] = pieces(tree, listed, data.resolution)
    return Source(tuple(classes), splits, total, notes=tree.notes())


def split_folders(tree: Tree) -> dict[str, Path]:
    """Return the folders of the splits, by name; without ready ones the whole tree is `train`.

    Raises:
        DataError: splits without train, or twice, or beside other folders.
    """
    found: dict[str, Path] = {}
    folders, root = tree.folders(tree.root), tree.show(tree.root)
    for place in folders:
        name = SPLIT_NAMES.get(place.name)
        if name is not None:
            if name in found:
                raise DataError(f"{root} has both {found[name].name} and {place.name}; keep one of them")
            found[name] = place
    if not found:
        return {"train": tree.root}
    if "train" not in found:
        raise DataError(f"{root} has {', '.join(p.name for p in found.values())} but no train")
    others = [p.name for p in folders if p.name not in SPLIT_NAMES]
    if others:
        raise DataError(f"{root} has splits and also {', '.join(others)}; move these out or into the splits")
    return found


def classes_of(tree: Tree, folder: Path) -> list[str]:
    """Return the classes of a split's folder, sorted.

    Raises:
        DataError: fewer than two, or pictures beside the class folders.
    """
    classes = [place.name for place in tree.folders(folder)]
    shown = tree.show(folder)
    if len(classes) < 2:
        raise DataError(
            f"{shown} has {len(classes)} class folders, at least 2 are needed: {Path(shown).name}/<class>/<picture>"
        )
    beside = [name for name in tree.others(folder) if name.lower().endswith(PICTURES)]
    if beside:
        raise DataError(f"{shown} holds {len(beside)} pictures beside its class folders, the first is {beside[0]}")
    return classes


def _drawn(folders: Mapping[str, Path], data: Data) -> list[str]:
    """Return the splits that are drawn from the training images."""
    return [
        name for name, share in (("val", data.val_share), ("test", data.test_share)) if name not in folders and share
    ]


def require_enough(counts: Mapping[str, int], drawn: Sequence[str]) -> None:
    """Raise unless each class, of which `counts` has the pictures, leaves one for every split of `drawn`.

    Raises:
        DataError: some have too few; names them.
    """
    few = [f"{shown} ({count})" for shown, count in counts.items() if count <= len(drawn)]
    if not few:
        return
    if not drawn:
        raise DataError(f"no picture in {', '.join(few)}; add some, or remove the class everywhere")
    keys = " and ".join(f"{name} (data.{name}_share)" for name in drawn)
    raise DataError(
        f"too few pictures to split in {', '.join(few)}: a class needs {len(drawn) + 1} or more, one for train and one "
        f"each for {keys}, which are drawn from it; add some, or remove the class"
    )


def _require_same_classes(split: str, found: list[str], expected: list[str]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has {', '.join(extra)}, unknown to train"] if extra else []
        raise DataError(f"{split} {' and '.join(parts)}; every split needs the same class folders")
