"""The gradient with respect to an input of few channels: products spread over the windows.

In `conv_apply` the columns of the tile are the channels of the result. A first layer has one or three
of them, and the other lanes of the vectors would go to waste. So here the columns are all numbers of a
window, R S C of them, and the product

    cols[p, (r, s, c)] = sum over k of dy[p, k] w[r, s, c, k]

says what position p contributes to its window: the transpose of im2col. It is computed for a few
positions at a time, into a buffer that stays in the second-level cache, and then each window's rows
are added to where they belong in dx. Strides make no difference, and no product is a waste.
"""

from __future__ import annotations

import functools

import numpy as np
from llvmlite import ir

from ..windows import ConvGeometry
from ._jit import jit, native_for_floats
from .conv_ahead import AHEAD_FIELDS
from .conv_gather import clear
from .conv_run import equal_shares, pack_weights, run, threads_for, vector_lanes
from .conv_tile import GROUP, STORE, TALLEST, sweep_dense
from .matmul_tile import VECTORS
from .simd import I64, Emitter, advance, intrinsic, lanes, pointer

# Bytes of the buffer for products.
BUFFER_BYTES = 96 * 1024

# The fields: addresses in bytes, sizes in elements; behind them, the tables for the tiles.
(GRAD, PANELS, RESULT, FIRST, LAST) = range(5)
(HEIGHT, WIDTH, CHANNELS, FILTERS, POSITIONS, OUT_WIDTH) = range(5, 11)
(TAPS_H, TAPS_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, TOP, LEFT) = range(11, 19)
(BLOCK, PITCH, ROW_TABLE, STEP_TABLE, PLACES) = range(19, 24)
AHEAD = 24  # the streams of `conv_ahead`: none
FIELDS = AHEAD + AHEAD_FIELDS


