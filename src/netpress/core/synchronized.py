"""Batch normalization by the statistics of a whole batch of which each of several processes has a share.

PyTorch's own `SyncBatchNorm` is for GPUs alone and takes the layers' place. This takes the place of the function that
layers call, for the time of a `with` block, and so of any layer that calls it, on any device.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from netpress.core.ranks import Ranks


@contextmanager
def synchronized(ranks: Ranks) -> Iterator[None]:
    """Let batch normalization in training normalize by the batch of all processes."""
    if ranks.count == 1:
        yield
    else:
        with _Synchronized(ranks):
            yield


class _Synchronized(TorchFunctionMode):
    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _given(*args, **(kwargs or {})) if func is functional.batch_norm else None
        if given is None:
            return func(*args, **(kwargs or {}))
        return batch_norm(self._ranks, *given)


def _given(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Return the arguments of `torch.nn.functional.batch_norm` in training; else nothing."""
    return (x, mean, var, weight, bias, momentum, eps) if training else None


def batch_norm(
    ranks: Ranks,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalize this process's share `x` (B, C, ...) of a batch as training does the whole of it.

    Running mean and variance (C), the unbiased one, move towards those of the whole as PyTorch moves them.
    """
    with torch.no_grad():
        count, mean, var = _of_whole(ranks, x)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * count / (count - 1)).to(running_var.dtype), momentum)
    ones = torch.ones_like(mean) if weight is None else weight
    shift = torch.zeros_like(mean) if bias is None else bias
    normalized: Tensor = _Normalized.apply(x, ones, shift, mean, var, count, eps, ranks)
    return normalized


def _of_whole(ranks: Ranks, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values of each channel that all processes have, a number, and their mean and variance (C)."""
    own = x.numel() // x.shape[1]
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    if x.device.type == "cpu":  # where var_mean takes ten times as long
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
    else:
        var, mean = torch.var_mean(x, [dim for dim in range(x.ndim) if dim != 1], correction=0)
    kind, (var, mean) = (
        mean.dtype,
        (var.double(), mean.double()),
    )  # in which squares may be taken apart and put together
    sums = ranks.total(torch.cat([mean * own, (var + mean.square()) * own, mean.new_tensor([own])]))
    count = sums[-1]
    mean, squares = (sums[:-1] / count).chunk(2)
    return count, mean.to(kind), (squares - mean.square()).clamp(min=0).to(kind)


class _Normalized(torch.autograd.Function):
    """weight * (x - mean) / sqrt(var + eps) + bias, where mean and variance follow from `x` of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
        ranks: Ranks,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps, ctx.ranks = eps, ranks
        return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, torch.backends.cudnn.enabled)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        inverse = (var + ctx.eps).rsqrt()
        # As if mean and variance were given; what `x` does to them comes after it.
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, mean, inverse, False, ctx.eps, [True, True, True]
        )
        of_weight, of_bias = (ctx.ranks.total(torch.cat([dweight, dbias])) / count.to(dweight.dtype)).chunk(2)
        slope = -weight * inverse.square() * of_weight  # (C)
        shift = -weight * inverse * of_bias - slope * mean
        shape = (1, -1, *[1] * (x.ndim - 2))
        dx = dx.addcmul_(x, slope.view(shape).to(x.dtype)).add_(shift.view(shape).to(x.dtype))
        return dx, dweight, dbias, None, None, None, None, None
