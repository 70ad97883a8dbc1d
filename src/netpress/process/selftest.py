"""A test of the processor in about a second: layers as they occur in training, whether they are right and how fast."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

#: Largest difference from double precision, a share of the largest value. Rounding makes a few millionths.
ALLOWED = 1e-4
#: Images in a batch whose values are compared, and in one whose speed is measured.
FEW, MANY = 4, 64
#: Seconds for which a layer is timed.
SPAN = 0.1

#: The context in which a layer is trained, such as `core.kernels.small_maps`.
Training = Callable[[nn.Module], AbstractContextManager[None]]


@dataclass(frozen=True)
class Case:
    """A layer, and the shape of what it is given, without the batch."""

    name: str
    build: Callable[[], nn.Conv2d | nn.Linear]
    shape: tuple[int, ...]


CASES = (
    Case("3x3", partial(nn.Conv2d, 64, 64, 3, 1, 1), (64, 14, 14)),
    Case("3x3 on 2x2", partial(nn.Conv2d, 256, 256, 3, 1, 1), (256, 2, 2)),
    Case("depthwise", partial(nn.Conv2d, 128, 128, 3, 1, 1, groups=128), (128, 14, 14)),
    Case("depthwise on 2x2", partial(nn.Conv2d, 128, 128, 3, 1, 1, groups=128), (128, 2, 2)),
    Case("strided 1x1", partial(nn.Conv2d, 64, 128, 1, 2), (64, 7, 7)),
    Case("matrix product", partial(nn.Linear, 512, 512), (512,)),
)


def errors(training: Training) -> dict[str, float]:
    """Return how far each layer's output and gradients are from double precision, a share of the largest value."""
    return {case.name: _error(case, training) for case in CASES}


def speeds(training: Training) -> dict[str, float]:
    """Return how fast one thread trains each layer, in GFLOP/s: forward pass and both gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {case.name: _speed(case, training) for case in CASES}
    finally:
        torch.set_num_threads(threads)


def _error(case: Case, training: Training) -> float:
    layer, x, gradient = _made(case, FEW)
    with training(layer):
        found = _results(layer, x, gradient)
    exact = _results(layer.double(), x.double(), gradient.double())
    pairs = zip(found, exact, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def _speed(case: Case, training: Training) -> float:
    layer, x, gradient = _made(case, MANY)
    places = gradient[0].numel() // len(layer.weight)
    operations = 6 * MANY * layer.weight.numel() * places  # a multiplication and an addition, three times
    with training(layer):
        _results(layer, x, gradient)  # warms up
        start, count = time.perf_counter(), 0
        while not count or time.perf_counter() - start < SPAN:
            _results(layer, x, gradient)
            count += 1
        return operations * count / (time.perf_counter() - start) / 1e9


def _made(case: Case, images: int) -> tuple[nn.Conv2d | nn.Linear, Tensor, Tensor]:
    """Return the layer, a batch for it, and a gradient of its output; the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = case.build().to(memory_format=torch.channels_last)
        x = torch.randn(images, *case.shape)
        x = x.to(memory_format=torch.channels_last) if x.ndim == 4 else x
        return layer, x, torch.randn_like(layer(x))


def _results(layer: nn.Conv2d | nn.Linear, x: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    """Return the output of a batch, and the gradients of the batch and of the layer's parameters."""
    x = x.detach().requires_grad_()
    out = layer(x)
    return out.detach(), *torch.autograd.grad(out, (x, *layer.parameters()), gradient)
