"""YAML 1.2 as DVC's ruamel.yaml reads it, less what is ambiguous.

The text is taken as ruamel.yaml's stream of events, so that every value has its line and column, and depth is
bounded before anything is built.

Two kinds of fault: what breaks the file (syntax, duplicate keys, anchors, tags, ...) raises at once; a value that
YAML readers take for different things (010, 1_000, a date) is kept with its key in `Content.doubtful`, so that it
stops only what reads that key.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from netpress.base.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_VALUES = 20_000  # about a second to read
MAX_KEY = 200
MAX_TEXT = 4096
MAX_DIGITS = 18

TAG = "tag:yaml.org,2002:"
#: What may stand in a file beside printable characters, spaces, tabs and line ends.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]|\r(?!\n)")
#: Not allowed in keys and values either, where an escape such as "\0" can put it.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
TAB_INDENT = re.compile(r"^[ \t]*\t[ \t]*[^\s#]", re.MULTILINE)
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
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES:,} bytes; a params file takes a few thousand")
    reader = _Reader(name, _decode(content, name))
    return Content(reader.values, reader.places, reader.doubtful)


def at(name: str, line: int, column: int) -> str:
    """Return the beginning of a message about a place in the file `name`; line 0 stands for the whole file."""
    return f"{name}, line {line}, column {column}: " if line else f"{name}: "


def _decode(content: bytes, name: str) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        raise ConfigError(f"{name}, line 1, column 1: a byte order mark; save the file as UTF-8 without one")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        place = at(name, before.count(b"\n") + 1, column)
        raise ConfigError(f"{place}not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8") from None
    if found := UNPRINTABLE.search(text):
        character = f"character U+{ord(found[0]):04X}"
        raise ConfigError(f"{_at_offset(name, text, found.start())}{character} is not allowed here; delete it")
    if found := TAB_INDENT.search(text):
        offset = text.index("\t", found.start())
        raise ConfigError(f"{_at_offset(name, text, offset)}a tab in the indentation; use spaces")
    return text


def _at_offset(name: str, text: str, offset: int) -> str:
    return at(name, text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))


class _Reader:
    """Builds values and places from the events of one text."""

    def __init__(self, name: str, text: str) -> None:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        self.name = name
        self.places: dict[str, tuple[int, int]] = {}
        self.doubtful: dict[str, tuple[str, str]] = {}
        # Pure Python, so that places and messages are the same whether or not ruamel's C extension is there.
        yaml = YAML(typ="safe", pure=True)
        self._resolver = yaml.resolver
        self._events: Iterator[Any] = yaml.parse(text)
        self._event: Any
        self._flow = 0  # brackets and braces around the current event
        try:
            self.values = self._document()
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = at(name, mark.line + 1, mark.column + 1) if mark else at(name, 0, 0)
            problem = (error.problem or "not YAML").strip().splitlines()[0]
            raise ConfigError(f"{place}{problem}; check indentation, quotes and brackets here and above") from None
        except YAMLError as error:
            raise ConfigError(f"{name}: not YAML: {str(error).splitlines()[0]}") from None
        except (ValueError, OverflowError):  # an escape such as "\UFFFFFFFF", a huge version number
            mark = self._event.end_mark
            place = at(name, mark.line + 1, mark.column + 1)
            raise ConfigError(f"{place}a character or number that does not exist follows; check its escapes") from None

    def _next(self) -> str:
        """Step to the next event and return its kind."""
        self._event = next(self._events)
        return type(self._event).__name__.removesuffix("Event")

    def _refuse(self, problem: str) -> NoReturn:
        mark = self._event.start_mark
        raise ConfigError(at(self.name, mark.line + 1, mark.column + 1) + problem)

    def _document(self) -> dict[str, Any]:
        self._next()  # start of the stream
        values = None
        if self._next() == "DocumentStart":
            if self._event.version or self._event.tags:
                self._refuse("a directive (% at the margin) changes how the file is read; delete it")
            values = self._node(self._next(), "", 0)
            self._next()  # end of the document
            if self._next() == "DocumentStart":
                self._refuse("a second document; keep one, without '---' between its parts")
        if not isinstance(values, dict):
            raise ConfigError(f"{self.name}: expected sections of keys and values, found {type(values).__name__}")
        return values

    def _node(self, kind: str, key: str, depth: int) -> Any:
        """Return the value that begins with the current event."""
        self._check_plain_node(kind)
        if len(self.places) > MAX_VALUES:
            self._refuse(f"more than {MAX_VALUES:,} values; a params file takes hundreds")
        if kind == "Scalar":
            return self._scalar(key)
        if depth == MAX_DEPTH:
            self._refuse(f"nested more than {MAX_DEPTH} levels deep; no knob of params.yaml lies so deep")
        flow = bool(self._event.flow_style)
        self._flow += flow
        found = self._mapping(key, depth) if kind == "MappingStart" else self._sequence(key, depth)
        self._flow -= flow
        return found

    def _check_plain_node(self, kind: str) -> None:
        if kind == "Alias" or self._event.anchor:
            self._refuse(
                "write the values out instead of an anchor or alias; 'dvc exp run -S' would change one place only"
            )
        if self._event.tag:
            self._refuse(f"delete the tag {str(self._event.tag)[:60]!r}; a value's form says its type")
        if self._flow and kind == "Scalar" and self._event.implicit[0] and set(":?") & set(self._event.value):
            # The parser in C, which DVC takes where it is there, refuses the file.
            self._refuse(
                f"not every reader of YAML takes this inside brackets for text; quote '{self._event.value[:60]}'"
            )

    def _mapping(self, key: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while (kind := self._next()) != "MappingEnd":
            name = self._key(kind)
            path = f"{key}.{name}" if key else name
            if name in found:
                line = self.places[path][0]
                self._refuse(f"found duplicate key '{name}', which stands in line {line} already; keep one of them")
            mark = self._event.start_mark
            self.places[path] = (mark.line + 1, mark.column + 1)
            found[name] = self._node(self._next(), path, depth + 1)
        return found

    def _sequence(self, key: str, depth: int) -> list[Any]:
        found: list[Any] = []
        while (kind := self._next()) != "SequenceEnd":
            path = f"{key}.{len(found)}"
            mark = self._event.start_mark
            self.places[path] = (mark.line + 1, mark.column + 1)
            found.append(self._node(kind, path, depth + 1))
        return found

    def _key(self, kind: str) -> str:
        self._check_plain_node(kind)
        if kind != "Scalar":
            self._refuse("a list or section as a key; keys are names")
        name: str = self._event.value
        tag = self._tag()
        if tag == "merge":
            self._refuse("write the values out instead of a merge key; 'dvc exp run -S' would change one place only")
        if tag != "str" or SEXAGESIMAL.fullmatch(name) or not name:
            what = f"the key {name[:60]} may be read as a number or a sign" if name else "an empty key"
            self._refuse(f"{what}; choose a name that begins with a letter")
        if CONTROL.search(name) or len(name) > MAX_KEY:
            self._refuse(f"a key with control characters or more than {MAX_KEY} characters; keys are short names")
        return name

    def _tag(self) -> str:
        """Return the type that YAML 1.2 gives to the current scalar: str, int, float, bool, null, ..."""
        from ruamel.yaml.nodes import ScalarNode

        return str(self._resolver.resolve(ScalarNode, self._event.value, self._event.implicit)).removeprefix(TAG)

    def _scalar(self, key: str) -> Any:
        text: str = self._event.value
        tag = self._tag()
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() == "true"
        if tag == "int" and INTEGER.fullmatch(text) and len(text) <= MAX_DIGITS:
            return int(text)
        if tag == "float" and DECIMAL.fullmatch(text) and _is_faithful(text):
            return float(text)
        if tag == "float" and text.lstrip("+-").lower() in (".nan", ".inf"):
            return float(text.replace(".", ""))  # no knob takes it: every config names its own range
        plain = self._event.implicit[0]
        if problem := _problem(tag, text, plain):
            shown = text if len(text) <= 60 else text[:57] + "..."
            self.doubtful[key] = (shown if plain else repr(shown), problem)
        return text


def _is_faithful(text: str) -> bool:
    """Whether a float can hold the number: 1e400 would be infinite and 1e-400 zero."""
    number = float(text)
    if number == 0:
        return not re.search("[1-9]", re.split("[eE]", text)[0])
    return abs(number) != float("inf")


def _problem(tag: str, text: str, plain: bool) -> str | None:
    """Say why a scalar that is no plain number, true, false or null cannot be taken as it stands."""
    if tag in ("int", "float"):
        if DECIMAL.fullmatch(text):
            return f"too large or too small a number; at most {MAX_DIGITS} digits are read, and 1e-300 to 1e300"
        return "YAML readers differ on this number; write it in decimal without leading zeros or underscores"
    if plain and SEXAGESIMAL.fullmatch(text):
        return f"some YAML readers take this for a number in base 60; write '{text[:60]}' if it is text"
    if tag == "timestamp":
        return f"YAML reads this as a date; write '{text[:60]}' if it is text"
    if tag != "str":
        return "this sign has a meaning of its own in YAML; put it in quotes if it is text"
    if CONTROL.search(text):
        return "text holds line breaks or control characters; write one line"
    if len(text) > MAX_TEXT:
        return f"text of {len(text):,} characters; {MAX_TEXT:,} are allowed"
    return None
