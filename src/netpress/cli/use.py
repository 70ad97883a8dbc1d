"""Write params.yaml from a profile.

    python -m netpress use imagefolder
    python -m netpress use default --force     back to the committed params, hand edits lost

params.yaml becomes profiles/default.yaml changed by profiles/PROFILE.yaml, comments kept. Edits made to
params.yaml by hand are not overwritten unless --force is given. `use default` goes back.
"""

import argparse
from pathlib import Path

from netpress.base import files
from netpress.base.errors import ConfigError, NetpressError, ParamsError
from netpress.base.project import find_root
from netpress.graph.checks import checked
from netpress.params import profiles, reader
from netpress.params.document import Document, parse_document, read_document
from netpress.params.profiles import REPLACED
from netpress.params.whole import Params
from netpress.verify.dvc_lock import changed_values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("profile", metavar="PROFILE", help="a file of profiles/, without .yaml: default, smoke, ...")
    parser.add_argument("--force", action="store_true", help="overwrite params.yaml although it was edited by hand")


def run(args: argparse.Namespace) -> None:
    """Write params.yaml of the project around the current folder."""
    root = find_root()
    text = profiles.render(root / "profiles", args.profile)
    target = root / "params.yaml"
    if target.exists() and not args.force:
        refuse_hand_edits(target, root / "profiles")
    models = _count_models(root / "profiles", args.profile, text)
    files.write_text(target, text)
    print(f"params.yaml is now the profile {args.profile} ({models} models); 'dvc repro' runs it")


def _count_models(folder: Path, profile: str, text: str) -> int:
    """Validate `text` as a whole params.yaml and count its models."""
    try:
        return len(check(folder, profile, text).items())
    except ConfigError as error:
        raise ConfigError(f"profile {profile} is not valid, so params.yaml was left as it is:\n{error}") from None


def refuse_hand_edits(target: Path, folder: Path) -> None:
    """Raise unless `target` is what `use` writes for the profile that it names."""
    remedy = "commit or copy it if you need it, then add --force to overwrite it"
    try:
        current = reader.read(target)
        recorded = str(current.get("profile", ""))
        fresh = profiles.render(folder, recorded)
    except NetpressError as error:
        raise ConfigError(f"params.yaml cannot be compared with its profile ({error}); {remedy}") from None
    if target.read_text(encoding="utf-8") == fresh:
        return
    values = parse_document(fresh.encode(), "params.yaml").values
    changed = [key.removeprefix(".") for key, _, _ in changed_values(current, values, "")]
    what = ", ".join(changed[:8]) + (f" and {len(changed) - 8} more" if len(changed) > 8 else "")
    raise ConfigError(
        f"params.yaml differs from the profile {recorded} in {what or 'comments or layout alone'}; {remedy}"
    )


def check(folder: Path, name: str, text: str) -> Params:
    """Validate `text`, which `render` returned for profile `name`.

    Raises:
        ConfigError: each fault with its line in the overlay, or else in default.yaml.
    """
    try:
        return checked(parse_document(text.encode(), "params.yaml"))
    except ParamsError as error:
        overlay, base = read_document(folder / f"{name}.yaml"), read_document(folder / "default.yaml")
        own = [fault for fault in error.faults if _stands_in(overlay, fault[0])]
        others = [fault for fault in error.faults if fault not in own]
        lines = [source.describe(part) for source, part in ((overlay, own), (base, others)) if part]
        raise ConfigError("\n".join(lines)) from None


def _stands_in(overlay: Document, key: str) -> bool:
    """Whether `overlay` states `key`, or replaces the section in which it stands or is missing."""
    parts = key.split(".")
    replaced = [".".join(parts[: i + 1]) for i, part in enumerate(parts) if part in REPLACED]
    return any(stated in overlay.content.places for stated in [key, *replaced])
