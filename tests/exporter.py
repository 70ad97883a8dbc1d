"""torch's exporter reads some 500 translations of operators again for each network, a third of the time that it takes.

Here they are read once per process; the bytes of the files are the same.
"""

import functools
import sys

MODULE = "torch.onnx._internal.exporter._registration"


def keep_translations():
    """Have them kept, if torch has its exporter loaded and where this version of torch keeps them."""
    registry = getattr(sys.modules.get(MODULE), "ONNXRegistry", None)
    if hasattr(registry, "from_torchlib") and not hasattr(registry.from_torchlib, "cache_info"):
        registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))
