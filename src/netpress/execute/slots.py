"""How many jobs this machine takes at once."""

from netpress.params.recipes import Runtime
from netpress.params.schema import ALL
from netpress.process.machine import cores


def slots(runtime: Runtime) -> int:
    """Return how many jobs run at once: each device of one has `runtime.threads` of the cores; GPUs serve one job."""
    if runtime.devices == ALL or runtime.device == "cuda" or (runtime.device == "auto" and _has_gpu()):
        return 1
    return max(1, cores() // (runtime.threads * runtime.devices))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
