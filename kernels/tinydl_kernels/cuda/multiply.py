"""What a block does with a pair of tiles in shared memory: by fused multiply-adds, or by tensor cores.

Both leave to each thread a part of the tile of C, `sums[i, j]`, whose element's place in the tile is

    row(i)    = first row    + (i // row_run) * row_step + (i % row_run) * row_inside
    column(j) = first column + (j // column_run) * column_step + j % column_run
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .device import VECTOR_BYTES, device_function
from .instructions import load, load4
from .mma import pack_bf16, to_tf32
from .registers import Operations, mma_tile
from .tiles import Tile

PRECISIONS = ("tf32", "bf16")


class Ahead(NamedTuple):
    """The product of two tiles in parts, so that nobody waits between one pair of tiles and the next: when a
    thread turns to the next pair, it reads the first numbers there before it adds the last products here.

    begin(a_shared, a_place, b_shared, b_place, a_part, b_part) reads the first numbers of the first pair;
    multiply(..., sums) adds all that does not need another pair; turn(..., sums), with the places of the
    next pair, adds the rest. Tensor cores do all in `multiply`.
    """

    begin: Any
    multiply: Any
    turn: Any


class Multiplier(NamedTuple):
    """multiply(a_shared, a_place, b_shared, b_place, a_part, b_part, sums) adds the product of two tiles
    to sums; `ahead` does so in parts; places(thread) gives where in A's and B's tile the thread begins, and
    its first row and column of C."""

    multiply: Any
    ahead: Ahead
    places: Any
    padding: int  # of the rows of the tiles in shared memory, in elements
    rows: int
    columns: int
    a_parts: int
    b_parts: int
    part_type: np.dtype
    row_run: int
    row_inside: int
    row_step: int
    column_run: int
    column_step: int


def multiplier(tile: Tile, dtype: np.dtype, precision: str | None) -> Multiplier:
    if precision is None:
        return _by_fma(tile, dtype)
    return _by_tensor_cores(tile, dtype, precision)


def _by_fma(tile: Tile, dtype: np.dtype) -> Multiplier:
    """A thread's rows and columns come in groups of four, read 16 bytes at a time. The groups of a warp's
    lanes lie side by side, so that a warp reads whole runs of shared memory, each bank once."""
    rows, columns, depth = tile.rows, tile.columns, tile.depth
    (lane_rows, lane_columns), warp_columns = tile.lanes, tile.warps[1]
    lanes = lane_rows * lane_columns
    row_step, column_step = 4 * lane_rows, 4 * lane_columns
    padding = VECTOR_BYTES // dtype.itemsize
    a_pitch, b_pitch = tile.height + padding, tile.width + padding

    @device_function
    def places(thread):
        warp, lane = thread // lanes, thread % lanes
        row = warp // warp_columns * (rows * lane_rows) + lane // lane_columns * 4
        column = warp % warp_columns * (columns * lane_columns) + lane % lane_columns * 4
        return row, column, row, column

    operations = Operations(rows, columns, 4)

    def reader(half):
        """A column of A's tile and a row of B's go to one half of the registers for them."""
        a_first, b_first = half * rows, half * columns

        @device_function
        def read(a_shared, a_place, b_shared, b_place, a_part, b_part):
            # B first: the first row of products needs all of it, and of A one number.
            for j in range(0, columns, 4):
                x, to = load4(b_shared, b_place + j // 4 * column_step), b_first + j
                b_part[to], b_part[to + 1], b_part[to + 2], b_part[to + 3] = x
            for i in range(0, rows, 4):
                x, to = load4(a_shared, a_place + i // 4 * row_step), a_first + i
                a_part[to], a_part[to + 1], a_part[to + 2], a_part[to + 3] = x

        return read

    # rows + columns numbers for rows * columns sums
    read, add = (reader(0), reader(1)), (operations.adder(0), operations.adder(1))
    read_only, add_only = read[0], add[0]

    @device_function
    def add_outer_product(a_shared, a_place, b_shared, b_place, a_part, b_part, sums):
        read_only(a_shared, a_place, b_shared, b_place, a_part, b_part)
        add_only(sums, a_part, b_part)

    @device_function
    def multiply(a_shared, a_place, b_shared, b_place, a_part, b_part, sums):
        # Four at a time: the assembler can then start the loads of one before the last has ended.
        for p in range(0, depth, 4):
            a, b = a_place + p * a_pitch, b_place + p * b_pitch
            add_outer_product(a_shared, a, b_shared, b, a_part, b_part, sums)
            a, b = a + a_pitch, b + b_pitch
            add_outer_product(a_shared, a, b_shared, b, a_part, b_part, sums)
            a, b = a + a_pitch, b + b_pitch
            add_outer_product(a_shared, a, b_shared, b, a_part, b_part, sums)
            a, b = a + a_pitch, b + b_pitch
            add_outer_product(a_shared, a, b_shared, b, a_part, b_part, sums)

    def reading_ahead(first, count):
        """The outer products first, first + 1, ..., each added while the next column and row are read. Written out:
        a loop would stop at each turn for what its first product reads, and count."""
        if count == 1:
            read_next, add_this = read[(first + 1) % 2], add[first % 2]
            a_next, b_next = (first + 1) * a_pitch, (first + 1) * b_pitch

            @device_function
            def one(a_shared, a_place, b_shared, b_place, a_part, b_part, sums):
                read_next(a_shared, a_place + a_next, b_shared, b_place + b_next, a_part, b_part)
                add_this(sums, a_part, b_part)

            return one
        half = count // 2
        some, others = reading_ahead(first, half), reading_ahead(first + half, count - half)

        @device_function
        def both(a_shared, a_place, b_shared, b_place, a_part, b_part, sums):
            some(a_shared, a_place, b_shared, b_place, a_part, b_part, sums)
            others(a_shared, a_place, b_shared, b_place, a_part, b_part, sums)

        return both

    add_last = add[(depth - 1) % 2]

    @device_function
    def turn(a_shared, a_place, b_shared, b_place, a_part, b_part, sums):
        read_only(a_shared, a_place, b_shared, b_place, a_part, b_part)
        add_last(sums, a_part, b_part)

    ahead = Ahead(read_only, reading_ahead(0, depth - 1), turn)
    return Multiplier(
        multiply, ahead, places, padding, rows, columns, 2 * rows, 2 * columns, dtype,
        row_run=4, row_inside=1, row_step=row_step, column_run=4, column_step=column_step,
    )  # fmt: skip


def _by_tensor_cores(tile: Tile, dtype: np.dtype, precision: str) -> Multiplier:
    """A warp's tile is made of products of 16 x 8 elements, each one instruction of the whole warp, which
    multiplies 8 (TF32) or 16 (bf16) columns of A. Sums stay in float32; only factors are rounded.

    Here `tile.lanes` is (8, 4) and says who holds which sums; see `instructions`.
    """
    if dtype != np.float32 or tile.lanes != (8, 4) or tile.rows % 2 or tile.columns % 2:
        raise ValueError(f"tensor cores need float32 and lanes of (8, 4), not {dtype} and {tile}")
    rows, columns, depth, warp_columns = tile.rows, tile.columns, tile.depth, tile.warps[1]
    blocks_m, blocks_n = rows // 2, columns // 2
    is_tf32 = precision == "tf32"
    # Columns of A in one instruction, half of them, and of these how many in one register.
    step, half, of_lane = (8, 4, 1) if is_tf32 else (16, 8, 2)
    # The lanes t = 0 ... 3 read rows t (TF32) or 2 t (bf16), and 8 neighbors of each: with a row of 8, or
    # 4, more than a multiple of 32 banks they meet all 32.
    padding = 8 if is_tf32 else 4
    a_pitch, b_pitch = tile.height + padding, tile.width + padding

    @device_function
    def places(thread):
        warp, lane = thread // 32, thread % 32
        row, column = warp // warp_columns * (blocks_m * 16), warp % warp_columns * (blocks_n * 8)
        g, t = lane // 4, lane % 4
        a_place, b_place = row + g + of_lane * t * a_pitch, column + g + of_lane * t * b_pitch
        return a_place, b_place, row + g, column + 2 * t

    @device_function
    def tf32_part(shared, place, pitch):
        return to_tf32(load(shared, place))

    @device_function
    def bf16_part(shared, place, pitch):
        return pack_bf16(load(shared, place), load(shared, place + pitch))

    read = tf32_part if is_tf32 else bf16_part

    @device_function
    def nothing(*arguments):
        pass

    mma = mma_tile(blocks_m, blocks_n, precision)

    @device_function
    def multiply(a_shared, a_place, b_shared, b_place, a_part, b_part, sums):
        for p in range(0, depth, step):
            a, b = a_place + p * a_pitch, b_place + p * b_pitch
            for i in range(blocks_m):
                a_part[4 * i] = read(a_shared, a + 16 * i, a_pitch)
                a_part[4 * i + 1] = read(a_shared, a + 16 * i + 8, a_pitch)
                a_part[4 * i + 2] = read(a_shared, a + 16 * i + half * a_pitch, a_pitch)
                a_part[4 * i + 3] = read(a_shared, a + 16 * i + 8 + half * a_pitch, a_pitch)
            for j in range(blocks_n):
                b_part[2 * j] = read(b_shared, b + 8 * j, b_pitch)
                b_part[2 * j + 1] = read(b_shared, b + 8 * j + half * b_pitch, b_pitch)
            mma(sums, a_part, b_part)

    return Multiplier(
        multiply, Ahead(nothing, multiply, nothing), places, padding,
        rows, columns, 4 * blocks_m, 2 * blocks_n,
        np.dtype(np.float32 if is_tf32 else np.int32),
        row_run=2, row_inside=8, row_step=16, column_run=2, column_step=8,
    )  # fmt: skip
