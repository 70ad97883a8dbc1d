"""Training steps where freed memory is kept and new tensors are not filled, as `core.runtime.set_up` has it.

Beside it freed memory is given back, as the C library does by itself, or new tensors are filled, as PyTorch's
deterministic mode does. Each round starts a process of every kind, one after the other, since what the C library was
told cannot be taken back. A process warms up and times its steps of one network: batches of 128, one thread, 28 pixels.
Beside images a second stand pages that the system handed out for a step. Ratios are medians over the rounds.

    python benchmarks/kept_memory.py [--rounds N]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import netpress  # noqa: F401 (before torch: it says how threads wait)

# isort: split
import torch
from torch import nn

from netpress.core.kernels import small_maps
from netpress.core.networks import build_model
from netpress.core.runtime import set_up
from netpress.params.recipes import Runtime
from netpress.process.environment import cpu_name

#: Architecture and options, as in the default profile.
NETWORKS = (
    ("resnet18", {"width": 0.125, "stem": "pooled"}),
    ("mobile_student", {"width": 0.25}),
    ("compact_cnn", {"groups": 1, "width": 0.5}),
    ("compact_cnn", {"groups": "depthwise", "width": 0.5}),
)
KINDS = ("given back", "filled", "as set up")
BATCH, WARM_UP, STEPS = 128, 5, 20


def main() -> None:
    """Print one line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="processes of each kind (default: 7)")
    parser.add_argument("--network", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.network is not None:
        print(json.dumps(timed(args.network, args.kind)))
        return
    print(f"{cpu_name()}, torch {torch.__version__}; images a second and pages a step, medians of {args.rounds} rounds")
    for number, (arch, options) in enumerate(NETWORKS):
        rounds = [[measured(number, kind) for kind in KINDS] for _ in range(args.rounds)]
        told = []
        for place, kind in enumerate(KINDS):
            rate, pages = (statistics.median(values) for values in zip(*(row[place] for row in rounds), strict=True))
            ratio = statistics.median(row[-1][0] / row[place][0] for row in rounds)
            told.append(f"{kind} {rate:5.0f} and {pages:6.0f}" + (f" (x {ratio:.2f})" if kind != KINDS[-1] else ""))
        print(f"{arch} {options}: {', '.join(told)}", flush=True)


def measured(number: int, kind: str) -> tuple[float, float]:
    """Run a process of its own; return images a second and pages a step."""
    command = [sys.executable, __file__, "--network", str(number), "--kind", kind]
    rate, pages = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return rate, pages


def timed(number: int, kind: str) -> tuple[float, float]:
    """Train a network in this process; return images a second and pages a step."""
    torch.set_num_threads(1)
    if kind != "given back":
        set_up(
            Runtime(
                device="cpu",
                threads=1,
                precision="fp32",
                channels_last=True,
                compile=False,
                devices=1,
                batch_norm="synchronized",
            )
        )
        torch.utils.deterministic.fill_uninitialized_memory = kind == "filled"  # type: ignore[attr-defined]
    arch, options = NETWORKS[number]
    network = build_model(arch, 10, 1, **options).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)
    images = torch.randn(BATCH, 1, 28, 28).to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 10
    with small_maps(network):
        for step in range(WARM_UP + STEPS):
            if step == WARM_UP:
                start, pages = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    return BATCH * STEPS / seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - pages) / STEPS


if __name__ == "__main__":
    main()
