"""Convolutions on small maps as matrix products: oneDNN, which PyTorch uses on CPUs, is slow there.

A 3x3 kernel on a map of 2x2 meets the map with four of its nine taps at each place, and padding with the others. Here
each tap that meets the map is one matrix product; where few channels make these small, all of them are one, of the
whole map. Which convolutions go this way is a rule of shape and instruction set, never of timing, so that the same
machine always computes the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Pair = tuple[int, int]

#: Places of the output, at most, and weights of a tap (inputs times outputs), at least, from which taps are faster.
BOUNDS = ((1, 1), (4, 64 * 64), (16, 256 * 256), (64, 512 * 512))
#: Places of the output, at most, of 1x1 kernels.
POINTWISE = 16
#: Pairs of a place of the output and one of the input, at most, and entries of a map's matrix, at most, up to which one
#: product of whole maps is faster than one a tap.
PAIRS = 64
ENTRIES = 2**18


class Tap(NamedTuple):
    """One place of a kernel, and the parts of the output and of the input that it joins."""

    kernel: Pair
    outputs: tuple[slice, slice]
    inputs: tuple[slice, slice]


@cache
def taps(size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> tuple[Tap, ...]:
    """Return the taps of a kernel that meet a map of `size` and not only its padding; all are (rows, columns)."""
    rows, columns = (
        [_met(*axis, tap) for tap in range(axis[1])] for axis in zip(size, kernel, stride, padding, strict=True)
    )
    return tuple(
        Tap((y, x), (row[0], column[0]), (row[1], column[1]))
        for y, row in enumerate(rows)
        for x, column in enumerate(columns)
        if row and column
    )


def _met(size: int, kernel: int, stride: int, padding: int, tap: int) -> tuple[slice, slice] | None:
    """Return along one axis which outputs read the input at `tap`, and which inputs they read; None if none does."""
    first = max(0, -((tap - padding) // stride))
    last = min(_extent(size, kernel, stride, padding) - 1, (size - 1 + padding - tap) // stride)
    if last < first:
        return None
    start = first * stride - padding + tap
    return slice(first, last + 1), slice(start, start + (last - first) * stride + 1, stride)


def _extent(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


class _Convolution(torch.autograd.Function):
    """An ungrouped convolution of x (B, C, H, W) with weight (O, C, rows, columns), a matrix product a tap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        height, width = map(_extent, x.shape[2:], weight.shape[2:], stride, padding)
        places = x.permute(0, 2, 3, 1)
        out = x.new_zeros((len(x), height, width, len(weight)))
        for tap in taps(x.shape[2:], weight.shape[2:], stride, padding):
            out[:, *tap.outputs] += places[:, *tap.inputs] @ weight[:, :, *tap.kernel].t()
        return _laid_out(out, x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to have one itself
            return *_pytorchs(ctx, gradient, 1, ctx.needs_input_grad[:2]), None, None
        (outputs, channels), kernel = weight.shape[:2], weight.shape[2:]
        gradient, places = gradient.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
        to_x = places.new_zeros(places.shape) if ctx.needs_input_grad[0] else None
        to_weight = weight.new_zeros((outputs, *kernel, channels))
        for tap in taps(x.shape[2:], kernel, ctx.stride, ctx.padding):
            out = gradient[:, *tap.outputs].reshape(-1, outputs)
            torch.mm(out.t(), places[:, *tap.inputs].reshape(-1, channels), out=to_weight[:, *tap.kernel])
            if to_x is not None:
                part = to_x[:, *tap.inputs]
                part += (out @ weight[:, :, *tap.kernel]).view(part.shape)
        return to_x if to_x is None else to_x.permute(0, 3, 1, 2), to_weight.permute(0, 3, 1, 2), None, None


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of x (B, C, H, W) with weight (C, 1, rows, columns); the weights' gradient is ours."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return nn.functional.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to have one itself
            return *_pytorchs(ctx, gradient, len(weight), ctx.needs_input_grad[:2]), None, None
        to_x = _pytorchs(ctx, gradient, len(weight), (True, False))[0] if ctx.needs_input_grad[0] else None
        gradient, places = gradient.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
        to_weight = weight.new_zeros((*weight.shape[2:], len(weight)))
        for tap in taps(x.shape[2:], weight.shape[2:], ctx.stride, ctx.padding):
            product = gradient[:, *tap.outputs] * places[:, *tap.inputs]
            torch.sum(product, (0, 1, 2), out=to_weight[*tap.kernel])
        return to_x, to_weight.permute(2, 0, 1).unsqueeze(1), None, None


def _pytorchs(ctx: Any, gradient: Tensor, groups: int, wanted: Sequence[bool]) -> tuple[Tensor | None, Tensor | None]:
    """Return PyTorch's own gradients of x and weight, those that are `wanted`."""
    arguments = (None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), groups, (*wanted, False))
    to_x, to_weight, _ = torch.ops.aten.convolution_backward(gradient, *ctx.saved_tensors, *arguments)
    return to_x, to_weight


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    groups: int = 1,
) -> Tensor:
    """Return what `torch.nn.functional.conv2d` does, up to rounding, and in the same memory format.

    Args:
        x: (B, C, H, W); the kernel fits into the padded map.
        weight: (O, C / groups, rows, columns).
        bias: (O).
        stride, padding: rows and columns.
        groups: 1, or C where O is C too: a depthwise convolution.
    """
    (outputs, channels), kernel = weight.shape[:2], (weight.shape[2], weight.shape[3])
    if groups > 1:
        out = _Depthwise.apply(x, weight, stride, padding)
    elif kernel == stride == (1, 1) and padding == (0, 0):
        out = _pointwise(x, weight)
    elif _is_dense((x.shape[2], x.shape[3]), kernel, stride, padding, outputs * channels):
        out = _dense(x, weight, stride, padding)
    else:
        out = _Convolution.apply(x, weight, stride, padding)
    return out if bias is None else out + bias[:, None, None]


