"""The lower rungs: from one thread for one number to tiles in registers and wide accesses.

Sums of a thread are called `sums`, tiles in shared memory `a_shared` and `b_shared`. Where a tile reaches
beyond a matrix it is filled with zeros, which add nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..device import ALIGNED, cuda, kernel
from ..instructions import load4, pointer, store4
from ..registers import Operations
from ..tiles import Tile
from .rung import Rung


def _naive(dtype: np.dtype, tile: Tile, wide: bool) -> Any:
    """Rung 1: one thread for each number of C, and the definition as its program.

    Threads with neighboring numbers take neighboring ROWS. The 32 threads of a warp issue each load
    together; here they read 32 numbers that lie a whole row apart, and every one of them moves a sector
    of 32 bytes for the sake of 4. The multiply-adds wait.
    """
    height, width, threads = tile.height, tile.width, tile.threads

    @kernel(threads, tile.blocks)
    def naive(a, b, c, m, n, k, zero):
        a, b, c = pointer(a, zero), pointer(b, zero), pointer(c, zero)
        row = cuda.blockIdx.y * height + cuda.threadIdx.x % height
        column = cuda.blockIdx.x * width + cuda.threadIdx.x // height
        if row < m and column < n:
            total = zero
            for p in range(k):
                total += a[row * k + p] * b[p * n + column]
            c[row * n + column] = total

    return naive


def _coalesced(dtype: np.dtype, tile: Tile, wide: bool) -> Any:
    """Rung 2: neighboring threads take neighboring COLUMNS.

    Two words are exchanged. A warp now reads 32 neighbors of B, four sectors in all, and one number of A
    for everybody. The hardware joins such loads ("coalescing"). Still each multiply-add asks the memory
    for two numbers; only the caches save it from asking the memory far away.
    """
    height, width, threads = tile.height, tile.width, tile.threads

    @kernel(threads, tile.blocks)
    def coalesced(a, b, c, m, n, k, zero):
        a, b, c = pointer(a, zero), pointer(b, zero), pointer(c, zero)
        row = cuda.blockIdx.y * height + cuda.threadIdx.x // width
        column = cuda.blockIdx.x * width + cuda.threadIdx.x % width
        if row < m and column < n:
            total = zero
            for p in range(k):
                total += a[row * k + p] * b[p * n + column]
            c[row * n + column] = total

    return coalesced


def _shared_tile(dtype: np.dtype, tile: Tile, wide: bool) -> Any:
    """Rung 3: what a block needs is fetched once, into shared memory.

    The threads of a block compute a tile of C. They need the same rows of A and columns of B: they fetch
    them together, a piece at a time, and each number serves a whole row or column of threads. A tile of
    32 x 32 reads device memory 32 times less often. But per multiply-add there are still two loads, now
    from shared memory, and a multiprocessor can add faster than that can deliver.
    """
    height, width, depth, threads = tile.height, tile.width, tile.depth, tile.threads
    a_size, b_size = height * depth, depth * width

    @kernel(threads, tile.blocks)
    def shared_tile(a, b, c, m, n, k, zero):
        a, b, c = pointer(a, zero), pointer(b, zero), pointer(c, zero)
        a_shared = cuda.shared.array(a_size, dtype)
        b_shared = cuda.shared.array(b_size, dtype)
        thread = cuda.threadIdx.x & 1023  # tells the compiler that it is not negative
        first_row, first_column = cuda.blockIdx.y * height, cuda.blockIdx.x * width
        row, column = thread // width, thread % width
        total = zero
        for first in range(0, k, depth):
            for i in range(thread, a_size, threads):
                y, p = first_row + i // depth, first + i % depth
                a_shared[i] = a[y * k + p] if y < m and p < k else zero
            for i in range(thread, b_size, threads):
                p, x = first + i // width, first_column + i % width
                b_shared[i] = b[p * n + x] if p < k and x < n else zero
            cuda.syncthreads()  # everybody's numbers are there
            for p in range(depth):
                total += a_shared[row * depth + p] * b_shared[p * width + column]
            cuda.syncthreads()  # and nobody needs them any more
        row, column = first_row + row, first_column + column
        if row < m and column < n:
            c[row * n + column] = total

    return shared_tile


def _register_column(dtype: np.dtype, tile: Tile, wide: bool) -> Any:
    """Rung 4: a thread computes several numbers, one below the other.

    They share a column of B: a number of it, once loaded, stays in a register and serves all of them. For
    a column of 8 that is 9 loads from shared memory for 8 multiply-adds instead of 16.
    """
    height, width, depth, threads = tile.height, tile.width, tile.depth, tile.threads
    a_size, b_size, rows = height * depth, depth * width, tile.rows

    @kernel(threads, tile.blocks)
    def register_column(a, b, c, m, n, k, zero):
        a, b, c = pointer(a, zero), pointer(b, zero), pointer(c, zero)
        a_shared = cuda.shared.array(a_size, dtype)
        b_shared = cuda.shared.array(b_size, dtype)
        sums = cuda.local.array(rows, dtype)
        thread = cuda.threadIdx.x & 1023
        first_row, first_column = cuda.blockIdx.y * height, cuda.blockIdx.x * width
        row, column = thread // width * rows, thread % width
        for i in range(rows):
            sums[i] = zero
        for first in range(0, k, depth):
            for i in range(thread, a_size, threads):
                y, p = first_row + i // depth, first + i % depth
                a_shared[i] = a[y * k + p] if y < m and p < k else zero
            for i in range(thread, b_size, threads):
                p, x = first + i // width, first_column + i % width
                b_shared[i] = b[p * n + x] if p < k and x < n else zero
            cuda.syncthreads()
            for p in range(depth):
                factor = b_shared[p * width + column]
                for i in range(rows):
                    sums[i] += a_shared[(row + i) * depth + p] * factor
            cuda.syncthreads()
        for i in range(rows):
            if first_row + row + i < m and first_column + column < n:
                c[(first_row + row + i) * n + first_column + column] = sums[i]

    return register_column


def _register_tile(dtype: np.dtype, tile: Tile, wide: bool) -> Any:
    """Rung 5: a thread computes a square.

    From 8 numbers of A and 8 of B it makes 64 multiply-adds: a quarter of a load for each. Now arithmetic
    can keep the multiprocessor busy. The 64 sums need 64 registers, so fewer threads fit at once; but each
    has 64 independent sums to work on while it waits.
    """
    height, width, depth, threads = tile.height, tile.width, tile.depth, tile.threads
    rows, columns = tile.rows, tile.columns
    a_size, b_size, across = height * depth, depth * width, width // columns
    operations = Operations(rows, columns, 4)
    clear, add_outer_product = operations.clear, operations.adder(0)
    shift_columns, shift_rows = Operations(rows, columns, 1).shift_columns, operations.shift_rows

    @kernel(threads, tile.blocks)
    def register_tile(a, b, c, m, n, k, zero):
        a, b, c = pointer(a, zero), pointer(b, zero), pointer(c, zero)
        a_shared = cuda.shared.array(a_size, dtype)
        b_shared = cuda.shared.array(b_size, dtype)
        sums = cuda.local.array((rows, columns), dtype)
        a_part = cuda.local.array(rows, dtype)
        b_part = cuda.local.array(columns, dtype)
        thread = cuda.threadIdx.x & 1023
        first_row, first_column = cuda.blockIdx.y * height, cuda.blockIdx.x * width
        row, column = thread // across * rows, thread % across * columns
        clear(sums)
        for first in range(0, k, depth):
            for i in range(thread, a_size, threads):
                y, p = first_row + i // depth, first + i % depth
                a_shared[i] = a[y * k + p] if y < m and p < k else zero
            for i in range(thread, b_size, threads):
                p, x = first + i // width, first_column + i % width
                b_shared[i] = b[p * n + x] if p < k and x < n else zero
            cuda.syncthreads()
            for p in range(depth):
                for i in range(rows):
                    a_part[i] = a_shared[(row + i) * depth + p]
                for j in range(columns):
                    b_part[j] = b_shared[p * width + column + j]
                add_outer_product(sums, a_part, b_part)
            cuda.syncthreads()
        for y in range(first_row + row, first_row + row + rows):
            for x in range(first_column + column, first_column + column + columns):
                if y < m and x < n:
                    c[y * n + x] = sums[0, 0]
                shift_columns(sums)  # the next of the row comes to the front
            shift_rows(sums)

    return register_tile


def _vectorized(dtype: np.dtype, tile: Tile, wide: bool) -> Any:
    """Rung 6: four numbers an access, and shared memory laid out for it.

    Every load is an instruction that takes the place of a multiply-add; one of 16 bytes does the work of
    four. For a thread's 8 numbers of A to be neighbors, A's tile is stored by columns. Its rows there are
    padded by 16 bytes: shared memory has 32 banks, one word each a cycle, and without the padding the
    columns that a warp writes would all lie in one bank. A thread's rows come as two groups of four, and
    so do its columns: the groups of neighboring threads are neighbors, which the banks like, too.
    """
    height, width, depth, threads = tile.height, tile.width, tile.depth, tile.threads
    rows, columns = tile.rows, tile.columns
    down, across = height // rows, width // columns
    padding = 16 // dtype.itemsize
    a_pitch, b_pitch = height + padding, width + padding
    a_size, b_size = depth * a_pitch, depth * b_pitch
    a_loads, b_loads = height * depth // 4, depth * width // 4
    operations = Operations(rows, columns, 4)
    clear, add_outer_product = operations.clear, operations.adder(0)
    shift_columns, shift_rows = operations.shift_columns, operations.shift_rows

    @kernel(threads, tile.blocks)
    def vectorized(a, b, c, m, n, k, zero):
        a, b, c = pointer(a, zero), pointer(b, zero), pointer(c, zero)
        a_shared = cuda.shared.array(a_size, dtype, ALIGNED)
        b_shared = cuda.shared.array(b_size, dtype, ALIGNED)
        sums = cuda.local.array((rows, columns), dtype)
        a_part = cuda.local.array(rows, dtype)
        b_part = cuda.local.array(columns, dtype)
        thread = cuda.threadIdx.x & 1023
        first_row, first_column = cuda.blockIdx.y * height, cuda.blockIdx.x * width
        row, column = thread // across * 4, thread % across * 4
        clear(sums)
        for first in range(0, k, depth):
            for i in range(thread, a_loads, threads):
                y, p = i // (depth // 4), i % (depth // 4) * 4
                place, source = p * a_pitch + y, (first_row + y) * k + first + p
                if wide and first_row + y < m and first + p + 3 < k:
                    x0, x1, x2, x3 = load4(a, source)
                    a_shared[place], a_shared[place + a_pitch] = x0, x1
                    a_shared[place + 2 * a_pitch], a_shared[place + 3 * a_pitch] = x2, x3
                else:
                    for e in range(4):
                        inside = first_row + y < m and first + p + e < k
                        a_shared[place + e * a_pitch] = a[source + e] if inside else zero
            for i in range(thread, b_loads, threads):
                p, x = i // (width // 4), i % (width // 4) * 4
                place, source = p * b_pitch + x, (first + p) * n + first_column + x
                if wide and first + p < k and first_column + x + 3 < n:
                    x0, x1, x2, x3 = load4(b, source)
                    store4(b_shared, place, x0, x1, x2, x3)
                else:
                    for e in range(4):
                        inside = first + p < k and first_column + x + e < n
                        b_shared[place + e] = b[source + e] if inside else zero
            cuda.syncthreads()
            for p in range(depth):
                for i in range(0, rows, 4):
                    x0, x1, x2, x3 = load4(a_shared, p * a_pitch + row + i * down)
                    a_part[i], a_part[i + 1], a_part[i + 2], a_part[i + 3] = x0, x1, x2, x3
                for j in range(0, columns, 4):
                    x0, x1, x2, x3 = load4(b_shared, p * b_pitch + column + j * across)
                    b_part[j], b_part[j + 1], b_part[j + 2], b_part[j + 3] = x0, x1, x2, x3
                add_outer_product(sums, a_part, b_part)
            cuda.syncthreads()
        for i in range(rows):
            y = first_row + row + i // 4 * 4 * down + i % 4
            for j in range(0, columns, 4):
                x = first_column + column + j * across
                if y < m:
                    if wide and x + 3 < n:
                        store4(c, y * n + x, sums[0, 0], sums[0, 1], sums[0, 2], sums[0, 3])
                    else:
                        for e in range(4):
                            if x + e < n:
                                c[y * n + x + e] = sums[0, e]
                shift_columns(sums)
            shift_rows(sums)

    return vectorized


# Tiles are the thread's part (rows x columns), by lanes and by warps; see `tiles.Tile`.
NAIVE = Rung("naive", _naive, Tile(1, 1, (16, 16), (1, 1), blocks=4))
COALESCED = Rung("coalesced", _coalesced, Tile(1, 1, (8, 32), (1, 1), blocks=4))
SHARED_TILE = Rung("shared_tile", _shared_tile, Tile(1, 1, (32, 32), (1, 1), depth=32))
REGISTER_COLUMN = Rung("register_column", _register_column, Tile(8, 1, (8, 64), (1, 1)))
REGISTER_TILE = Rung("register_tile", _register_tile, Tile(8, 8, (16, 16), (1, 1), blocks=2))
VECTORIZED = Rung("vectorized", _vectorized, Tile(8, 8, (16, 16), (1, 1), blocks=2))
