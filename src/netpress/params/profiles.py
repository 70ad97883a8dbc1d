"""Profiles: profiles/default.yaml states every knob, profiles/<name>.yaml overlays some of them.

A section of variants, and `final`, is replaced as a whole; elsewhere an overlay changes single keys.
Comments are kept: those of the default file, and with a replaced section its own.
"""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.base.errors import ConfigError
from netpress.base.project import MODEL_STAGES
from netpress.base.words import did_you_mean
from netpress.params import reader
from netpress.params.document import parse_document

#: Keys that an overlay replaces as a whole, at the top and, for a method's own options, below it.
REPLACED = (
    *(stage for stage in MODEL_STAGES if stage != "prune"),
    "final",
    "claims",
    "experiments",
    "options",
    "method_options",
)


@dataclass(frozen=True)
class Block:
    """One top-level key of a YAML file as text."""

    head: str  # blank lines and comments above the key
    body: str  # the key's line and all that belongs to it


def names(folder: Path) -> list[str]:
    """Return the profiles of `folder`, `default` first."""
    found = {path.stem for path in folder.glob("*.yaml")}
    return sorted(found, key=lambda name: (name != "default", name))


def render(folder: Path, name: str) -> str:
    """Return the text of params.yaml for profile `name` of `folder`; it is merged, not yet validated."""
    known = names(folder)
    if name not in known:
        raise ConfigError(f"no profile '{name}'{did_you_mean(name, known)}; known: {', '.join(known) or 'none'}")
    base_file, overlay_file = folder / "default.yaml", folder / f"{name}.yaml"
    base = reader.read(base_file)
    base_text = _read(base_file)
    if name == "default":
        return base_text
    overlay = reader.read(overlay_file)
    if overlay.setdefault("profile", name) != name:
        raise ConfigError(f"{overlay_file.name}: profile is '{overlay['profile']}', but the file's name says '{name}'")
    for key in overlay:
        if key not in base:
            raise ConfigError(f"{overlay_file.name}: unknown section '{key}'{did_you_mean(key, list(base))}")
    text = _merge_text(base_text, _read(overlay_file), overlay)
    if text is None or parse_document(text.encode(), name).values != _merge(base, overlay):
        raise ConfigError(
            f"{overlay_file.name}: cannot be merged with default.yaml; "
            "write each section as 'name:' at the margin with its keys indented below it"
        )
    return text


def changed(text: str, change: Callable[[Any], None]) -> str:
    """Return the text of a params.yaml whose content `change` has altered in place; comments are kept."""
    yaml = _round_trip()
    content = yaml.load(text)
    change(content)
    out = io.StringIO()
    yaml.dump(content, out)
    return out.getvalue()


def _merge_text(base: str, overlay: str, values: Mapping[str, Any]) -> str | None:
    """Return `base` changed by `overlay`, whose content is `values`; None when its layout cannot be followed."""
    from ruamel.yaml.error import YAMLError

    blocks, end = _split(base)
    over_blocks = _without_header(_split(overlay)[0])
    try:
        return "".join(_combine(key, block, over_blocks.get(key), values) for key, block in blocks.items()) + end
    except YAMLError:
        return None


def _read(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text if text.endswith("\n") else text + "\n"


def _split(text: str) -> tuple[dict[str, Block], str]:
    """Split a YAML file at its top-level keys: key -> block in the file's order, and the comments at its end."""
    blocks: dict[str, Block] = {}
    key, head, body = "", "", ""
    waiting = ""  # blank lines and comments at the margin: the next key's head, unless the body goes on
    for line in text.splitlines(keepends=True):
        if match := re.match(r"""["']?([A-Za-z_]\w*)["']?\s*:(\s|$)""", line):
            if key:
                blocks[key] = Block(head, body)
            key, head, body, waiting = match[1], waiting, line, ""
        elif not line.strip() or line.startswith("#"):
            waiting += line
        else:
            body, waiting = body + waiting + line, ""
    if key:
        blocks[key] = Block(head, body)
    return blocks, waiting


def _without_header(blocks: dict[str, Block]) -> dict[str, Block]:
    """Drop what stands above the first key up to a blank line: it is about the file, not about the key."""
    for key, block in blocks.items():
        _, blank, own = block.head.rpartition("\n\n")
        return blocks | {key: Block(blank and f"\n{own}", block.body)}
    return blocks


def _combine(key: str, block: Block, over: Block | None, overlay: Mapping[str, Any]) -> str:
    if key not in overlay:
        return block.head + block.body
    if over is not None and key in REPLACED:
        return (over.head if "#" in over.head else block.head) + over.body
    yaml = _round_trip()
    section = yaml.load(block.body)
    change = yaml.load(over.body) if over is not None else {key: overlay[key]}
    out = io.StringIO()
    yaml.dump(_merge(section, change), out)
    return block.head + out.getvalue()


def _round_trip() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 4096
    yaml.preserve_quotes = True
    return yaml


def _merge(base: Any, overlay: Any) -> Any:
    """Change `base`, a mapping of any kind, by `overlay`; return it."""
    for key, value in overlay.items():
        if key not in REPLACED and isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            _merge(base[key], value)
        else:
            base[key] = value
    return base
