"""The machine as `runtime` of params.yaml asks for it: threads, algorithms, device."""

import os

import torch

from netpress.base.errors import ParamsError
from netpress.params.recipes import Runtime
from netpress.process import environment
from netpress.process.environment import Environment


def set_up(runtime: Runtime) -> torch.device:
    """Fix threads and algorithms, so that the same commit gives the same bits; return the device.

    Raises:
        ParamsError: CUDA is asked for and there is none.
    """
    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32
    if runtime.device == "cuda" and not torch.cuda.is_available():
        text = "runtime.device = 'cuda': PyTorch finds no CUDA device here; set it to cpu or auto"
        raise ParamsError([("runtime.device", text)])
    if runtime.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    return torch.device("cuda")


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
    )
