"""Look at a folder of pictures, propose how to compress a network for them, and write params.yaml.

    python -m netpress init data/pictures                  for a run of about half an hour
    python -m netpress init ~/photos --minutes 10 --dry-run

The folder holds a folder for each class, or train, val and test with such folders. What is found is printed: classes,
pictures, sizes, broken and doubled files. Resolution and epochs are chosen so that `python -m netpress run` takes about
as long as --minutes says, by the speed of this machine; params.yaml is the profile `imagefolder` with these values.
"""

import argparse
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netpress.base import files
from netpress.base.errors import DataError
from netpress.base.project import find_root
from netpress.cli._arguments import whole_number
from netpress.process.machine import cores

if TYPE_CHECKING:
    from netpress.ingest.survey import Survey
    from netpress.params.whole import Params

PROFILE = "imagefolder"
#: Without ready splits: the share of validation images, the share of test images, and from how many pictures on.
VAL_SHARE, TEST_SHARE, TESTED = 0.2, 0.1, 300
#: Pictures, classes and faults that are named.
NAMED = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the pictures, a folder for each class")
    parser.add_argument("--minutes", type=whole_number, default=30, help="that the run may take (default: 30)")
    parser.add_argument("--resolution", type=whole_number, help="side of the images in pixels, instead of the proposed")
    parser.add_argument("--dry-run", action="store_true", help="print what was found and proposed, and write nothing")
    parser.add_argument("--force", action="store_true", help="overwrite params.yaml although it was edited by hand")


def run(args: argparse.Namespace) -> None:
    """Survey the folder and write params.yaml of the project around the current folder."""
    from netpress.cli.use import refuse_hand_edits
    from netpress.ingest.sources._pictures import PICTURES
    from netpress.ingest.sources.imagefolder import require_enough
    from netpress.ingest.survey import survey
    from netpress.process.progress import ImageProgress

    root = find_root()
    if not args.folder.is_dir():
        raise DataError(f"{args.folder} is no folder; name the folder that holds a folder of pictures for each class")
    if not args.dry_run and not args.force:
        refuse_hand_edits(root / "params.yaml", root / "profiles")
    with closing(ImageProgress("looking at", 0, "pictures")) as progress:
        seen = survey(args.folder, str(args.folder), progress.reached)
    print("\n".join(_found(args.folder, seen)))
    if not seen.good:
        endings = ", ".join(PICTURES)
        raise DataError(f"{args.folder} holds no picture that can be used ({endings}), in a folder for each class")
    drawn = [key.removesuffix("_share") for key, share in _shares(seen).items() if share]
    require_enough(seen.counts("train"), drawn)
    text, params, seconds = _fitting(root, args, seen)
    print("\n".join(_proposed(params, _shares(seen), seconds, args.minutes)))
    if args.dry_run:
        return
    files.write_text(root / "params.yaml", text)
    print("wrote params.yaml; 'python -m netpress run' begins, 'python -m netpress use default' goes back")


def _fitting(root: Path, args: argparse.Namespace, seen: "Survey") -> "tuple[str, Params, float]":
    """Return the first params.yaml whose run fits into the minutes, or the shortest: text, params and seconds."""
    from netpress.execute import budget
    from netpress.graph.checks import checked
    from netpress.params import profiles
    from netpress.params.document import parse_document

    base, data = profiles.render(root / "profiles", PROFILE), _data(root, args.folder, seen)
    speed, found = budget.macs_a_second(), []
    for resolution, share in budget.choices(seen.side(0.5), args.resolution):
        text = profiles.changed(base, partial(budget.apply, data=data, resolution=resolution, share=share))
        params = checked(parse_document(text.encode(), "params.yaml"))
        seconds = budget.seconds(params, len(seen.counts("train")), _train_images(seen), speed, cores())
        found.append((text, params, seconds))
        if seconds <= 60 * args.minutes:
            break
    return found[-1]


def _found(folder: Path, seen: "Survey") -> list[str]:
    """Return what was found, in lines."""
    lines = []
    for split in seen.splits:
        counts = seen.counts(split)
        shown = [f"{name} {count:,}" for name, count in counts.items()]
        more = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
        lines.append(f"{folder} ({split}): {counts.total():,} pictures, {len(counts)} classes")
        lines.append(f"  {', '.join(shown[:NAMED])}{more}")
    if seen.good:
        lines.append(
            f"  shorter side: {seen.side(0)} to {seen.side(1)} pixels, of half of them at least {seen.side(0.5)}"
        )
    if seen.bad:
        lines.append(f"  {len(seen.bad)} cannot be used and will be skipped:")
        lines += [f"    {picture.fault}" for picture in seen.bad[:NAMED]]
    if seen.doubles:
        lines.append(f"  {len(seen.doubles)} pictures are there more than once:")
        lines += [f"    {' = '.join(picture.shown for picture in group)}" for group in seen.doubles[:NAMED]]
    across = [group for group in seen.doubles if len({picture.label for picture in group}) > 1]
    if across:
        lines.append(f"  {len(across)} of these in more than one class: a network cannot learn both; remove one")
    return [*lines, *(f"  {note}" for note in seen.notes)]


def _shares(seen: "Survey") -> dict[str, float]:
    """Return the shares of the training images that validation and test are drawn from."""
    tested = "test" not in seen.splits and len(seen.good) >= TESTED
    return {"val_share": 0.0 if "val" in seen.splits else VAL_SHARE, "test_share": TEST_SHARE if tested else 0.0}


def _data(root: Path, folder: Path, seen: "Survey") -> dict[str, Any]:
    """Return the keys of the section data, but for the resolution."""
    place = folder.resolve()
    own = place.relative_to(root).as_posix() if place.is_relative_to(root) else str(place)
    drawn = {key: share for key, share in _shares(seen).items() if share or key != "val_share"}  # which is never 0
    return drawn | {"root": own, "on_bad_image": "skip" if seen.bad else "error"}


def _train_images(seen: "Survey") -> int:
    return max(1, round(seen.counts("train").total() * (1 - sum(_shares(seen).values()))))


def _proposed(params: "Params", shares: dict[str, float], seconds: float, minutes: int) -> list[str]:
    """Return what is proposed, in lines."""
    data, quick = params.data, params.recipes["quick"]
    drawn = [f"{100 * share:.0f} % for {name.removesuffix('_share')}" for name, share in shares.items() if share]
    strong = params.train["resnet18_strong"].epochs
    lines = [
        f"proposed: {data.resolution}x{data.resolution} pixels; {', '.join(drawn) or 'the splits that are there'}; "
        f"{strong} epochs of the large network, and {quick.min_steps:,} steps of every network at least",
        f"  {len(params.items())} models in about {max(1, round(seconds / 60))} minutes on {cores()} cores",
    ]
    if seconds > 60 * minutes:
        lines.append(f"  more than the {minutes} minutes asked for; with fewer epochs nothing would be learned")
    return lines
