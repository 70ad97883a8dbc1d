"""Where the time of a training step goes: the operators of PyTorch, by their share, for models that are made.

Steps as `core.engine.fit` does them on one thread, in batches of 128 random pictures with random labels. Milliseconds
are the median of steps that are not profiled; on a machine with other work shares alone compare.

    python benchmarks/steps.py MODEL_ID ... [--steps N] [--top N]      in the project's folder, after `dvc repro`
"""

import argparse
import statistics
import time

import netpress  # before torch: it says how threads wait

# isort: split
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from netpress.base.model_id import ModelId
from netpress.base.project import find_root
from netpress.core.kernels import small_maps

BATCH = 128
#: Steps before those that are measured.
WARM_UP = 3


def main() -> None:
    """Profile each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", metavar="MODEL_ID", nargs="+", help="such as prune/main, which is not quantized")
    parser.add_argument("--steps", type=int, default=10, help="that are timed, and that are profiled (default: 10)")
    parser.add_argument("--top", type=int, default=8, help="operators shown (default: 8)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    root = find_root()
    for name in args.models:
        network, spec = netpress.load_model(ModelId(name).folder(root))
        milliseconds, shares = measure(network, spec.image, len(spec.classes), args.steps)
        print(f"{name}: {milliseconds:.1f} ms a step of {BATCH} images")
        for operator, share in list(shares.items())[: args.top]:
            print(f"  {share:6.1%}  {operator}")


def measure(network: nn.Module, image: tuple[int, ...], classes: int, steps: int) -> tuple[float, dict[str, float]]:
    """Return the milliseconds of a step, and each operator's share of the time, the largest first.

    Args:
        network: which is trained, in place.
        image: the shape of one, (C, H, W).
        classes: of the labels.
        steps: that are timed, and that are profiled.
    """
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9)
    torch.manual_seed(0)
    images = torch.randn(BATCH, *image).to(memory_format=torch.channels_last)
    labels = torch.randint(classes, (BATCH,))

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        return time.perf_counter() - start

    with small_maps(network):
        seconds = [step() for _ in range(WARM_UP + steps)][WARM_UP:]
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(steps):
                step()
    times = {one.key: one.self_cpu_time_total for one in found.key_averages()}
    shares = {key: spent / sum(times.values()) for key, spent in sorted(times.items(), key=lambda item: -item[1])}
    return statistics.median(seconds) * 1e3, shares


if __name__ == "__main__":
    main()
