"""Convolution as a ladder: six kernels, from the definition to register tiles without im2col.

Every rung computes y[n, i, j, k] = sum over r, s, c of x[n, i + r, j + s, c] w[r, s, c, k] for float32
or float64, stride one and no padding, in one thread but for the last. `RUNGS` lists them in order;
`tinydl bench ladder conv2d` measures them. The ladder of `matmul` comes first: its register tile is
taken for granted here, and the question is how a convolution gets to use it.

The kernel of everyday use (`tinydl_kernels.conv2d`, see `conv_tile`) is the last rung plus strides,
padding, dilation, groups, edges of every size, bias, activation and gradients.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import prange

from .._jit import jit
from ..simd import Emitter, intrinsic, lanes
from .matmul import simd_tile as fast_matmul


@jit
def _naive(x, w, y):
    for n in range(y.shape[0]):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                for k in range(y.shape[3]):
                    total = x[n, i, j, 0] * 0
                    for r in range(w.shape[0]):
                        for s in range(w.shape[1]):
                            for c in range(w.shape[2]):
                                total += x[n, i + r, j + s, c] * w[r, s, c, k]
                    y[n, i, j, k] = total


def naive(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Rung 1: the definition, seven loops.

    The innermost loop walks through w in steps of K numbers and adds into one sum, so that each
    addition waits for the one before.
    """
    return _into_new(_naive, x, w)


@jit
def _loop_order(x, w, y):
    y[:] = 0
    for n in range(y.shape[0]):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                for r in range(w.shape[0]):
                    for s in range(w.shape[1]):
                        for c in range(w.shape[2]):
                            factor = x[n, i + r, j + s, c]
                            for k in range(y.shape[3]):
                                y[n, i, j, k] += factor * w[r, s, c, k]


