"""Matrix multiplication as a ladder: seven kernels, each a few lines more than the last, and faster.

Every rung computes C = A B for float32 or float64 matrices stored by rows, in one thread but for the
last. `RUNGS` lists them in order; `tinydl bench ladder` measures them. The first four are
plain loops. In them the compiler is on its own. From the fifth on, we say what should lie in which
register. The kernel of everyday use (`tinydl_kernels.matmul`) is the last rung plus what a lesson can
do without: transposed operands, edges of every size, bias and activation.

A multiplication of two n x n matrices needs n^3 multiply-adds but touches only 3 n^2 numbers. All
rungs do the same arithmetic; they differ in how often each number comes from how far away.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import prange

from .._jit import REASSOCIATE, jit
from ..simd import Emitter, intrinsic, lanes


@jit
def _naive(a, b, c):
    m, k = a.shape
    n = b.shape[1]
    for i in range(m):
        for j in range(n):
            total = a[i, 0] * 0
            for p in range(k):
                total += a[i, p] * b[p, j]
            c[i, j] = total


def naive(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rung 1: the definition, c[i, j] = sum_p a[i, p] b[p, j].

    The innermost loop walks down a column of B: each step lands n numbers further, in another cache
    line, of which one number is used. And each addition waits for the one before, four cycles long.
    """
    return _into_new(_naive, a, b)


@jit
def _loop_order(a, b, c):
    m, k = a.shape
    n = b.shape[1]
    c[:] = 0
    for i in range(m):
        for p in range(k):
            factor = a[i, p]
            for j in range(n):
                c[i, j] += factor * b[p, j]


