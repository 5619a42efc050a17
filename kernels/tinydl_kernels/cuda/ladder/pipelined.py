"""The upper rungs: copies that run while the threads compute, and who in a block computes what.

One kernel serves four rungs. They differ in the tile and in the way its two factors are multiplied, which
`multiply` has for everyday use, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..device import ALIGNED, cuda, kernel
from ..instructions import commit, copy_async, pointer, wait_for
from ..multiply import multiplier
from ..registers import Operations
from ..tiles import Tile
from .rung import Rung


def _double_buffered(dtype: np.dtype, tile: Tile, wide: bool) -> Any:
    """Rung 7: the next tiles are on their way while these are used.

    Until now all threads fetched, waited, computed, waited. Instead, shared memory holds two tiles of each
    factor, and `cp.async` copies from device memory straight into it, without registers and without
    anybody waiting: one pair is computed while the other arrives. One barrier a tile is left. A is turned
    on the way, number by number, each thread writing to a bank of its own.
    """
    return _pipelined(dtype, tile, wide, None)


def _warp_tiles(dtype: np.dtype, tile: Tile, wide: bool) -> Any:
    """Rung 8: the threads of a warp compute a compact piece of C.

    A warp is what the hardware runs at once. In rung 7 its 32 threads cover 2 x 16 of the block's threads:
    together they read 8 + 64 numbers of A and B, from each group of four. As 4 x 8 they read 16 + 32, a
    third less from shared memory for the same sums.
    """
    return _pipelined(dtype, tile, wide, None)


def _tf32(dtype: np.dtype, tile: Tile, wide: bool) -> Any:
    """Rung 9: tensor cores. One instruction of a whole warp multiplies 16 x 8 by 8 x 8 numbers.

    Factors are rounded to TF32, with 10 bits of fraction instead of 23: relative errors near 3e-4. Sums are
    float32. The threads of a warp each hold a few numbers of every factor, in an order that the hardware
    prescribes (see `instructions`).
    """
    return _pipelined(dtype, tile, wide, "tf32")


def _bf16(dtype: np.dtype, tile: Tile, wide: bool) -> Any:
    """Rung 9, coarser: factors rounded to bfloat16, with 7 bits of fraction, two in a register, and twice
    the work in an instruction. The arrays stay float32, so no less is read from memory."""
    return _pipelined(dtype, tile, wide, "bf16")


def _pipelined(dtype: np.dtype, tile: Tile, wide: bool, precision: str | None) -> Any:
    height, width, depth, threads = tile.height, tile.width, tile.depth, tile.threads
    by = multiplier(tile, dtype, precision)
    multiply, places, rows, columns = by.multiply, by.places, by.rows, by.columns
    row_run, row_inside, row_step = by.row_run, by.row_inside, by.row_step
    run, column_step = by.column_run, by.column_step
    a_parts, b_parts, part_type = by.a_parts, by.b_parts, by.part_type
    a_pitch, b_pitch = height + by.padding, width + by.padding
    a_stage, b_stage = depth * a_pitch, depth * b_pitch
    a_size, b_size = 2 * a_stage, 2 * b_stage
    vector = 16 // dtype.itemsize if wide else 1
    copy_one, copy_vector, wait = copy_async(1), copy_async(vector), wait_for(0)
    groups = width // vector
    a_turns, b_turns = height * depth // threads, depth * groups // threads
    if (a_turns * threads, b_turns * threads) != (height * depth, depth * groups):
        raise ValueError(f"{threads} threads cannot share out the copies of {tile}")
    operations = Operations(rows, columns, 1)
    clear, shift_columns, shift_rows = (
        operations.clear,
        operations.shift_columns,
        operations.shift_rows,
    )

    @kernel(threads, tile.blocks)
    def pipelined(a, b, c, m, n, k, zero):
        a, b, c = pointer(a, zero), pointer(b, zero), pointer(c, zero)
        a_shared = cuda.shared.array(a_size, dtype, ALIGNED)
        b_shared = cuda.shared.array(b_size, dtype, ALIGNED)
        sums = cuda.local.array((rows, columns), dtype)
        a_part = cuda.local.array(a_parts, part_type)
        b_part = cuda.local.array(b_parts, part_type)
        thread = cuda.threadIdx.x & 1023  # tells the compiler that it is not negative
        first_row, first_column = cuda.blockIdx.y * height, cuda.blockIdx.x * width
        a_place, b_place, row, column = places(thread)
        clear(sums)
        # Step number -1 only starts copies, and the last one only computes.
        for step in range(-1, (k + depth - 1) // depth):
            wait()  # for this thread's copies,
            cuda.syncthreads()  # for the others', and for all to be done with the last tiles
            following = (step + 1) * depth
            stage = (step + 1) % 2
            for turn in range(a_turns):
                i = thread + turn * threads
                y, p = i // depth, i % depth
                count = 1 if first_row + y < m and following + p < k else 0
                source = (first_row + y) * k + following + p
                copy_one(a_shared, stage * a_stage + p * a_pitch + y, a, source, count)
            for turn in range(b_turns):
                i = thread + turn * threads
                p, x = i // groups, i % groups * vector
                count = min(vector, max(0, n - (first_column + x))) if following + p < k else 0
                source = (following + p) * n + first_column + x
                copy_vector(b_shared, stage * b_stage + p * b_pitch + x, b, source, count)
            commit()
            if step >= 0:
                old = 1 - stage
                multiply(a_shared, old * a_stage + a_place, b_shared, old * b_stage + b_place,
                         a_part, b_part, sums)  # fmt: skip
        wait()  # no copy may be under way when the block ends
        for i in range(rows):
            y = first_row + row + i // row_run * row_step + i % row_run * row_inside
            for j in range(columns):
                x = first_column + column + j // run * column_step + j % run
                if y < m and x < n:
                    c[y * n + x] = sums[0, 0]
                shift_columns(sums)
            shift_rows(sums)

    return pipelined


DOUBLE_BUFFERED = Rung("double_buffered", _double_buffered, Tile(8, 8, (16, 16), (1, 1), blocks=2))
WARP_TILES = Rung("warp_tiles", _warp_tiles, Tile(8, 8, (4, 8), (4, 2), blocks=2))
TF32 = Rung("tf32", _tf32, Tile(8, 16, (8, 4), (2, 2), depth=16, blocks=2), "tf32")
BF16 = Rung("bf16", _bf16, Tile(8, 16, (8, 4), (2, 2), depth=16, blocks=2), "bf16")
