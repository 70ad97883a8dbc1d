"""params.yaml and profiles/*.yaml as documents: their content, and the line of each key for what is wrong with it."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.base.errors import ConfigError, ParamsError
from netpress.params import yaml_reader
from netpress.params.schema import T, parse

#: Faults shown; more would hide the first ones.
MAX_SHOWN = 100


@dataclass(frozen=True)
class Document:
    """A file's content, validated section by section."""

    name: str  # of the file, for messages
    content: yaml_reader.Content

    @property
    def values(self) -> dict[str, Any]:
        """What the file says, not validated."""
        return self.content.values

    def section(self, cls: type[T], key: str) -> T:
        """Validate what stands under the dotted `key`; all faults are named in one `ParamsError`."""
        raw: Any = self.values
        for part in key.split("."):
            if not isinstance(raw, dict) or part not in raw:
                raise ParamsError([(key, f"{key}: missing; add it, a section of keys and values")])
            raw = raw[part]
        return self._parse(cls, raw, key)

    def whole(self, cls: type[T]) -> T:
        """Validate the whole file; all faults are named in one `ParamsError`."""
        return self._parse(cls, self.values, "")

    def part(self, cls: type[T], keys: Collection[str]) -> T:
        """Validate some top-level keys alone; all faults are named in one `ParamsError`."""
        return self._parse(cls, {key: self.values[key] for key in keys if key in self.values}, "")

    def refuse_doubtful(self) -> None:
        """Raise where readers of YAML take a value of the file for different things."""
        if self.content.doubtful:
            raise ParamsError([(key, self._doubt(key)) for key in self.content.doubtful])

    def _parse(self, cls: type[T], raw: dict[str, Any], where: str) -> T:
        """Validate `raw`, which stands at `where`; a doubtful value is a fault, even where text would do."""
        below = f"{where}." if where else ""
        doubtful = {
            key: self._doubt(key)
            for key in self.content.doubtful
            if key == where or (key.startswith(below) and key.removeprefix(below).split(".")[0] in raw)
        }
        faults: dict[str, str] = {}
        try:
            found = parse(cls, raw, where)
        except ParamsError as error:
            faults = dict(error.faults)
        # What is allowed there is worth saying too.
        faults |= {k: f"{faults[k]}; {self.content.doubtful[k][1]}" if k in faults else t for k, t in doubtful.items()}
        if faults:
            raise ParamsError(list(faults.items()))
        return found

    def _doubt(self, key: str) -> str:
        shown, problem = self.content.doubtful[key]
        return f"{key} = {shown}: {problem}"

    @contextmanager
    def located(self) -> Iterator[None]:
        """Give the faults that a `ParamsError` names their file, line and column, in the file's order."""
        try:
            yield
        except ParamsError as error:
            raise self.error(error.faults) from None

    def error(self, faults: Sequence[tuple[str, str]]) -> ConfigError:
        """Return the error that names `faults` with their places."""
        return ConfigError(self.describe(faults))

    def describe(self, faults: Sequence[tuple[str, str]]) -> str:
        """Return a line for each fault with its place; a key that the file lacks has the place of its section."""
        placed = sorted((self.place(key), text) for key, text in faults)
        lines = [yaml_reader.at(self.name, *place) + text for place, text in placed[:MAX_SHOWN]]
        if len(placed) > MAX_SHOWN:
            lines.append(f"{self.name}: and more faults; fix the first {MAX_SHOWN} and check again")
        return "\n".join(lines)

    def place(self, key: str) -> tuple[int, int]:
        """Return line and column of the dotted `key` or of the nearest section above it; (0, 0) for neither."""
        while key and key not in self.content.places:
            key = key.rpartition(".")[0]
        return self.content.places.get(key, (0, 0))


def read_document(path: Path) -> Document:
    """Read a params file or a profile.

    Raises:
        ConfigError: the file is missing, or see `yaml_reader.parse_yaml`.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing: run 'python -m netpress use default' to write it")
    try:
        with path.open("rb") as stream:
            content = stream.read(yaml_reader.MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path.name}: cannot be read: {error.strerror}") from None
    return parse_document(content, path.name)


def parse_document(content: bytes, name: str) -> Document:
    """Return the document whose bytes are `content`; `name` stands for it in messages."""
    return Document(name, yaml_reader.parse_yaml(content, name))
