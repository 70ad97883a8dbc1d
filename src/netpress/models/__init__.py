"""Architectures, one a file: each defines `Options` and `build(num_classes, in_channels, options)`."""

import importlib
from typing import Any

#: What users import from here; it lies elsewhere, and is loaded when it is asked for, since it takes torch.
_LAZY = {"build_model": "netpress.core.networks"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
