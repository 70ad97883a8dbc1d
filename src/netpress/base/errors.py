"""Errors that a user can fix: each message says what is wrong, where, and how to fix it."""

from collections.abc import Sequence


class NetpressError(Exception):
    """Base of every error shown to the user as one line, without a traceback."""


class ConfigError(NetpressError):
    """params.yaml says something that cannot be run."""


class ParamsError(ConfigError):
    """Faults of keys whose lines are not known yet.

    `faults` holds for each its dotted key, list items by their index, and the message, which begins with the key.
    `document.Document.locate` adds file, line and column.
    """

    def __init__(self, faults: Sequence[tuple[str, str]]) -> None:
        super().__init__("\n".join(text for _, text in faults))
        self.faults = tuple(faults)

    def below(self, where: str) -> "ParamsError":
        """Return the faults of a section for the file in which it stands under the dotted key `where`."""
        return ParamsError([(f"{where}.{key}", f"{where}.{text}") for key, text in self.faults])

    def renamed(self, old: str, new: str) -> "ParamsError":
        """Return the faults of keys that begin with `old` as faults of those that begin with `new`; others stay."""
        return ParamsError(
            [
                (new + key[len(old) :], new + text[len(old) :]) if key.startswith(old) else (key, text)
                for key, text in self.faults
            ]
        )


class DataError(NetpressError):
    """The images, labels or splits cannot be used as they are."""


class ArtifactError(NetpressError):
    """A model folder or metrics file is missing, damaged or of another shape."""


class TrainingError(NetpressError):
    """Training cannot go on, for example because the loss is not finite."""
