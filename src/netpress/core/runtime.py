"""The machine as `runtime` of params.yaml asks for it: threads, algorithms, device."""

import ctypes
import os
from contextlib import suppress

import torch

from netpress.base.errors import ParamsError
from netpress.core.ranks import here
from netpress.params.recipes import Runtime
from netpress.params.schema import ALL
from netpress.process import environment, torchrun
from netpress.process.environment import Environment
from netpress.process.machine import cores

#: Instructions for bf16, as PyTorch names them: of x86 processors, and of ARM's.
BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")

#: Options of glibc's mallopt: free bytes from which the heap is given back, size of what is not taken from the heap.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def set_up(runtime: Runtime) -> torch.device:
    """Fix threads and algorithms, so that the same commit gives the same bits; return the device.

    Raises:
        ParamsError: CUDA is asked for and there is none, or more GPUs than there are, or bf16 and the processor has no
            instructions for it.
    """
    torch.set_num_threads(runtime.threads)
    _keep_memory()
    if runtime.compile:
        torch.use_deterministic_algorithms(True, warn_only=True)  # the compiler's too, which takes seconds to load
    else:
        torch.set_deterministic_debug_mode("warn")
    # Both fill new memory, a pass over it for each tensor; nothing here reads what was not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32
    if faults := lacking(runtime):
        raise ParamsError(faults)
    if not _on_gpu(runtime):
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    number = torchrun.number()
    if number is None:
        return torch.device("cuda")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def devices_of(runtime: Runtime) -> int:
    """Return how many devices share a training."""
    if runtime.devices != ALL:
        return runtime.devices
    return torch.cuda.device_count() if _on_gpu(runtime) else max(1, cores() // runtime.threads)


def _keep_memory() -> None:
    """Let the C library keep what tensors free: a step may ask for thousands of pages again.

    `benchmarks/kept_memory.py` measures what that saves. Elsewhere than in glibc there is nothing to tell.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)  # before 2.35 no more is allowed


def lacking(runtime: Runtime) -> list[tuple[str, str]]:
    """Return what `runtime` asks for and this machine has not: keys and messages."""
    if runtime.device == "cuda" and not torch.cuda.is_available():
        text = "runtime.device = 'cuda': PyTorch finds no CUDA device here; set it to cpu or auto"
        return [("runtime.device", text)]
    if _on_gpu(runtime) and runtime.devices > (count := torch.cuda.device_count()):
        text = f"runtime.devices = {runtime.devices}: PyTorch finds {count} here; set it to {count} or less, or to all"
        return [("runtime.devices", text)]
    if runtime.precision != "fp32" and not _on_gpu(runtime) and not has_bf16():
        reason = "this processor has no instructions for bf16, and training in it is several times slower than in fp32"
        return [("runtime.precision", f"runtime.precision = '{runtime.precision}': {reason}; set it to fp32")]
    return []


def _on_gpu(runtime: Runtime) -> bool:
    return runtime.device != "cpu" and torch.cuda.is_available()


def has_bf16() -> bool:
    """Whether the processor multiplies in bf16; one of which PyTorch cannot tell is taken to."""
    known = torch.cpu.get_capabilities()
    found = [known[name] for name in BF16 if name in known]
    return any(found) or not found


def environment_of(runtime: Runtime, device: torch.device) -> Environment:
    """Describe where this process computes."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return environment.current(
        device=f"cuda ({gpu}, CUDA {torch.version.cuda})" if gpu else device.type,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=runtime.threads,
        precision=runtime.precision,
        channels_last=runtime.channels_last,
        compile=runtime.compile,
        **({"devices": count, "batch_norm": runtime.batch_norm} if (count := here().count) > 1 else {}),
    )
