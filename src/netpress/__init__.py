"""netpress: which way of making my network smaller should I use, and what does it cost?"""

import importlib
import os
from typing import Any

# Before torch is loaded, here and in all that is started from here: threads that spin while they wait keep other
# processes, and one another, from the cores. No result depends on it, and a value that was set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

#: What users import from here; it lies elsewhere, and is loaded when it is asked for, since it takes torch.
_LAZY = {"load_model": "netpress.core.artifacts", "compare": "netpress.report.api"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
