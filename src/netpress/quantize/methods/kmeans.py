"""Weights of few values: clustered by k-means, stored as a codebook of each layer and indices in 8 or 4 bits.

Han et al., Deep compression, https://arxiv.org/abs/1510.00149, without its pruning, training and Huffman coding. The
codebook of 2**bits values minimizes sum |w - c|^2 over the layer's weights. It starts evenly between the smallest and
the largest weight, which serves large weights better than a start at random weights or at their quantiles. Lloyd's
rounds then give each weight to the nearest value and move each value to the mean of its weights, until all stand still.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from netpress.params.schema import Strict
from netpress.quantize.common.stored import Clustered, Layer, Rounded, layers_of, store
from netpress.quantize.run import Trained

EXAMPLE = {"bits": 4}
#: Rounds after which a codebook that still moves, by roundings of ties, is taken as it is.
MOST_ROUNDS = 10_000


class Options(Strict):
    """Options of clustering."""

    bits: Literal[8, 4] = Field(description="bits of an index: codebooks of 256 or 16 values")


def quantize(model: Trained, options: Options) -> bytes:
    """Store the weights of convolutions and linear layers as codebooks and indices, which make fp32 weights of them.

    Layers of few inputs to an output, such as depthwise convolutions, whose outputs differ in range, are rounded to the
    nearest in 8 bits, and those of so few weights that their codebook would be larger than their indices in `bits`,
    both with a scale for each output.
    """
    import onnx

    graph = onnx.load_from_string(model.onnx)
    return store(graph, {layer.name: stored(layer, options.bits) for layer in layers_of(graph)})


def stored(layer: Layer, bits: int) -> Clustered | Rounded:
    """Return the weight of a layer in few bits."""
    if layer.narrow or 32 * 2**bits > bits * layer.weight.size:
        return layer.nearest(bits, 0)
    return clustered(layer.rows, linear_start(layer.rows, 2**bits))


def linear_start(weights: np.ndarray, count: int) -> np.ndarray:
    """Return `count` values evenly from the smallest weight to the largest."""
    return np.linspace(weights.min(), weights.max(), count)


def clustered(weights: np.ndarray, start: np.ndarray) -> Clustered:
    """Cluster weights of any shape around a codebook that begins with the values `start`, ascending.

    A value that no weight is nearest to moves to the weight that is worst served, so that none stays unused as long as
    there is an error. No step raises the squared error.
    """
    ordered = np.sort(weights, axis=None).astype(np.float64)
    codebook, ends = _as_stored(start), np.zeros(0, np.int64)
    for _ in range(MOST_ROUNDS):
        before, ends = ends, _ends(ordered, codebook)
        counts = np.diff(ends)
        used = counts > 0
        codebook[used] = _as_stored(np.add.reduceat(ordered, ends[:-1][used]) / counts[used])
        off = np.abs(ordered - np.repeat(codebook, counts))
        if off.max() > 0 and not used.all():
            codebook[used.argmin()] = ordered[off.argmax()]
            codebook.sort()
        elif np.array_equal(before, ends):
            break
    places = np.searchsorted(_middles(codebook), weights)
    return Clustered(places.astype(np.uint8), codebook.astype(np.float32))


def _as_stored(values: np.ndarray) -> np.ndarray:
    """Return values in float64 as the file holds them."""
    return values.astype(np.float32).astype(np.float64)


def _middles(codebook: np.ndarray) -> np.ndarray:
    return (codebook[1:] + codebook[:-1]) / 2


def _ends(ordered: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Return where in the ordered weights the share of each value begins, and the end of the last: (count + 1)."""
    return np.concatenate([[0], np.searchsorted(ordered, _middles(codebook), side="right"), [len(ordered)]])