def loop_order(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rung 2: the same three loops with the inner two exchanged.

    Now the innermost loop runs along rows of B and C. Every number of a cache line is used, the
    additions do not wait for each other, and the compiler turns the loop into vector instructions.
    But each multiply-add still loads a number of B and a number of C and stores one of C.
    """
    return _into_new(_loop_order, a, b)


@jit
def _blocked(a, b, c, inner, columns):
    m, k = a.shape
    n = b.shape[1]
    c[:] = 0
    for jc in range(0, n, columns):
        for pc in range(0, k, inner):
            for i in range(m):
                c_row = c[i, jc : jc + columns]
                for p in range(pc, min(k, pc + inner)):
                    factor = a[i, p]
                    b_row = b[p, jc : jc + columns]
                    for j in range(c_row.size):
                        c_row[j] += factor * b_row[j]


def blocked(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rung 3: B is taken in blocks that stay in a cache.

    Rung 2 reads all of B for every row of A; if B is larger than the caches, it comes from main memory
    m times. A block of 64 x 1024 numbers fits into the L2 cache and serves all rows of A before the
    next one is begun.
    """
    return _into_new(_blocked, a, b, 64, 1024)


@jit
def _packed(a, b, c, inner, columns):
    m, k = a.shape
    n = b.shape[1]
    block = np.empty((inner, columns), b.dtype)
    c[:] = 0
    for jc in range(0, n, columns):
        width = min(columns, n - jc)
        for pc in range(0, k, inner):
            height = min(inner, k - pc)
            for p in range(height):
                for j in range(width):
                    block[p, j] = b[pc + p, jc + j]
            for i in range(m):
                c_row = c[i, jc : jc + width]
                for p in range(height):
                    factor = a[i, pc + p]
                    for j in range(width):
                        c_row[j] += factor * block[p, j]


def packed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rung 4: each block of B is copied together before it is used.

    In a wide matrix the rows of a block lie far apart: each on a page of memory of its own, and, when
    the width is a power of two, in the same few places of the cache, where they push each other out.
    The copy costs one pass over B and lies in one piece. By itself this gains little; the next rungs
    need it, because their innermost loop can then read B strictly forward.
    """
    return _into_new(_packed, a, b, 64, 1024)


@jit(fastmath=REASSOCIATE)
def _register_tile(a, b, c, inner, columns):
    m, k = a.shape
    n = b.shape[1]
    block = np.empty((inner, columns), b.dtype)
    c[:] = 0
    for jc in range(0, n, columns):
        width = min(columns, n - jc)
        for pc in range(0, k, inner):
            height = min(inner, k - pc)
            block[:height, :width] = b[pc : pc + height, jc : jc + width]
            for i in range(0, m - 1, 2):
                a0, a1 = a[i, pc : pc + height], a[i + 1, pc : pc + height]
                c0, c1 = c[i, jc : jc + width], c[i + 1, jc : jc + width]
                for p in range(0, height - 3, 4):
                    a00, a01, a02, a03 = a0[p], a0[p + 1], a0[p + 2], a0[p + 3]
                    a10, a11, a12, a13 = a1[p], a1[p + 1], a1[p + 2], a1[p + 3]
                    b0, b1, b2, b3 = block[p], block[p + 1], block[p + 2], block[p + 3]
                    for j in range(width):
                        c0[j] += a00 * b0[j] + a01 * b1[j] + a02 * b2[j] + a03 * b3[j]
                        c1[j] += a10 * b0[j] + a11 * b1[j] + a12 * b2[j] + a13 * b3[j]
                for p in range(height // 4 * 4, height):
                    for j in range(width):
                        c0[j] += a0[p] * block[p, j]
                        c1[j] += a1[p] * block[p, j]
    _edges(a, b, c, m // 2 * 2, n)


def register_tile(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rung 5: a tile of A, here 2 x 4, lives in local variables, that is, in registers.

    The innermost loop now does eight multiply-adds for each column j, and between them loads four
    numbers of B and two of C and stores two of C: one access to memory for each, where rung 2 needs
    three. All sixteen lanes of a vector do the same for neighbouring columns. The sums in C still
    travel between cache and registers; to keep those in registers, too, the loop over p must be the
    innermost one, and then the compiler no longer sees that the tile's columns could be lanes.
    """
    return _into_new(_register_tile, a, b, 64, 1024)


# 12 vectors of sums fit into the registers of every processor with AVX2 or more.
ROWS, VECTORS = 6, 2


@intrinsic
def _tile(
    e: Emitter,
    k: ir.Value,
    a: ir.Value,
    a_row: ir.Value,
    panel: ir.Value,
    c: ir.Value,
    c_row: ir.Value,
) -> None:
    """c[0:ROWS, 0:VECTORS * lanes] = sum_p a[0:ROWS, p] panel[p]"""

    def update(p: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        row = e.at(panel, e.builder.mul(p, ir.Constant(p.type, VECTORS * e.lanes)))
        b_vectors = [e.load(e.at(row, j * e.lanes)) for j in range(VECTORS)]
        following = []
        for i in range(ROWS):
            a_row_i = e.at(a, e.builder.mul(a_row, ir.Constant(p.type, i)))
            factor = e.splat(e.load_scalar(e.at(a_row_i, p)))
            for j in range(VECTORS):
                following.append(e.fma(factor, b_vectors[j], sums[i * VECTORS + j]))
        return following

    sums = e.loop(k, [e.zero] * (ROWS * VECTORS), update)
    for i in range(ROWS):
        c_row_i = e.at(c, e.builder.mul(c_row, ir.Constant(c_row.type, i)))
        for j in range(VECTORS):
            e.store(sums[i * VECTORS + j], e.at(c_row_i, j * e.lanes))


@jit(cache=False)
def _columns(a, b, c, panel, j):
    """One column of tiles, of all whole rows of tiles; `panel` has the tile's width."""
    width = panel.shape[1]
    for p in range(b.shape[0]):
        for x in range(width):
            panel[p, x] = b[p, j + x]
    for i in range(0, a.shape[0] - ROWS + 1, ROWS):
        _tile(a.shape[1], a[i:, :], a.shape[1], panel, c[i:, j:], c.shape[1])


@jit
def _simd_tile(a, b, c):
    width = VECTORS * lanes(a)
    panel = np.empty((b.shape[0], width), b.dtype)
    for j in range(0, b.shape[1] - width + 1, width):
        _columns(a, b, c, panel, j)
    _edges(a, b, c, a.shape[0] // ROWS * ROWS, b.shape[1] // width * width)


def simd_tile(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rung 6: the tile is made of vector registers, and we say so instruction by instruction.

    6 rows of 2 vectors: with 16 lanes, 192 sums in 12 registers. Per step, 2 vector loads from the
    packed panel of B and 6 numbers of A, each broadcast to all lanes, feed 12 fused multiply-adds.
    `matmul_tile` tells how the size is chosen, and why the tile of everyday use is larger.
    """
    return _into_new(_simd_tile, a, b)


@jit(parallel=True)
def _threads(a, b, c):
    width = VECTORS * lanes(a)
    for column in prange(b.shape[1] // width):
        panel = np.empty((b.shape[0], width), b.dtype)
        _columns(a, b, c, panel, column * width)
    _edges(a, b, c, a.shape[0] // ROWS * ROWS, b.shape[1] // width * width)


def threads(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rung 7: the columns of tiles are shared among the threads.

    No two threads write the same part of C, so nothing has to be locked. Each packs its panels for
    itself. For small matrices the start of the threads costs more than they save.
    """
    return _into_new(_threads, a, b)


RUNGS = (naive, loop_order, blocked, packed, register_tile, simd_tile, threads)


@jit(cache=False)
def _edges(a, b, c, whole_rows, whole_columns):
    """What whole tiles leave over: the rows at the bottom and the columns at the right."""
    for i in range(a.shape[0]):
        first = whole_columns if i < whole_rows else 0
        for j in range(first, b.shape[1]):
            c[i, j] = 0
        for p in range(a.shape[1]):
            factor = a[i, p]
            for j in range(first, b.shape[1]):
                c[i, j] += factor * b[p, j]


def _into_new(kernel, a: np.ndarray, b: np.ndarray, *sizes: int) -> np.ndarray:
    """Check, allocate C and call."""
    if a.dtype not in (np.float32, np.float64) or b.dtype != a.dtype:
        raise TypeError(f"a is {a.dtype} and b is {b.dtype}; both must be float32, or both float64")
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or a.shape[1] == 0:
        raise ValueError(f"shapes {a.shape} and {b.shape} do not fit: (M, K) and (K, N) with K > 0")
    c = np.empty((a.shape[0], b.shape[1]), a.dtype)
    kernel(np.ascontiguousarray(a), np.ascontiguousarray(b), c, *sizes)
    return c
