"""Can one commit give equal bytes on different x86-64 processors? Short trainings under limits of the instruction set.

A setting is what everybody would set; a machine is what a lesser processor would allow, simulated by the same variables
and by MKL_ENABLE_INSTRUCTIONS, which MKL heeds on Intel's processors, and GLIBC_TUNABLES. Each pair runs in a process
of its own, on one thread; the lower of two limits counts. A setting holds if its weights and logits are equal on all
machines. Of each hash the first eight digits are shown, to be compared with those of another machine.

    python benchmarks/portable.py [--steps N] [--settings NAME ...]
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

#: Limits from low to high; absent: none.
ORDER = {
    "DNNL_MAX_CPU_ISA": ["SSE41", "AVX", "AVX2"],
    "ATEN_CPU_CAPABILITY": ["default", "avx2"],
    "MKL_CBWR": ["COMPATIBLE", "AVX", "AVX2"],
}
SETTINGS: dict[str, dict[str, str]] = {
    "none": {},
    "MKL": {"MKL_CBWR": "COMPATIBLE"},
    "ATen": {"ATEN_CPU_CAPABILITY": "default"},
    "oneDNN": {"DNNL_MAX_CPU_ISA": "SSE41"},
    "ATen, oneDNN": {"ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41"},
    "all three": {"ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "all at AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
}
MACHINES: dict[str, dict[str, str]] = {
    "as it is": {},
    "AVX": {
        "DNNL_MAX_CPU_ISA": "AVX",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "AVX",
        "MKL_ENABLE_INSTRUCTIONS": "AVX",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA",
    },
    "SSE4": {
        "DNNL_MAX_CPU_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX",
    },
}
#: Title -> architecture and options; the last is not of the zoo.
NETWORKS = {
    "plain": ("plain_cnn", {"width": 0.25}),
    "depthwise": ("large_cnn_depthwise", {"width": 0.25}),
    "grouped": ("compact_cnn", {"groups": 2, "width": 0.25}),
    "linear": ("", {}),
}
BATCH, PIXELS, CLASSES = 64, 28, 10


def main() -> None:
    """Print a row for each setting and machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="of each training")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS, help="default: all")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps({title: trained(title, args.steps) for title in NETWORKS}))
        return
    width = 10
    titles = "".join(f"{title:>{2 * width}}" for title in NETWORKS)
    print(f"{'setting':<14}{'machine':<10}{titles}   weights and logits of each; ms a step")
    for name in args.settings:
        rows = [run(limited(SETTINGS[name], machine), args.steps) for machine in MACHINES.values()]
        for machine, found in zip(MACHINES, rows, strict=True):
            hashes = "".join(f"{text[:8]:>{width}}" for title in NETWORKS for text in found[title]["hashes"])
            times = " ".join(f"{found[title]['ms']:.1f}" for title in NETWORKS)
            print(f"{name:<14}{machine:<10}{hashes}   {times}")
        equal = [title for title in NETWORKS if len({tuple(found[title]["hashes"]) for found in rows}) == 1]
        verdict = "holds" if len(equal) == len(NETWORKS) else f"equal on all machines: {', '.join(equal) or 'none'}"
        print(f"{name:<14}{verdict}\n", flush=True)


def limited(setting: Mapping[str, str], machine: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a setting on a machine: of two limits the lower one."""
    both = {**setting, **machine}
    for key, order in ORDER.items():
        if key in setting and key in machine:
            both[key] = min(setting[key], machine[key], key=order.index)
    return both


def run(limits: Mapping[str, str], steps: int) -> dict[str, dict[str, Any]]:
    """Train every network in a process of its own, under nothing but these limits."""
    known = {*ORDER, *(key for machine in MACHINES.values() for key in machine)}
    inherited = {key: value for key, value in os.environ.items() if key not in known}
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", "--steps", str(steps)]
    done = subprocess.run(
        command, env=inherited | threads | dict(limits), stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def trained(title: str, steps: int) -> dict[str, Any]:
    """Return the hashes of weights and logits after a few steps on made-up images, and the milliseconds of a step."""
    import numpy as np
    import torch
    from torch import nn

    from netpress.core.kernels import small_maps
    from netpress.models import build_model

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    arch, options = NETWORKS[title]
    linear = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS**2, 128), nn.ReLU(), nn.Linear(128, CLASSES))
    network = (build_model(arch, CLASSES, 1, **options) if arch else linear).to(memory_format=torch.channels_last)
    # Bytes of NumPy's generators are the same everywhere; PyTorch's may depend on the instruction set.
    drawn = np.random.default_rng(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                start = drawn.random(tuple(weight.shape), dtype=np.float32) - np.float32(0.5)
                weight.copy_(torch.from_numpy(start) * (12 / weight[0].numel()) ** 0.5)
    images = torch.from_numpy(drawn.integers(0, 256, (BATCH, 1, PIXELS, PIXELS), dtype=np.uint8)).float() / 256
    labels = torch.from_numpy(drawn.integers(0, CLASSES, BATCH))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    times = []
    with small_maps(network):
        for _ in range(steps):
            started = time.perf_counter()
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            times.append(time.perf_counter() - started)
    network.eval()
    with torch.no_grad():
        logits = network(images)
    weights = b"".join(value.contiguous().numpy().tobytes() for value in network.state_dict().values())
    hashes = [hashlib.sha256(data).hexdigest() for data in (weights, logits.contiguous().numpy().tobytes())]
    if not logits.isfinite().all():
        raise ArithmeticError(f"{title}: logits are not finite after {steps} steps, so hashes mean nothing; take fewer")
    return {"hashes": hashes, "ms": 1000 * sorted(times)[len(times) // 2]}


if __name__ == "__main__":
    main()