def loop_order(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Rung 2: the filters k go innermost.

    With channels last, the numbers of all filters for one tap and channel lie next to each other, and
    so do the outputs: the compiler makes vector instructions. But each multiply-add loads a number of
    w and one of y and stores one of y, and all of w is read again for every position.
    """
    return _into_new(_loop_order, x, w)


@jit
def _unfold(x, rows, columns, matrix):
    p = 0
    width = columns * x.shape[3]
    for n in range(x.shape[0]):
        for i in range(x.shape[1] - rows + 1):
            for j in range(x.shape[2] - columns + 1):
                for r in range(rows):
                    for s in range(columns):
                        for c in range(x.shape[3]):
                            matrix[p, r * width + s * x.shape[3] + c] = x[n, i + r, j + s, c]
                p += 1


def _im2col(x, w, y):
    rows, columns, channels, filters = w.shape
    matrix = np.empty((y.size // filters, rows * columns * channels), x.dtype)
    _unfold(x, rows, columns, matrix)
    y.reshape(-1, filters)[...] = fast_matmul(matrix, w.reshape(-1, filters))


def im2col(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Rung 3: the window of each position is copied into a row of a matrix; the rest is a product.

    This is how convolution came to use the fast matrix products that existed (Chellapilla, Puri &
    Simard, "High performance convolutional neural networks for document processing", 2006). The price
    is memory: with a 3 x 3 kernel, the matrix is nine times as large as the input, and it is written
    once and read once by way of main memory.
    """
    return _into_new(_im2col, x, w)


POSITIONS = 4


@jit
def _shared_weights(x, w, y):
    y[:] = 0
    for n in range(y.shape[0]):
        for i in range(y.shape[1]):
            for j in range(0, y.shape[2] - POSITIONS + 1, POSITIONS):
                y0, y1, y2, y3 = y[n, i, j], y[n, i, j + 1], y[n, i, j + 2], y[n, i, j + 3]
                for r in range(w.shape[0]):
                    for s in range(w.shape[1]):
                        for c in range(w.shape[2]):
                            x0, x1 = x[n, i + r, j + s, c], x[n, i + r, j + s + 1, c]
                            x2, x3 = x[n, i + r, j + s + 2, c], x[n, i + r, j + s + 3, c]
                            for k in range(y.shape[3]):
                                factor = w[r, s, c, k]
                                y0[k] += x0 * factor
                                y1[k] += x1 * factor
                                y2[k] += x2 * factor
                                y3[k] += x3 * factor
            _positions(x, w, y, n, i, y.shape[2] // POSITIONS * POSITIONS, 0)


def shared_weights(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Rung 4: no matrix; instead each number of w that was loaded serves four positions.

    That is half of the register tile's idea, for the operand w. What remains is that the sums y go to
    the cache and back for every tap and channel.
    """
    return _into_new(_shared_weights, x, w)


# 12 vectors of sums fit into the registers of every processor with AVX2 or more.
ROWS, VECTORS = 6, 2


@intrinsic
def _tile(
    e: Emitter,
    count: ir.Value,
    x: ir.Value,
    place: ir.Value,
    offsets: ir.Value,
    panel: ir.Value,
    y: ir.Value,
    y_row: ir.Value,
) -> None:
    """y[0:ROWS, 0:VECTORS * lanes] = sum over q < count of x[place + i * pixel + offsets[q]] panel[q]

    where the number `pixel` of channels stands in front of the offsets.
    """
    pixel = e.builder.load(offsets)
    places = [
        e.at(e.at(x, place), e.builder.mul(pixel, ir.Constant(pixel.type, i))) for i in range(ROWS)
    ]

    def update(q: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        offset = e.builder.load(e.at(e.at(offsets, 1), q))
        row = e.at(panel, e.builder.mul(q, ir.Constant(q.type, VECTORS * e.lanes)))
        w_vectors = [e.load(e.at(row, j * e.lanes)) for j in range(VECTORS)]
        following = []
        for i in range(ROWS):
            factor = e.splat(e.load_scalar(e.at(places[i], offset)))
            for j in range(VECTORS):
                following.append(e.fma(factor, w_vectors[j], sums[i * VECTORS + j]))
        return following

    sums = e.loop(count, [e.zero] * (ROWS * VECTORS), update)
    for i in range(ROWS):
        y_row_i = e.at(y, e.builder.mul(y_row, ir.Constant(y_row.type, i)))
        for j in range(VECTORS):
            e.store(sums[i * VECTORS + j], e.at(y_row_i, j * e.lanes))


@jit(cache=False)
def _offsets(x, w):
    """The number of channels, then how far tap and channel (r, s, c) are from (0, 0, 0)."""
    rows, columns, channels = w.shape[:3]
    offsets = np.empty(1 + rows * columns * channels, np.int64)
    offsets[0] = channels
    q = 1
    for r in range(rows):
        for s in range(columns):
            for c in range(channels):
                offsets[q] = (r * x.shape[2] + s) * channels + c
                q += 1
    return offsets


@jit(cache=False)
def _panels(w):
    """w[r, s, c, k] -> panels[k // width, (r, s, c), k % width], for whole panels."""
    width = VECTORS * lanes(w)
    taps, filters = w.size // w.shape[3], w.shape[3]
    flat = w.reshape(taps, filters)
    panels = np.empty((filters // width, taps, width), w.dtype)
    for p in range(filters // width):
        for q in range(taps):
            for k in range(width):
                panels[p, q, k] = flat[q, p * width + k]
    return panels


@jit(cache=False)
def _row_of_tiles(x, w, y, n, i, offsets, panels):
    """Row i of image n."""
    count, width = panels.shape[1], panels.shape[2]
    _, height, x_width, channels = x.shape
    columns = y.shape[2]
    tiled = panels.shape[0] * width if columns >= ROWS else 0
    for p in range(tiled // width):
        for start in range(0, columns, ROWS):
            # The last tile moves back to fit into the row: it computes some outputs once more.
            j = min(start, columns - ROWS)
            place = ((n * height + i) * x_width + j) * channels
            _tile(count, x, place, offsets, panels[p], y[n, i, j:, p * width :], y.shape[3])
    for j in range(columns):
        for k in range(tiled, y.shape[3]):
            y[n, i, j, k] = 0
    _positions(x, w, y, n, i, 0, tiled)


@jit
def _simd_tile(x, w, y):
    offsets, panels = _offsets(x, w), _panels(w)
    for n in range(y.shape[0]):
        for i in range(y.shape[1]):
            _row_of_tiles(x, w, y, n, i, offsets, panels)


def simd_tile(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Rung 5: the register tile of the matrix product, on a matrix that is never built.

    Its rows are positions, its columns filters, and the sum runs over taps and channels q. The im2col
    element of row i and column q lies at x + place(i) + offset(q): one address for each row, and one
    table of offsets for all of them. So the tile reads the input where it lies, and the sums stay in
    registers from the first tap to the last.
    """
    return _into_new(_simd_tile, x, w)


@jit(parallel=True)
def _threads(x, w, y):
    offsets, panels = _offsets(x, w), _panels(w)
    for row in prange(y.shape[0] * y.shape[1]):
        _row_of_tiles(x, w, y, row // y.shape[1], row % y.shape[1], offsets, panels)


def threads(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Rung 6: rows of outputs are shared among the threads.

    Every output belongs to one thread, and the packed weights are read by all and written by none, so
    nothing has to be locked.
    """
    return _into_new(_threads, x, w)


RUNGS = (naive, loop_order, im2col, shared_weights, simd_tile, threads)


@jit(cache=False)
def _positions(x, w, y, n, i, first, first_filter):
    """What whole tiles leave over: the positions of a row from `first` on are added to y."""
    for j in range(first, y.shape[2]):
        for r in range(w.shape[0]):
            for s in range(w.shape[1]):
                for c in range(w.shape[2]):
                    factor = x[n, i + r, j + s, c]
                    for k in range(first_filter, y.shape[3]):
                        y[n, i, j, k] += factor * w[r, s, c, k]


def _into_new(kernel, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Check, allocate y and call."""
    if x.dtype not in (np.float32, np.float64) or w.dtype != x.dtype:
        raise TypeError(f"x is {x.dtype} and w is {w.dtype}; both must be float32, or both float64")
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2] or 0 in x.shape + w.shape:
        raise ValueError(
            f"shapes {x.shape} and {w.shape} do not fit: (N, H, W, C) and (R, S, C, K), none zero"
        )
    size = tuple(x.shape[axis] - w.shape[axis - 1] + 1 for axis in (1, 2))
    if min(size) < 1:
        raise ValueError(f"shapes {x.shape} and {w.shape} do not fit: the kernel is too large")
    y = np.empty((x.shape[0], *size, w.shape[3]), x.dtype)
    kernel(np.ascontiguousarray(x), np.ascontiguousarray(w), y)
    return y
