"""The convolution kernel: forward pass, gradient with respect to the input, transposed convolution.

    for each block of output positions (a few rows of an image, or a few small images)
        gather the window of the input that it covers               it stays in the L2 cache
        for each NR filters
            for each MR positions of the block                      register tile: MR x NR outputs

The weights are packed once for all blocks, so that the tile reads NR filters' numbers of one tap and
channel after the other. Each output is computed by one tile, start to end: there is no partial sum
in memory, and the result does not depend on how blocks are shared among threads.
"""

from __future__ import annotations

import numpy as np

from . import conv_blocks as f
from ._jit import jit, native_for_floats
from .conv_blocks import block_at, fill_position_tables, look_ahead, place_of, positions_of
from .conv_gather import gather
from .conv_tile import GROUP, STORE, sweep_dense
from .matmul_tile import VECTORS
from .simd import advance, lanes, pointer


@jit(cache=False)
def window_of(fields, start, size, workspace):
    """Where the window of a block begins: gathered in the workspace, or in x itself."""
    n, i, j = start
    images, height, _ = size
    top = i * fields[f.STRIDE_H] + fields[f.TOP]
    left = j * fields[f.STRIDE_W] + fields[f.LEFT]
    pixel, x_width = fields[f.X_PIXEL], fields[f.X_WIDTH]
    image_size = fields[f.X_HEIGHT] * x_width * pixel
    x = advance(pointer(workspace, fields[f.X]), n * image_size + fields[f.X_CHANNEL])
    if not fields[f.GATHERS]:
        return advance(x, (top * x_width + left) * pixel)
    rows = (height - 1) * fields[f.STRIDE_H] + fields[f.SPAN_H]
    columns = (fields[f.BLOCK_WIDTH] - 1) * fields[f.STRIDE_W] + fields[f.SPAN_W]
    for image in range(images):
        gather(
            advance(x, image * image_size), fields[f.X_HEIGHT], x_width, pixel, fields[f.CHANNELS],
            top, left, rows, columns, fields[f.PITCH],
            advance(workspace, image * rows * columns * fields[f.PITCH]),
        )  # fmt: skip
    return advance(workspace, 0)


@jit(cache=False)
def _multiply(fields, a, c, size, workspace):
    """All filters of the block: c[p, k] = f(sum over q of a[p, q] b[q, k] + bias[k])."""
    positions, panel_width = positions_of(size), VECTORS * lanes(workspace)
    grouped = size[2] % GROUP == 0  # positions of a row are equally far apart
    taps, columns = fields[f.TAPS], fields[f.COLUMNS]
    rows_at, taps_at, places_at = fields[f.POSITION_TABLE], fields[f.TAP_TABLE], fields[f.PLACES]
    slope = np.int64(fields[f.SLOPE]).view(np.float64)
    for k in range(0, columns, panel_width):
        n = min(panel_width, columns - k)
        b = advance(pointer(workspace, fields[f.B]), k * taps)
        bias = _part_of_bias(fields, k, workspace)
        sweep_dense(
            taps, a, fields, rows_at, taps_at, b, panel_width, advance(c, k), places_at,
            f.AHEAD, positions, n, grouped, STORE, bias, slope,
        )  # fmt: skip


@jit(cache=False)
def _part_of_bias(fields, k, workspace):
    address = fields[f.BIAS]
    return advance(pointer(workspace, address), k if address != 0 else 0)


def correlate(fields, workspace):
    """The blocks FIRST ... LAST - 1; for the fields see `conv_blocks`."""
    last_size = (0, 0, 0)
    for block in range(fields[f.FIRST], fields[f.LAST]):
        start, size = block_at(fields, block, 0, fields[f.IMAGES])
        if size != last_size:
            fill_position_tables(fields, size)
            last_size = size
        a = window_of(fields, start, size, workspace)
        c = advance(pointer(workspace, fields[f.C]), place_of(fields, start))
        look_ahead(
            fields, block + 1, fields[f.LAST], (0, fields[f.IMAGES]), positions_of(size),
            fields[f.C], workspace,
        )  # fmt: skip
        _multiply(fields, a, c, size, workspace)
    return 0


DENSE = native_for_floats(correlate)
