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

from collections.abc import Callable

from . import conv_blocks as f
from ._jit import NativeKernel, jit
from .conv_apply import compile_for_both, window_of
from .conv_blocks import block_at, blocks_of, fill_position_tables, place_of
from .conv_gather import copy_row
from .conv_tile import ADD, STORE, sweep_depthwise, sweep_narrow, sweep_wide
from .matmul_packing import add_column_sums
from .matmul_tile import VECTORS
from .simd import advance, lanes, pointer


@jit(cache=False)
def _dense(fields, a, panel, k, n, positions, rows, c, mode):
    row_at, place_at = fields[f.TAP_TABLE] + rows[0], fields[f.TAP_PLACES] + rows[0]
    none, width = pointer(panel, 0), VECTORS * lanes(panel)
    if n > lanes(panel):
        sweep_wide(
            positions, a, fields, row_at, fields[f.POSITION_TABLE], panel, width,
            c, place_at, rows[1] - rows[0], n, mode, none, 1.0,
        )  # fmt: skip
    else:
        sweep_narrow(
            positions, a, fields, row_at, fields[f.POSITION_TABLE], panel, width,
            c, place_at, rows[1] - rows[0], n, mode, none, 1.0,
        )  # fmt: skip


@jit(cache=False)
def _depthwise(fields, a, panel, k, n, positions, rows, c, mode):
    row_at, place_at = fields[f.TAP_TABLE] + rows[0], fields[f.TAP_PLACES] + rows[0]
    none, width = pointer(panel, 0), VECTORS * lanes(panel)
    for j in range(0, n, lanes(panel)):
        sweep_depthwise(
            positions, advance(a, k + j), fields, row_at, fields[f.POSITION_TABLE],
            advance(panel, j), width, advance(c, j), place_at, rows[1] - rows[0],
            min(lanes(panel), n - j), mode, none, 1.0,
        )  # fmt: skip


@jit(cache=False)
def _pack(fields, source, n, positions, panel):
    """panel[p] = the numbers of position p, n of them, then zeros."""
    places, width = fields[f.PLACES], VECTORS * lanes(panel)
    for p in range(positions):
        copy_row(advance(source, fields[places + p]), n, advance(panel, p * width))


def _make_kernel(multiply: Callable) -> dict[str, NativeKernel]:
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
            c = advance(pointer(workspace, fields[f.C]), chunk * fields[f.CHUNK_SIZE])
            sums = pointer(workspace, fields[f.SUMS])
            if sums_wanted:
                sums = advance(sums, chunk * fields[f.COLUMNS])
            mode = ADD if fields[f.ACCUMULATE] else STORE
            for block in range(blocks_of(fields, last_image - first_image)):
                start, size = block_at(fields, block, first_image, last_image)
                if size != last_size:
                    fill_position_tables(fields, size)
                    last_size = size
                a = window_of(fields, start, size, workspace)
                grad = advance(pointer(workspace, fields[f.B]), place_of(fields, start))
                positions = size[0] * size[1] * size[2]
                for k in range(0, fields[f.COLUMNS], VECTORS * lanes(workspace)):
                    n = min(VECTORS * lanes(workspace), fields[f.COLUMNS] - k)
                    _pack(fields, advance(grad, k), n, positions, panel)
                    if sums_wanted:
                        add_column_sums(panel, positions, n, advance(sums, k))
                    multiply(fields, a, panel, k, n, positions, rows, advance(c, k), mode)
                mode = ADD
        return 0

    return compile_for_both(weigh)


DENSE = _make_kernel(_dense)
DEPTHWISE = _make_kernel(_depthwise)
