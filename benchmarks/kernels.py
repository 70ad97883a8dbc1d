"""Convolutions of training on CPUs, as matrix products and as PyTorch has them: the bounds of `kernels.by_products`.

Forward pass and both gradients of one layer, batch 128, channels_last, fp32. Rounds of the two ways alternate, and
medians are compared, because machines are noisy. The ratio is PyTorch's time to that of the products: above 1,
they are faster. `rule` marks the layers that training computes so; `?` those of which the measurement says otherwise by
more than a fifth.

    python benchmarks/kernels.py [--quick] [--threads N]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import netpress  # noqa: F401 (before torch: it says how threads wait)

# isort: split
import torch
from torch import Tensor, nn

from netpress.core.kernels import by_products, convolve

BATCH = 128


class Shape(NamedTuple):
    """A convolution of square maps of `size`; with `depthwise`, of `channels` alone."""

    channels: int
    outputs: int
    kernel: int
    stride: int
    size: int
    depthwise: bool = False

    @property
    def layer(self) -> nn.Conv2d:
        """The layer, which keeps the size of the map but for its stride."""
        groups = self.channels if self.depthwise else 1
        return nn.Conv2d(
            self.channels, self.outputs, self.kernel, self.stride, self.kernel // 2, groups=groups, bias=False
        )


#: What the networks here hold, and the bounds of the rule from both sides.
QUICK = (
    Shape(512, 512, 3, 1, 1),
    Shape(128, 128, 3, 1, 2),
    Shape(64, 64, 3, 1, 2),
    Shape(32, 32, 3, 1, 2),
    Shape(512, 512, 3, 1, 4),
    Shape(256, 256, 3, 1, 4),
    Shape(256, 512, 3, 2, 4),
    Shape(128, 128, 3, 1, 8),
    Shape(256, 256, 1, 1, 2),
    Shape(256, 256, 1, 1, 4),
    Shape(64, 128, 1, 2, 8),
    Shape(64, 128, 1, 2, 16),
    Shape(256, 256, 3, 1, 2, depthwise=True),
    Shape(256, 256, 3, 2, 4, depthwise=True),
    Shape(256, 256, 3, 1, 4, depthwise=True),
)
#: Both sides of every bound, more finely.
ALL = (
    *QUICK,
    *(Shape(channels, channels, 3, 1, 1) for channels in (8, 16, 32, 64, 256)),
    *(Shape(channels, channels, 1, 1, 1) for channels in (16, 64, 256)),
    *(Shape(channels, channels, 3, 1, 2) for channels in (16, 48, 256, 512)),
    *(Shape(channels, channels, 3, 1, 3) for channels in (64, 256, 512)),
    *(Shape(channels, channels, 3, 1, 4) for channels in (64, 128, 384)),
    *(Shape(channels, 2 * channels, 3, 2, 4) for channels in (32, 64, 128)),
    *(Shape(channels, 2 * channels, 3, 2, 8) for channels in (64, 128, 256)),
    *(Shape(channels, channels, 3, 1, 5) for channels in (128, 512)),
    *(Shape(channels, channels, 5, 1, 2) for channels in (32, 128)),
    *(Shape(channels, channels, 1, 1, 2) for channels in (16, 64, 512)),
    *(Shape(channels, 2 * channels, 1, 2, size) for channels in (16, 256) for size in (4, 8, 14)),
    *(Shape(channels, channels, 3, 1, size, depthwise=True) for channels in (32, 512) for size in (1, 2, 3, 4)),
)


def step(function: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor) -> None:
    """One forward and one backward pass of `function`; `weight` is what it uses beside `x`."""
    out = function(x)
    torch.autograd.grad(out, (x, weight), torch.ones_like(out))


def medians(shape: Shape, rounds: int, least: float) -> tuple[float, float]:
    """Return the seconds of a step by PyTorch and by products, of `rounds` rounds of `least` seconds or more each."""
    layer = shape.layer.to(memory_format=torch.channels_last)
    x = torch.randn(BATCH, shape.channels, shape.size, shape.size).to(memory_format=torch.channels_last)
    x.requires_grad_()
    stride, padding = (shape.stride, shape.stride), (shape.kernel // 2, shape.kernel // 2)
    ways: tuple[Callable[[Tensor], Tensor], ...] = (
        layer,
        lambda x: convolve(x, layer.weight, None, stride, padding, layer.groups),
    )
    steps = [partial(step, way, x, layer.weight) for way in ways]
    times: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for spent, work in zip(times, steps, strict=True):
            start, count = time.perf_counter(), 0
            while not count or time.perf_counter() - start < least:
                work()
                count += 1
            if number:  # the first round warms up
                spent.append((time.perf_counter() - start) / count)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    """Print one line a layer: what it is, milliseconds of a step of both ways, their ratio, and what the rule says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer layers and shorter rounds: half a minute")
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rounds, least = (5, 0.02) if args.quick else (7, 0.05)
    print(f"{torch.backends.cpu.get_cpu_capability()}, {args.threads} threads, batch {BATCH}")
    print(f"{'layer':32}{'map':>7}{'PyTorch':>12}{'products':>12}{'ratio':>8}  rule")
    for shape in QUICK if args.quick else ALL:
        theirs, ours = medians(shape, rounds, least)
        ruled, ratio = by_products(shape.layer, (shape.size, shape.size)), theirs / ours
        doubt = " ?" if (ratio < 0.8 if ruled else ratio > 1.25) else ""
        kind = "depthwise" if shape.depthwise else f"{shape.channels} -> {shape.outputs}"
        name = f"{shape.kernel}x{shape.kernel}, {kind}" + f" {shape.channels}" * shape.depthwise
        name += f", stride {shape.stride}" * (shape.stride > 1)
        said = f"{theirs * 1e3:9.2f} ms{ours * 1e3:9.2f} ms{ratio:8.2f}  {'taps' if ruled else '-'}{doubt}"
        print(f"{name:32}{f'{shape.size}x{shape.size}':>7}{said}", flush=True)


if __name__ == "__main__":
    main()