def _pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve with a 1x1 kernel: a linear layer at each place."""
    return _laid_out(nn.functional.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0]), x, weight)


def _dense(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Convolve as a linear layer of whole maps, whose matrix holds the kernel's taps and zeros where none reaches."""
    (outputs, channels), kernel, size = weight.shape[:2], (weight.shape[2], weight.shape[3]), (x.shape[2], x.shape[3])
    height, width = map(_extent, size, kernel, stride, padding)
    blocks = nn.functional.pad(weight.permute(2, 3, 0, 1).flatten(0, 1), (0, 0, 0, 0, 0, 1))
    blocks = blocks.index_select(0, _taps_of_pairs(size, kernel, stride, padding))
    matrix = blocks.view(height * width, -1, outputs, channels).transpose(1, 2).reshape(height * width * outputs, -1)
    out = nn.functional.linear(x.permute(0, 2, 3, 1).flatten(1), matrix)
    return _laid_out(out.view(len(x), height, width, outputs), x, weight)


def _laid_out(out: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return (B, H, W, C) as (B, C, H, W) in the memory format that PyTorch's convolution of `x` has."""
    last = all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    layout = torch.channels_last if last else torch.contiguous_format  # what follows may view it
    return out.permute(0, 3, 1, 2).contiguous(memory_format=layout)


@cache
def _taps_of_pairs(size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """Return which tap joins each place of the output and each of the input, (pairs,); for none, the number of taps."""
    height, width = map(_extent, size, kernel, stride, padding)
    table = torch.full((height, width, *size), kernel[0] * kernel[1])
    for y, x, i, j in product(range(height), range(width), range(kernel[0]), range(kernel[1])):
        row, column = y * stride[0] - padding[0] + i, x * stride[1] - padding[1] + j
        if 0 <= row < size[0] and 0 <= column < size[1]:
            table[y, x, row, column] = i * kernel[1] + j
    return table.flatten()


def _is_dense(size: Pair, kernel: Pair, stride: Pair, padding: Pair, weights: int) -> bool:
    """Say whether the product of whole maps is the fastest; `weights` are those of a tap."""
    height, width = map(_extent, size, kernel, stride, padding)
    pairs = height * width * size[0] * size[1]
    return kernel != (1, 1) and 1 < pairs <= PAIRS and pairs * weights <= ENTRIES


def by_products(layer: nn.Conv2d, size: Pair) -> bool:
    """Say whether training `layer` on maps of `size` (rows, columns) is faster by matrix products than by oneDNN.

    The bounds were measured on AVX2 for batches of 128 (`benchmarks/kernels.py`).
    """
    kernel, stride, padding = _pair(layer.kernel_size), _pair(layer.stride), layer.padding
    if _pair(layer.dilation) != (1, 1) or layer.padding_mode != "zeros" or isinstance(padding, str):
        return False
    height, width = map(_extent, size, kernel, stride, _pair(padding))
    if min(height, width) < 1:
        return False  # PyTorch says what is wrong
    if layer.groups == layer.in_channels == layer.out_channels > 1:
        return size[0] < kernel[0]
    if layer.groups > 1:
        return False
    weights = layer.in_channels * layer.out_channels
    if kernel == (1, 1):
        return height * width <= POINTWISE
    return _is_dense(size, kernel, stride, _pair(padding), weights) or any(
        height * width <= places and weights >= least for places, least in BOUNDS
    )


@contextmanager
def small_maps(network: nn.Module) -> Iterator[None]:
    """Train the convolutions of `network` as matrix products, within the context, where that is faster.

    Those with a forward pass of their own stay as they are, and so does everything on other devices, in other
    precisions, in eval mode, and where oneDNN has kernels for AVX-512, for which nothing was measured.
    """
    measured = torch.backends.cpu.get_cpu_capability() == "AVX2"
    layers = [m for m in network.modules() if measured and isinstance(m, nn.Conv2d) and _is_plain(m)]
    for layer in layers:
        layer.__dict__["_conv_forward"] = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["_conv_forward"]


def _is_plain(layer: nn.Conv2d) -> bool:
    """Say whether neither the layer's class nor the layer itself replaces the forward pass of `nn.Conv2d`."""
    names = ("forward", "_conv_forward")
    return all(getattr(type(layer), name) is getattr(nn.Conv2d, name) for name in names) and not (
        layer.__dict__.keys() & names
    )


def _forward(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    fp32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    fits = x.ndim == 4 and x.shape[1] == layer.in_channels  # PyTorch says what is wrong where it does not
    ours = layer.training and fp32 and fits and x.device.type == "cpu" and by_products(layer, (x.shape[2], x.shape[3]))
    if not ours:
        return nn.Conv2d._conv_forward(layer, x, weight, bias)
    return convolve(x, weight, bias, _pair(layer.stride), _pair(layer.padding), layer.groups)


def _pair(values: Any) -> Pair:
    rows, columns = (values, values) if isinstance(values, int) else values
    return rows, columns
