"""The register tile: the innermost kernel of the matrix product.

C = A B needs M N K multiplications but reads only M K + K N numbers, so each number read from memory
should be used many times. The fastest memory is the register file. The kernel here keeps a small
tile of C, MR x NR, in vector registers for the whole sum over k:

    for k in range(K):                      # one rank-1 update of the tile for each k
        b = B[k, 0:NR]                      # NR / lanes vector loads
        for i in range(MR):
            C[i, 0:NR] += A[i, k] * b       # one broadcast and NR / lanes fused multiply-adds

For each k it loads MR + NR numbers and does MR * NR multiply-adds. A core starts two vector FMAs and
two loads in a cycle; with MR = 14 rows of NR = 2 vectors, 28 FMAs (14 cycles) stand against 16 loads
(8 cycles), so the arithmetic, not the memory, sets the pace. An FMA's result is ready after four
cycles, so at least 2 * 4 = 8 independent sums must be under way, else the core waits; 28 are.

Why 14 x 32 (float32, AVX-512)? There are 32 vector registers of 16 lanes: 28 hold the tile, 2 hold b,
which leaves 2 for the broadcasts. A larger tile would spill sums to memory in the innermost loop; a
smaller one would load more for each multiply-add. With the 16 registers of AVX2 the same count gives
6 rows of 2 vectors (12 + 2 + 2). ARM has 32 registers of 128 bits: 8 rows of 3 vectors (24 + 3 + ...).

Sources: Goto & van de Geijn, "Anatomy of high-performance matrix multiplication" (ACM TOMS 34:3,
2008), sections 4-6; Van Zee & van de Geijn, "BLIS: a framework for rapidly instantiating BLAS
functionality" (ACM TOMS 41:3, 2015); Low et al., "Analytical modeling is enough for high-performance
BLIS" (ACM TOMS 43:2, 2016) for the choice of the tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir

from .simd import I64, Emitter, intrinsic
from .target import vector_bytes, vector_registers


class TileShape(NamedTuple):
    heights: tuple[int, int, int]  # rows; the lower ones serve what is left at the bottom edge
    vectors: int  # width, in vectors


def tile_shape(registers: int, register_bytes: int) -> TileShape:
    """The tile for a processor's vector registers; see the module's text."""
    if registers < 32:
        return TileShape((6, 4, 2), 2)
    return TileShape((14, 8, 4), 2) if register_bytes == 64 else TileShape((8, 4, 2), 3)


HEIGHTS, VECTORS = tile_shape(vector_registers(), vector_bytes())
MR = HEIGHTS[0]

# How a finished tile meets C. The first two are the common cases of a product without extras.
STORE, ADD, GENERAL = 0, 1, 2


def make_tile(rows: int, vectors: int, *, by_rows: bool = False) -> Any:
    """An intrinsic for a tile of `rows` x `vectors`:

    tile(k, a, a_row, a_step, b, b_step, c, c_row, m, n, mode, alpha, beta, bias, slope)

        c[i, j] = f(alpha * sum_p a[i, p] b[p, j] + beta * c[i, j] + bias[j]),  i < m, j < n

    `a` points to a[0, 0]; element (i, p) lies at a + i * a_row + p * a_step. Packed panels and
    matrices stored by columns have a_row = 1, which tiles made with `by_rows=False` take for granted;
    they read `rows` numbers for each p, even beyond m. With `by_rows=True`, a_row is anything and
    rows from m on are not read. `b` holds vectors * lanes numbers for each p, all of which are read.

    `mode` STORE means alpha = 1, beta = 0 and no f; ADD the same with beta = 1; GENERAL takes all.
    With beta = 0, c is not read. f is x for x >= 0 and slope * x below; `bias` may be null.
    """

    def tile(
        e: Emitter,
        k: ir.Value,
        a: ir.Value,
        a_row: ir.Value,
        a_step: ir.Value,
        b: ir.Value,
        b_step: ir.Value,
        c: ir.Value,
        c_row: ir.Value,
        m: ir.Value,
        n: ir.Value,
        mode: ir.Value,
        alpha: ir.Value,
        beta: ir.Value,
        bias: ir.Value,
        slope: ir.Value,
    ) -> None:
        row_offsets = _row_offsets(e, rows, a_row, m) if by_rows else [I64(i) for i in range(rows)]
        c_rows = [e.at(c, e.builder.mul(c_row, I64(i))) for i in range(rows)]
        if not by_rows:
            for row in c_rows:  # C is needed only at the end: have it fetched meanwhile
                for j in range(vectors):
                    e.prefetch(e.at(row, j * e.lanes), write=True)
        sums = _accumulate(e, rows, vectors, k, a, row_offsets, a_step, b, b_step)

        def branch(condition: ir.Value, then: Callable[[], None]) -> None:
            inside, outside = e.builder.append_basic_block(), e.builder.append_basic_block()
            e.builder.cbranch(condition, inside, outside)
            e.builder.position_at_end(inside)
            then()
            e.builder.branch(done)
            e.builder.position_at_end(outside)

        done = e.builder.append_basic_block("done")
        is_full = e.builder.and_(
            e.builder.icmp_signed("==", m, I64(rows)),
            e.builder.icmp_signed("==", n, I64(vectors * e.lanes)),
        )
        for simple, add in ((STORE, False), (ADD, True)):
            is_mode = e.builder.icmp_signed("==", mode, I64(simple))
            branch(
                e.builder.and_(is_full, is_mode),
                lambda add=add: _finish_plain(e, sums, c_rows, add),
            )
        finish_general(e, sums, c_rows, m, n, alpha, beta, bias, slope, done)
        e.builder.branch(done)
        e.builder.position_at_end(done)

    return intrinsic(tile)


def _row_offsets(e: Emitter, rows: int, a_row: ir.Value, m: ir.Value) -> list[ir.Value]:
    """Offsets of the rows of A; rows that do not exist stand for the last one that does."""
    last = e.builder.sub(m, I64(1))
    offsets = []
    for i in range(rows):
        exists = e.builder.icmp_signed("<", I64(i), m)
        offsets.append(e.builder.mul(e.builder.select(exists, I64(i), last), a_row))
    return offsets


def _accumulate(
    e: Emitter,
    rows: int,
    vectors: int,
    k: ir.Value,
    a: ir.Value,
    row_offsets: list[ir.Value],
    a_step: ir.Value,
    b: ir.Value,
    b_step: ir.Value,
) -> list[list[ir.Value]]:
    """sums[i][j] = sum over p of a[i, p] * b[p, vector j]: the loop that takes all the time."""

    def update(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        a, b, *sums = carried
        b_vectors = [e.load(e.at(b, j * e.lanes)) for j in range(vectors)]
        following = []
        for i in range(rows):
            a_vector = e.splat(e.load_scalar(e.at(a, row_offsets[i])))
            for j in range(vectors):
                following.append(e.fma(a_vector, b_vectors[j], sums[i * vectors + j]))
        return [e.at(a, a_step), e.at(b, b_step), *following]

    _, _, *sums = e.loop(k, [a, b, *[e.zero] * (rows * vectors)], update)
    return [sums[i * vectors : (i + 1) * vectors] for i in range(rows)]


def _finish_plain(
    e: Emitter, sums: list[list[ir.Value]], c_rows: list[ir.Value], add: bool
) -> None:
    for row, values in zip(c_rows, sums, strict=True):
        for j, value in enumerate(values):
            target = e.at(row, j * e.lanes)
            e.store(e.add(e.load(target), value) if add else value, target)


def finish_general(
    e: Emitter,
    sums: list[list[ir.Value]],
    c_rows: list[ir.Value],
    m: ir.Value,
    n: ir.Value,
    alpha: ir.Value,
    beta: ir.Value,
    bias: ir.Value,
    slope: ir.Value,
    done: ir.Block,
) -> None:
    """Any m, n, alpha, beta, bias and slope; nothing outside the m x n corner is touched."""
    vectors = len(sums[0])
    nothing = e.element(0.0)
    inside = [e.mask(e.builder.sub(n, I64(j * e.lanes))) for j in range(vectors)]
    # A masked load yields 0 where it does not read, which is what an absent C or bias adds.
    # beta = 0 must not read C: 0 * NaN is not 0.
    adds_c = e.splat(e.builder.fcmp_unordered("!=", beta, nothing))
    has_bias = e.builder.icmp_unsigned("!=", e.builder.ptrtoint(bias, I64), I64(0))
    # Without a bias, nothing is read, but still not at address 0: a masked load from a page that does
    # not exist is suppressed by microcode, which takes longer than a small product.
    bias = e.select(has_bias, bias, c_rows[0])
    has_bias = e.splat(has_bias)
    biases = [
        e.masked_load(e.at(bias, j * e.lanes), e.builder.and_(inside[j], has_bias))
        for j in range(vectors)
    ]
    is_relu = e.splat(e.builder.fcmp_ordered("==", slope, nothing))
    alphas, betas, slopes = e.splat(alpha), e.splat(beta), e.splat(slope)
    for i, (row, values) in enumerate(zip(c_rows, sums, strict=True)):
        exists = e.builder.append_basic_block()
        e.builder.cbranch(e.builder.icmp_signed("<", I64(i), m), exists, done)
        e.builder.position_at_end(exists)
        for j, total in enumerate(values):
            target = e.at(row, j * e.lanes)
            former = e.masked_load(target, e.builder.and_(inside[j], adds_c))
            value = e.fma(alphas, total, e.fma(betas, former, biases[j]))
            # 0 * -inf would be NaN, so relu chooses a zero instead of multiplying by one.
            lower = e.select(is_relu, e.zero, e.mul(slopes, value))
            is_negative = e.builder.fcmp_ordered("<", value, e.zero)  # False for NaN: it passes
            e.masked_store(e.select(is_negative, lower, value), target, inside[j])
