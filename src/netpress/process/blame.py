"""Exceptions that are no fault of netpress: memory that is lacking, and what the file of a method raises."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from netpress.base.errors import ConfigError, NetpressError
from netpress.params import plugins

#: Set to 1 in the environment, it prints the traceback of what a method's file raises before the error in one line.
TRACEBACK = "NETPRESS_TRACEBACK"


@contextmanager
def blamed(where: str = "") -> Iterator[None]:
    """Name the file of the method, architecture or data source from whose code an exception comes.

    Errors of netpress, of the machine, and those in which no such file took part, pass as they are.

    Args:
        where: what was at work, such as a model id.

    Raises:
        ConfigError: `WHERE: pruning score NAME, FILE line N in FUNCTION: KeyError: 'x'`.
    """
    try:
        yield
    except (NetpressError, OSError):
        raise
    except Exception as error:
        place = plugins.origin(error)
        if place is None or out_of_memory(error):
            raise
        if os.environ.get(TRACEBACK) == "1":
            traceback.print_exception(error)
        raise ConfigError(f"{where}{': ' if where else ''}{place}: {plugins.first_line(error)}") from None


def out_of_memory(error: Exception) -> bool:
    """Whether memory is lacking, on the CPU or the GPU; torch says so in errors of its own."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
