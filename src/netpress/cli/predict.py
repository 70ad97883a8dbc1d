"""Name the classes of pictures.

    python -m netpress predict distill/kd_strong photo.jpg more/         the three likeliest classes of each
    python -m netpress predict shipped photos.zip --top 1 --csv out.csv  an exported folder, into a table
    python -m netpress predict distill/kd_strong --course out.csv        the data's pictures without labels

The model is a model id of the project, a model folder, or a folder of `export`; places are pictures, folders of them at
any depth, or archives. Pictures that cannot be used are named at the end, and the exit code is then 1; all others are
done. `--course` writes the table that the Food-11 course asks for, `Id,label`: Id is a picture's name without its
ending, label the number of its class; without places it is of the images that the data source has without labels.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from netpress.base import files
from netpress.base.errors import ConfigError, DataError
from netpress.base.project import PREPARED, find_root
from netpress.cli._arguments import whole_number
from netpress.cli._models import made
from netpress.process.machine import cores

if TYPE_CHECKING:
    import numpy as np

    from netpress.deploy.predictor import Predictor

LABEL = "label"
#: Images of the prepared data that are named at once.
BATCH = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model id, a model folder, or a folder of `export`")
    parser.add_argument(
        "places", metavar="PLACE", type=Path, nargs="*", help="a picture, a folder or an archive of them"
    )
    parser.add_argument(
        "--top", type=whole_number, default=3, metavar="K", help="classes for each picture (default: 3)"
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="for scripts: a list of pictures with classes, on stdout")
    forms.add_argument("--csv", metavar="FILE", type=Path, help="a table with a row for each picture")
    forms.add_argument("--course", metavar="FILE", type=Path, help="the table Id,label")
    parser.add_argument("--force", action="store_true", help="overwrite FILE if it exists")


def run(args: argparse.Namespace) -> None:
    """Name the classes and print them, or write the table that is asked for."""
    from netpress.ingest.pieces import bad_words

    target = args.csv or args.course
    if target and target.exists() and not args.force:
        raise ConfigError(f"{target} exists; name another file, or add --force to overwrite it")
    if not args.places and not args.course:
        raise ConfigError("name a picture, a folder or an archive; --course FILE takes the data's unlabelled images")
    predictor = _predictor(args.model)
    with ExitStack() as stack:
        found = _pictures(predictor, args.places, stack) if args.places else _unlabelled(predictor)
        shares: dict[str, np.ndarray] = {}
        bad: list[str] = []
        for name, answer in found:
            if isinstance(answer, str):
                bad.append(answer)
            elif args.course and Path(name).stem in shares:
                raise DataError(f"two pictures have the name {Path(name).stem}; the table tells them by name")
            else:
                shares[Path(name).stem if args.course else name] = answer
    if args.course:
        _write_course(args.course, shares)
    else:
        _show(args, predictor, shares)
    if target:
        print(f"wrote {len(shares):,} predictions of {args.model} to {target}")
    if bad:
        raise DataError(f"{bad_words(bad, len(bad), len(bad) + len(shares))}. The others are done")


def _predictor(model: str) -> "Predictor":
    from netpress.base.model_files import SEEDS, SPEC
    from netpress.deploy.predictor import CARD, open_exported, open_model

    threads, place = cores(), Path(model)
    if (place / CARD).is_file():
        return open_exported(place, threads)
    if any((place / name).is_file() for name in (SPEC, SEEDS)):
        return open_model(place, threads)
    root = find_root()
    return open_model(made(root, model).folder(root), threads)


def _write_course(path: Path, shares: "dict[str, np.ndarray]") -> None:
    from netpress.core.dataset import ID

    rows = [{ID: name, LABEL: int(shares[name].argmax())} for name in _in_order(list(shares))]
    files.write_csv(path, rows, [ID, LABEL])


def _in_order(names: list[str]) -> list[str]:
    """Sort ids as numbers if all are, otherwise as text."""
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=lambda name: (int(name), name) if numbers else (0, name))


def _show(args: argparse.Namespace, predictor: "Predictor", shares: "dict[str, np.ndarray]") -> None:
    """Print the likeliest classes of each picture, or write them as the command line asks."""
    from netpress.deploy.predictor import top

    rows: list[dict[str, Any]] = []
    for name, answer in shares.items():
        best = [(predictor.classes[k], float(answer[k])) for k in top(answer, args.top)]
        rows.append({"picture": name, "classes": [{"class": c, "probability": round(p, 6)} for c, p in best]})
    if args.json:
        print(json.dumps(rows, ensure_ascii=False, indent=1))
    elif args.csv:
        columns = ["picture", *(f"{what}_{k}" for k in range(1, args.top + 1) for what in ("class", "probability"))]
        files.write_csv(args.csv, [_flat(row) for row in rows], columns[: 1 + 2 * len(predictor.classes)])
    else:
        for row in rows:
            print(row["picture"], *(f"{c['class']} {c['probability']:.1%}" for c in row["classes"]), sep="  ")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    cells = {"picture": row["picture"]}
    for k, found in enumerate(row["classes"], 1):
        cells |= {f"{what}_{k}": value for what, value in found.items()}
    return cells


def _unlabelled(predictor: "Predictor") -> Iterator[tuple[str, "np.ndarray"]]:
    """Yield ids and probabilities of the prepared images without labels."""
    from netpress.core.dataset import load_manifest, load_unlabelled

    root = find_root()
    manifest = load_manifest(root / PREPARED)
    if not manifest.unlabelled:
        raise DataError(f"{manifest.source} has no images without labels; name pictures, a folder or an archive")
    images, ids = load_unlabelled(root / PREPARED, manifest)
    wanted = (predictor.size, predictor.size, predictor.channels)
    if images.shape[1:] != wanted:
        has, takes = ("x".join(map(str, shape)) for shape in (images.shape[1:], wanted))
        raise DataError(f"the prepared images are {has}, the model takes {takes}; run 'dvc repro'")
    for start in range(0, len(ids), BATCH):
        yield from zip(ids[start : start + BATCH], predictor.probabilities(images[start : start + BATCH]), strict=True)


def _pictures(predictor: "Predictor", places: list[Path], stack: ExitStack) -> "Iterator[tuple[str, np.ndarray | str]]":
    """Yield names of pictures, and probabilities or why they cannot be used, with progress."""
    from netpress.process.progress import ImageProgress

    listed: list[tuple[str, Path]] = []
    lacking: list[tuple[str, DataError]] = []
    for place in places:
        try:
            listed += _listed(place, stack)
        except DataError as error:
            lacking.append((str(place), error))
    if lacking and not listed:
        raise lacking[0][1]
    yield from ((name, str(error)) for name, error in lacking)
    progress = ImageProgress("reading", len(listed))
    stack.callback(progress.close)
    for name, answer in predictor.of_pictures(listed, cores()):
        progress.add(1)
        yield name, answer


def _listed(place: Path, stack: ExitStack) -> list[tuple[str, Path]]:
    """Return what a place holds: the name and the path of each picture."""
    from netpress.ingest.archives import folder_of
    from netpress.ingest.sources._pictures import PICTURES
    from netpress.ingest.sources._tree import Tree

    if not place.exists():
        raise DataError(f"{place} does not exist; name a picture, a folder or an archive of pictures")
    if place.is_file() and place.suffix.lower() in PICTURES:
        return [(str(place), place)]
    aside = stack.enter_context(TemporaryDirectory())
    tree = Tree(folder_of(place, Path(aside) / "unpacked", str(place)), str(place))
    names = [name for name in tree.files(tree.root) if name.lower().endswith(PICTURES)]
    if not names:
        raise DataError(f"{place} holds no picture ({', '.join(PICTURES)})")
    return [(tree.show(tree.root / name), tree.root / name) for name in names]
