"""YAML 1.2 as DVC's ruamel.yaml reads it, less what is ambiguous, with the line and column of each key.

Two kinds of fault: what breaks the file (syntax, duplicate keys, anchors, tags, ...) raises at once; a value that
YAML readers take for different things (010, 1_000, a date) is kept with its key in `Content.doubtful`, so that it
stops only what reads that key.
"""

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from netpress.base.errors import ConfigError

MAX_BYTES = 1 << 16  # about two seconds to read at worst
MAX_KEY = 200
MAX_TEXT = 4096
MAX_DIGITS = 18

TAG = "tag:yaml.org,2002:"
#: Control characters, line ends that only some readers know, and halves of characters.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
#: What may not stand in a file: the same but for tabs and line ends, and directives, which change how it is read.
FORBIDDEN = re.compile(rf"(?![\t\n]|\r\n){CONTROL.pattern}|^%", re.MULTILINE)
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?")
SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


@dataclass(frozen=True)
class Content:
    """What a file says, and where."""

    values: dict[str, Any]
    places: Mapping[str, tuple[int, int]]  # dotted key, list items by their index -> (line, column), from 1
    doubtful: Mapping[str, tuple[str, str]]  # dotted key -> (value as written, what is wrong with it)


def parse_yaml(content: bytes, name: str) -> Content:
    """Parse the bytes of the file `name`.

    Raises:
        ConfigError: not UTF-8, too large, or not YAML that every reader takes for the same.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(content) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES:,} bytes; a variant takes some 300")
    reader = _Reader(name, _decode(content, name))
    try:
        # Pure Python, so that places and messages are the same whether or not ruamel's C extension is there.
        with warnings.catch_warnings(action="ignore"):  # about anchors, which are refused below
            node = YAML(typ="safe", pure=True).compose(reader.text)
        values = None if node is None else reader.value(node, "", False)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = at(name, mark.line + 1, mark.column + 1) if mark else at(name, 0, 0)
        problem = (error.problem or "not YAML").strip().splitlines()[0]
        raise ConfigError(f"{place}{problem}; check indentation, quotes and brackets here and above") from None
    except (YAMLError, ValueError, OverflowError, RecursionError) as error:  # an escape as "\UFFFFFFFF", deep nesting
        raise ConfigError(f"{name}: cannot be read as YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: expected sections of keys and values, found {type(values).__name__}")
    return Content(values, reader.places, reader.doubtful)


def at(name: str, line: int, column: int) -> str:
    """Return the beginning of a message about a place in the file `name`; line 0 stands for the whole file."""
    return f"{name}, line {line}, column {column}: " if line else f"{name}: "


def _decode(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        place = _place(name, content[: error.start].decode("utf-8"))
        raise ConfigError(f"{place}not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8") from None
    if found := FORBIDDEN.search(text):
        what = f"character U+{ord(found[0]):04X}" if found[0] != "%" else "a directive (% at the margin)"
        raise ConfigError(f"{_place(name, text[: found.start()])}{what} is not allowed here; delete it")
    return text


def _place(name: str, before: str) -> str:
    return at(name, before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1)


class _Reader:
    """Makes values of ruamel's nodes, and notes the places of their keys and what is doubtful."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self.places: dict[str, tuple[int, int]] = {}
        self.doubtful: dict[str, tuple[str, str]] = {}

    def value(self, node: Any, key: str, in_brackets: bool) -> Any:
        """Return the value of a node that stands under the dotted `key`."""
        self._check(node, in_brackets)
        if node.id == "scalar":
            return self._scalar(node, key)
        in_brackets = in_brackets or node.flow_style
        if node.id == "sequence":
            items = []
            for index, item in enumerate(node.value):
                self._note(f"{key}.{index}", item)
                items.append(self.value(item, f"{key}.{index}", in_brackets))
            return items
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = self._key(key_node, in_brackets)
            path = f"{key}.{name}" if key else name
            if name in found:
                line = self.places[path][0]
                self._refuse(
                    key_node, f"found duplicate key '{name}', which stands in line {line} already; keep one of them"
                )
            self._note(path, key_node)
            found[name] = self.value(value_node, path, in_brackets)
        return found

    def _note(self, key: str, node: Any) -> None:
        self.places[key] = (node.start_mark.line + 1, node.start_mark.column + 1)

    def _refuse(self, node: Any, problem: str) -> NoReturn:
        raise ConfigError(at(self.name, node.start_mark.line + 1, node.start_mark.column + 1) + problem)

    def _check(self, node: Any, in_brackets: bool) -> None:
        if self.text.startswith(("&", "!"), node.start_mark.index):
            self._refuse(
                node, "write the values out instead of an anchor or a tag; 'dvc exp run -S' would change one place only"
            )
        # The parser in C, which DVC takes where it is there, refuses the file.
        if in_brackets and node.id == "scalar" and node.style is None and set(":?") & set(node.value):
            self._refuse(
                node, f"not every reader of YAML takes this inside brackets for text; quote '{node.value[:60]}'"
            )

    def _key(self, node: Any, in_brackets: bool) -> str:
        self._check(node, in_brackets)
        name = node.value
        is_name = node.id == "scalar" and node.tag == f"{TAG}str" and 0 < len(name) <= MAX_KEY
        if not is_name or SEXAGESIMAL.fullmatch(name) or CONTROL.search(name):
            found = repr(name[:60]) if node.id == "scalar" else f"a {node.id}"
            self._refuse(node, f"found {found} as a key; keys are names of up to {MAX_KEY} characters, a letter first")
        return str(name)

    def _scalar(self, node: Any, key: str) -> Any:
        text, tag, plain = node.value, node.tag.removeprefix(TAG), node.style is None
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() == "true"
        if tag == "int" and INTEGER.fullmatch(text) and len(text) <= MAX_DIGITS:
            return int(text)
        if tag == "float" and DECIMAL.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
        if tag == "float" and text.lstrip("+-").lower() in (".nan", ".inf"):
            return float(text.replace(".", ""))  # no knob takes it: every config names its own range
        if tag in ("int", "float"):
            problem = (
                f"YAML readers differ on this number; write up to {MAX_DIGITS} decimal digits, none of them a leading 0"
            )
        elif tag != "str" or (plain and SEXAGESIMAL.fullmatch(text)):
            problem = "YAML readers take this for a date, a number in base 60 or a sign; put it in quotes if it is text"
        elif CONTROL.search(text) or len(text) > MAX_TEXT:
            problem = f"text must be one line of at most {MAX_TEXT:,} characters, without control characters"
        else:
            return text
        shown = text if len(text) <= 60 else text[:57] + "..."
        self.doubtful[key] = (shown if plain else repr(shown), problem)
        return text
