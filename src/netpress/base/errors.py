"""Errors that a user can mend: each message says what is wrong, where, and how to fix it."""


class NetpressError(Exception):
    """Base of every error shown to the user as one line, without a traceback."""


class ConfigError(NetpressError):
    """params.yaml says something that cannot be run."""


class DataError(NetpressError):
    """The images, labels or splits cannot be used as they are."""


class ArtifactError(NetpressError):
    """A model folder or metrics file is missing, damaged or of another shape."""


class TrainingError(NetpressError):
    """Training cannot go on, for example because the loss is not finite."""
