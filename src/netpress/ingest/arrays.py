"""Arrays in NumPy's format, written in pieces and read without a copy."""

import hashlib
import io
import itertools
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from netpress.base.files import writing


def write_array(path: Path, shape: tuple[int, ...], dtype: str, pieces: Iterable[np.ndarray]) -> str:
    """Write the pieces, joined along the first axis, as np.save would write them whole; return the file's sha256.

    Raises:
        ArtifactError: it cannot be written.
    """
    digest = hashlib.sha256()
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, header)
    with writing(path), path.open("wb") as stream:
        for content in itertools.chain([head.getbuffer()], (np.ascontiguousarray(p, dtype=dtype).data for p in pieces)):
            stream.write(content)
            digest.update(content)
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()