def pays(g: ConvGeometry, itemsize: int) -> bool:
    """Whether this way is shorter than `conv_apply`: both counted in cycles for each position of dy."""
    if g.groups > 1:
        return False
    width = vector_lanes(np.dtype(f"f{itemsize}"))
    taps, window = g.kernel[0] * g.kernel[1], g.kernel[0] * g.kernel[1] * g.channels
    vectors = -(-window // (2 * width))
    spread = g.kernel[0] * (6 + 2 * -(-g.kernel[1] * g.channels // width))
    direct = taps * g.filters * (0.6 if g.channels <= width else -(-g.channels // (2 * width)))
    return (g.filters + 3) * vectors + spread < direct


def grad_input(g: ConvGeometry, grad: np.ndarray, w: np.ndarray, dx: np.ndarray) -> None:
    """dx = gradient of conv2d's input."""
    fields = _fields(g, grad.dtype.itemsize).copy()
    window = g.kernel[0] * g.kernel[1] * g.channels
    panels = pack_weights(w, np.zeros(1, np.int64), (g.filters, 1), (window, g.filters))
    fields[GRAD], fields[PANELS] = grad.ctypes.data, panels.ctypes.data
    fields[RESULT] = dx.ctypes.data
    shares = equal_shares(g.batch, threads_for(grad.size * window))
    buffer = int(fields[BLOCK] * fields[PITCH]) * grad.itemsize
    run(SCATTER[grad.dtype], fields, shares, FIRST, buffer)


@functools.lru_cache(maxsize=128)
def _fields(g: ConvGeometry, itemsize: int) -> np.ndarray:
    pitch = g.kernel[0] * g.kernel[1] * g.channels
    positions = g.out_height * g.out_width
    block = min(positions, max(GROUP, BUFFER_BYTES // (pitch * itemsize) // GROUP * GROUP))
    row_table = FIELDS
    places = row_table + block + TALLEST
    step_table = places + block + TALLEST
    fields = np.zeros(step_table + g.filters + TALLEST, np.int64)
    fields[HEIGHT : OUT_WIDTH + 1] = (
        g.height, g.width, g.channels, g.filters, positions, g.out_width,
    )  # fmt: skip
    fields[TAPS_H : LEFT + 1] = (
        *g.kernel, *g.strides, *g.dilation, g.padding[0][0], g.padding[1][0],
    )  # fmt: skip
    fields[BLOCK : PLACES + 1] = block, pitch, row_table, step_table, places
    rows = np.minimum(np.arange(block + TALLEST), block - 1)
    fields[row_table:places] = rows * g.filters
    fields[places:step_table] = rows * pitch
    fields[step_table : step_table + g.filters] = np.arange(g.filters)
    return fields


def scatter(fields, workspace):
    """dx of the images FIRST ... LAST - 1."""
    grad, image = (
        pointer(workspace, fields[GRAD]),
        fields[HEIGHT] * fields[WIDTH] * fields[CHANNELS],
    )
    for n in range(fields[FIRST], fields[LAST]):
        dx = advance(pointer(workspace, fields[RESULT]), n * image)
        clear(image, dx)
        for first in range(0, fields[POSITIONS], fields[BLOCK]):
            count = min(fields[BLOCK], fields[POSITIONS] - first)
            dy = advance(grad, (n * fields[POSITIONS] + first) * fields[FILTERS])
            _contributions(fields, dy, count, workspace)
            _spread(fields, workspace, first, count, dx)
    return 0


@jit(cache=False)
def _contributions(fields, dy, count, buffer):
    """buffer[p, (r, s, c)] for `count` positions."""
    width, window = VECTORS * lanes(buffer), fields[PITCH]
    # A tile reads rows that do not exist by the offset of the last row that does.
    for extra in range(count, min(count + TALLEST, fields[BLOCK])):
        fields[fields[ROW_TABLE] + extra] = (count - 1) * fields[FILTERS]
    for j in range(0, window, width):
        sweep_dense(
            fields[FILTERS], dy, fields, fields[ROW_TABLE], fields[STEP_TABLE],
            advance(pointer(buffer, fields[PANELS]), j * fields[FILTERS]), width,
            advance(buffer, j), fields[PLACES], AHEAD, count, min(width, window - j), True,
            STORE, pointer(buffer, 0), 1.0,
        )  # fmt: skip
    for extra in range(count, min(count + TALLEST, fields[BLOCK])):
        fields[fields[ROW_TABLE] + extra] = extra * fields[FILTERS]


@jit(cache=False)
def _spread(fields, buffer, first, count, dx):
    """dx[i u + r d - top, j v + s e - left, c] += buffer[(i, j), (r, s, c)], where that exists."""
    height, width, channels = fields[HEIGHT], fields[WIDTH], fields[CHANNELS]
    taps_w, row = fields[TAPS_W], fields[TAPS_W] * channels
    dilation_w = fields[DILATION_W]
    # Neighbors' windows overlap, and a load that needs a part of what was stored just before waits
    # for it. So positions are visited with a step that leads beyond the window.
    step = (taps_w * dilation_w) // fields[STRIDE_W] + 1
    for begin in range(first, first + min(step, count)):
        for p in range(begin, first + count, step):
            i, j = p // fields[OUT_WIDTH], p % fields[OUT_WIDTH]
            left = j * fields[STRIDE_W] - fields[LEFT]
            source = advance(buffer, (p - first) * fields[PITCH])
            for r in range(fields[TAPS_H]):
                h = i * fields[STRIDE_H] + r * fields[DILATION_H] - fields[TOP]
                if h < 0 or h >= height:
                    continue
                line = advance(dx, h * width * channels)
                values = advance(source, r * row)
                if dilation_w == 1:
                    start, stop = max(0, -left), min(taps_w, width - left)
                    if start < stop:
                        place = advance(line, (left + start) * channels)
                        _add((stop - start) * channels, advance(values, start * channels), place)
                else:
                    for s in range(taps_w):
                        v = left + s * dilation_w
                        if 0 <= v < width:
                            place = advance(line, v * channels)
                            _add(channels, advance(values, s * channels), place)


@intrinsic
def _add(e: Emitter, count: ir.Value, source: ir.Value, target: ir.Value) -> None:
    """target[i] += source[i], i < count."""

    def one(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        offset = e.builder.mul(i, I64(e.lanes))
        mask = e.mask(e.builder.sub(count, offset))
        place = e.at(target, offset)
        total = e.add(e.masked_load(place, mask), e.masked_load(e.at(source, offset), mask))
        e.masked_store(total, place, mask)
        return []

    vectors = e.builder.sdiv(e.builder.add(count, I64(e.lanes - 1)), I64(e.lanes))
    e.loop(vectors, [], one, unroll=False)


SCATTER = native_for_floats(scatter)
