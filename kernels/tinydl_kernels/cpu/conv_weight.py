"""The gradient of a convolution with respect to its weights: the product of `conv_apply` transposed.

    dw[q, k] = sum over positions p of A[p, q] dy[p, k],     A[p, q] = x[place p + offset q]

The rows of the tile are now taps and channels q, and the sum runs over positions: the tables of the
forward pass change their roles. Positions come in blocks, so that the window of x and the panel of dy
stay in the second-level cache; from block to block the products are added up in memory.

Small weights have too few tiles to share among threads. Then the batch is cut into chunks, each with
a result of its own, and the results are added in the end. The cut depends on the shapes only, never
on the number of threads, so the result is the same to the last bit for any number of them.
"""

from __future__ import annotations

from . import conv_blocks as f
from ._jit import jit, native_for_floats
from .conv_apply import window_of
from .conv_blocks import (
    block_at,
    blocks_of,
    fill_position_tables,
    look_ahead,
    place_of,
    positions_of,
)
from .conv_gather import add_rows, copy_row
from .conv_tile import ADD, GROUP, STORE, sweep_dense
from .matmul_tile import VECTORS
from .simd import advance, lanes, pointer

# Up to so many rows (taps and channels), copying dy into panels costs more than it saves.
_FEW_ROWS = 64


@jit(cache=False)
def _multiply(fields, a, n, positions, rows, b, b_step, c, mode):
    taps, places = fields[f.TAP_TABLE] + rows[0], fields[f.TAP_PLACES] + rows[0]
    steps, count, none = fields[f.POSITION_TABLE], rows[1] - rows[0], pointer(b, 0)
    grouped = fields[f.CHANNELS] % GROUP == 0  # channels are next to each other
    sweep_dense(
        positions, a, fields, taps, steps, b, b_step, c, places, f.AHEAD, count, n, grouped,
        mode, none, 1.0,
    )  # fmt: skip


@jit(cache=False)
def _panel_of(fields, grad, k, n, positions, is_last, panel):
    """The columns k ... k + n - 1 of dy for a block's positions: where they begin, and how far it is
    from one position to the next. Tiles read whole vectors, so the columns are copied into a panel if
    the vectors could reach beyond the end of dy; or if they are read so often that it pays."""
    source, step = advance(grad, k), fields[f.PLACE_COLUMN]
    in_line = fields[f.BLOCK_WIDTH] == fields[f.WIDTH]
    stays_inside = n % lanes(panel) == 0 or not is_last
    if in_line and stays_inside and fields[f.TAPS] <= _FEW_ROWS:
        return source, step
    width = VECTORS * lanes(panel)
    for p in range(positions):
        copy_row(advance(source, fields[fields[f.PLACES] + p]), n, advance(panel, p * width))
    return panel, width


def weigh(fields, workspace):
    """Rows ROW_FIRST ... ROW_LAST - 1 of chunks FIRST ... LAST - 1; see `conv_blocks`."""
    rows = fields[f.ROW_FIRST], fields[f.ROW_LAST]
    for q in range(fields[f.TAPS]):
        fields[fields[f.TAP_PLACES] + q] = q * fields[f.ROW_STEP]
    sums_wanted = fields[f.SUMS] != 0 and rows[0] == 0  # by one thread only
    panel = advance(workspace, fields[f.WINDOW])
    last_size = (0, 0, 0)
    for chunk in range(fields[f.FIRST], fields[f.LAST]):
        first_image = chunk * fields[f.CHUNK_IMAGES]
        last_image = min(first_image + fields[f.CHUNK_IMAGES], fields[f.IMAGES])
        blocks = blocks_of(fields, last_image - first_image)
        c = advance(pointer(workspace, fields[f.C]), chunk * fields[f.CHUNK_SIZE])
        mode = ADD if fields[f.ACCUMULATE] else STORE
        for block in range(blocks):
            start, size = block_at(fields, block, first_image, last_image)
            if size != last_size:
                fill_position_tables(fields, size)
                last_size = size
            a = window_of(fields, start, size, workspace)
            look_ahead(
                fields, block + 1, blocks, (first_image, last_image), rows[1] - rows[0],
                fields[f.B], workspace,
            )  # fmt: skip
            grad = advance(pointer(workspace, fields[f.B]), place_of(fields, start))
            positions = positions_of(size)
            is_last = last_image == fields[f.IMAGES] and block == blocks - 1
            for k in range(0, fields[f.COLUMNS], VECTORS * lanes(workspace)):
                n = min(VECTORS * lanes(workspace), fields[f.COLUMNS] - k)
                b, b_step = _panel_of(fields, grad, k, n, positions, is_last, panel)
                if sums_wanted:
                    sums = advance(pointer(c, fields[f.SUMS]), chunk * fields[f.COLUMNS] + k)
                    add_rows(positions, b, b_step, n, sums)
                _multiply(fields, a, n, positions, rows, b, b_step, advance(c, k), mode)
            mode = ADD
    return 0


DENSE = native_for_floats(weigh)
