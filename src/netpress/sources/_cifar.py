"""CIFAR's batches, read without executing anything that they hold.

The files are pickles. Their bytes are compared with the published md5 first, and what is unpickled may
build plain values and arrays alone.
"""

import hashlib
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netpress.base.errors import DataError
from netpress.data.splits import Split

ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        if module == "numpy.core.multiarray":
            module = "numpy._core.multiarray"
        return super().find_class(module, name)


def read_batch(path: Path, md5: str | None) -> dict[str, Any]:
    """Return the dictionary of one batch file; with `md5` given, only if the file is the published one.

    Raises:
        DataError: the file is missing, another one, or holds more than plain values and arrays.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); data.root must hold the unpacked batches") from None
    if md5 is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path} is not the published file (md5 differs); fetch it again")
    try:
        batch = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path} is not a batch of CIFAR ({error}); fetch it again") from None
    if not isinstance(batch, dict):
        raise DataError(f"{path} is not a batch of CIFAR (found {type(batch).__name__}); fetch it again")
    return batch


def split_of(batches: Sequence[dict[str, Any]], key: str, classes: int, where: str) -> Split:
    """Join batches: rows of 3072 bytes, channels first, to (N, 32, 32, 3).

    Raises:
        DataError: rows or labels are missing, of another shape or out of range; `where` names them.
    """
    try:
        rows = np.concatenate([np.asarray(batch["data"], dtype=np.uint8) for batch in batches])
        labels = np.concatenate([np.asarray(batch[key], dtype=np.int64) for batch in batches])
        images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where}: not CIFAR's layout ({error}); fetch it again") from None
    if len(images) != len(labels) or (len(labels) and not 0 <= labels.min() <= labels.max() < classes):
        raise DataError(f"{where}: {len(images)} images, {len(labels)} labels, or a label outside 0 to {classes - 1}")
    return Split(np.ascontiguousarray(images), labels)
