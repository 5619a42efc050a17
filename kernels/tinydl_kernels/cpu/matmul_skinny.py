"""Matrix products with few rows or few columns, vectors among them.

Packing pays because a packed number is used many times. Where C has only a handful of rows or columns
it is not, and where C is narrower than a vector register the ordinary tile leaves lanes idle. So
these products read their operands where they lie, in the one of three ways that suits their storage:

* outer: vectors run along the rows of B. The ordinary register tile, without packing.
* inner: the rows of A and the columns of B are both contiguous. Vectors run along k, each sum has a
  register of its own, and at the end its lanes are added up.
* narrow: the few columns of B fit into one tile and are packed; the rows of A are read in place.

What does not fit may fit when transposed: C^T = B^T A^T, with nothing but pointers and strides
exchanged. Columns of C are then rows of the tile; they go through a scratch tile, from which they are
scattered.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ._jit import jit, native_for_floats
from .matmul_packing import make_copier, pack_b, transposed_block
from .matmul_problem import (
    ALPHA,
    BIAS,
    BIAS_GRAD,
    DONE,
    IS_TRANSPOSED,
    SCRATCH,
    B,
    C,
    as_float,
    extras,
    operands,
)
from .matmul_tile import HEIGHTS, MR, STORE, VECTORS, finish_general, make_tile
from .simd import I64, Emitter, advance, intrinsic, itemsize, lanes, pointer
from .target import vector_registers

# Ten columns, as many as there are digits, are common enough for a tile of their own.
TALL, MIDDLE, LOW = (14, 10, 4) if MR == 14 else HEIGHTS
_TALL, _MIDDLE, _LOW = (make_tile(rows, VECTORS, by_rows=True) for rows in (TALL, MIDDLE, LOW))
# With one vector a row there are as many loads as multiply-adds. Eight rows keep two multipliers
# busy (each result takes four cycles), and their addresses still fit into the integer registers.
NARROW_ROWS = 8 if MR >= 8 else MR
_ONE_VECTOR = make_tile(NARROW_ROWS, 1, by_rows=True)
_NARROW = make_tile(NARROW_ROWS, VECTORS, by_rows=True)
# One row alone needs many vectors, or each multiply-add would wait for the last one's result.
WIDE = 8
_WIDE = make_tile(1, WIDE, by_rows=True)
# A B of more numbers than LARGE_B is taken in slices of OUTER_SLICE rows by `outer`; a slice of B as
# `narrow` packs it has at most NARROW_SLICE numbers (32 KiB in float32).
LARGE_B, OUTER_SLICE, NARROW_SLICE = 1 << 16, 64, 1 << 13
_copy_vector = make_copier(vectors=1)


def make_dots(rows: int, columns: int) -> Any:
    """An intrinsic: dots(k, a, a_row, b, b_col, m, n, target)

        target[i * columns + j] = sum_p a[i * a_row + p] b[j * b_col + p]

    Rows from m and columns from n on repeat the last one that exists.
    """

    def dots(
        e: Emitter,
        k: ir.Value,
        a: ir.Value,
        a_row: ir.Value,
        b: ir.Value,
        b_col: ir.Value,
        m: ir.Value,
        n: ir.Value,
        target: ir.Value,
    ) -> None:
        a_offsets = [e.builder.mul(clamp(e, i, m), a_row) for i in range(rows)]
        b_offsets = [e.builder.mul(clamp(e, j, n), b_col) for j in range(columns)]

        def add_products(load: Any, a: ir.Value, b: ir.Value, sums: list[ir.Value]) -> list:
            a_vectors = [load(e.at(a, offset)) for offset in a_offsets]
            following = list(sums)
            for j, offset in enumerate(b_offsets):
                b_vector = load(e.at(b, offset))
                for i, a_vector in enumerate(a_vectors):
                    at = i * columns + j
                    following[at] = e.fma(a_vector, b_vector, sums[at])
            return following

        def step(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            a, b, *sums = carried
            return [e.at(a, e.lanes), e.at(b, e.lanes), *add_products(e.load, a, b, sums)]

        whole = e.builder.sdiv(k, I64(e.lanes))
        a, b, *sums = e.loop(whole, [a, b, *[e.zero] * (rows * columns)], step)
        # What is left of k is less than a vector; lanes beyond it read as 0.
        rest = e.mask(e.builder.srem(k, I64(e.lanes)))
        sums = add_products(lambda address: e.masked_load(address, rest), a, b, sums)
        for first in range(0, len(sums), e.lanes):
            e.store(sum_each(e, sums[first : first + e.lanes]), e.at(target, first))

    return intrinsic(dots)


def clamp(e: Emitter, i: int, count: ir.Value) -> ir.Value:
    """min(i, count - 1)"""
    is_inside = e.builder.icmp_signed("<", I64(i), count)
    return e.builder.select(is_inside, I64(i), e.builder.sub(count, I64(1)))


def sum_each(e: Emitter, vectors: list[ir.Value]) -> ir.Value:
    """Lane i of the result is the sum over the lanes of vector i: neighboring lanes are added and
    two vectors become one, until one is left."""
    vectors = vectors + [e.zero] * (e.lanes - len(vectors))
    even, odd = range(0, 2 * e.lanes, 2), range(1, 2 * e.lanes, 2)
    while len(vectors) > 1:
        vectors = [
            e.add(e.shuffle(x, y, even), e.shuffle(x, y, odd))
            for x, y in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


# A square block of sums reads the fewest vectors for each multiply-add.
SIDE = 5 if vector_registers() == 32 else 3
_DOTS = make_dots(SIDE, SIDE)
_DOTS_ROW = make_dots(1, WIDE)


def make_finish(rows: int | None, *, transposed: bool) -> Any:
    """An intrinsic: finish(tile, tile_row, m, n, c, c_row, alpha, beta, bias, slope)

        c[i, j] = f(alpha * tile[i, j] + beta * c[i, j] + bias[j]),  i < m, j < n

    with f as in `make_tile`; `transposed` reads tile[j, i]. n is at most a vector, m at most `rows`
    (a vector as well if that is None). The tile is scratch memory: beyond m and n it may be read.
    """

    def finish(
        e: Emitter,
        tile: ir.Value,
        tile_row: ir.Value,
        m: ir.Value,
        n: ir.Value,
        c: ir.Value,
        c_row: ir.Value,
        alpha: ir.Value,
        beta: ir.Value,
        bias: ir.Value,
        slope: ir.Value,
    ) -> None:
        count = rows or e.lanes
        vectors = [e.load(e.at(tile, e.builder.mul(tile_row, I64(i)))) for i in range(count)]
        if transposed:
            vectors = transposed_block(e, vectors)
        c_rows = [e.at(c, e.builder.mul(c_row, I64(i))) for i in range(count)]
        done = e.builder.append_basic_block()
        sums = [[vector] for vector in vectors]
        finish_general(e, sums, c_rows, m, n, alpha, beta, bias, slope, done)
        e.builder.branch(done)
        e.builder.position_at_end(done)

    return intrinsic(finish)


_FINISH_ROWS = make_finish(SIDE, transposed=False)
_FINISH_COLUMNS = make_finish(None, transposed=True)


# --- the three kernels ----------------------------------------------------------------------------


def outer(fields, workspace):
    """m is small, and the rows of B are contiguous."""
    a, a_row, a_col, b, b_row, _, m, k, n = operands(fields, workspace)
    _add_column_sums(fields, workspace)
    is_transposed = fields[IS_TRANSPOSED] != 0
    packed = advance(workspace, SCRATCH)
    wide = WIDE * lanes(workspace)
    # Going down a column of tiles touches another page of memory with each row of B. So a tall B is
    # taken in slices of few rows. (A transposed C has no place to keep the sums in between.)
    slice_rows = max(k, 1)
    if not is_transposed and k * b_row > LARGE_B:
        slice_rows = OUTER_SLICE
    for p in range(0, max(k, 1), slice_rows):
        k_here = min(slice_rows, k - p)
        j = 0
        while j < n:
            width = VECTORS * lanes(workspace)
            if m == 1 and n - j >= wide:
                width = wide
            columns = min(width, n - j)
            panel, step = advance(b, p * b_row + j), b_row
            if columns < width:  # reading whole vectors there would reach beyond the end of B
                pack_b(panel, b_row, 1, k_here, columns, packed)
                panel, step = packed, width
            for i in range(0, m, TALL):
                rows = min(TALL, m - i)
                first = advance(a, i * a_row + p * a_col)
                c, c_row, mode, alpha, beta, bias, slope = _target(
                    fields, workspace, width, i, j, p == 0, p + k_here >= k
                )
                tile = (k_here, first, a_row, a_col, panel, step, c, c_row, rows, columns)
                if width == wide:
                    _WIDE(*tile, mode, alpha, beta, bias, slope)
                elif rows > MIDDLE:
                    _TALL(*tile, mode, alpha, beta, bias, slope)
                elif rows > LOW:
                    _MIDDLE(*tile, mode, alpha, beta, bias, slope)
                else:
                    _LOW(*tile, mode, alpha, beta, bias, slope)
                if is_transposed:
                    _finish_columns(fields, workspace, width, rows, columns, i, j)
            j += width
    return DONE


def narrow(fields, workspace):
    """n is at most a tile wide, and the rows of A and of B are contiguous."""
    a, a_row, _, b, b_row, _, m, k, n = operands(fields, workspace)
    _add_column_sums(fields, workspace)
    is_one_vector = n <= lanes(workspace)
    width = lanes(workspace) if is_one_vector else VECTORS * lanes(workspace)
    packed = advance(workspace, SCRATCH)
    is_transposed = fields[IS_TRANSPOSED] != 0
    # A slice of B that stays in L1; a transposed C has no place to keep the sums in between.
    slice_rows = max(k, 1) if is_transposed else NARROW_SLICE // width
    for p in range(0, max(k, 1), slice_rows):
        k_here = min(slice_rows, k - p)
        for q in range(k_here):
            for j in range(0, width, lanes(workspace)):
                _copy_vector(advance(b, (p + q) * b_row + j), n - j, advance(packed, q * width + j))
        for i in range(0, m, NARROW_ROWS):
            rows = min(NARROW_ROWS, m - i)
            c, c_row, mode, alpha, beta, bias, slope = _target(
                fields, workspace, width, i, 0, p == 0, p + k_here >= k
            )
            first = advance(a, i * a_row + p)
            tile = (k_here, first, a_row, 1, packed, width, c, c_row, rows, n)
            if is_one_vector:
                _ONE_VECTOR(*tile, mode, alpha, beta, bias, slope)
            else:
                _NARROW(*tile, mode, alpha, beta, bias, slope)
            if is_transposed:
                _finish_columns(fields, workspace, width, rows, n, i, 0)
    return DONE


def inner(fields, workspace):
    """The rows of A and the columns of B are contiguous. If one of them is alone, it is a row."""
    a, a_row, _, b, _, b_col, m, k, n = operands(fields, workspace)
    _add_column_sums(fields, workspace)
    height, width = (1, WIDE) if m == 1 else (SIDE, SIDE)
    for j in range(0, n, width):
        columns = min(width, n - j)
        for i in range(0, m, height):
            rows = min(height, m - i)
            first, panel = advance(a, i * a_row), advance(b, j * b_col)
            if height == 1:
                _DOTS_ROW(k, first, a_row, panel, b_col, rows, columns, workspace)
            else:
                _DOTS(k, first, a_row, panel, b_col, rows, columns, workspace)
            if fields[IS_TRANSPOSED] != 0:
                _finish_columns(fields, workspace, width, rows, columns, i, j)
            else:
                _finish_rows(fields, workspace, width, rows, columns, i, j)
    return DONE


OUTER_KERNELS, NARROW_KERNELS, INNER_KERNELS = map(native_for_floats, (outer, narrow, inner))


@jit(cache=False)
def _target(fields, workspace, width, i, j, is_first, is_last):
    """Where the tile at (i, j) goes, and how: into C with all that belongs to it, or as it is into
    the scratch tile at the start of the workspace."""
    if fields[IS_TRANSPOSED] != 0:
        return workspace, width, STORE, 1.0, 0.0, pointer(workspace, 0), 1.0
    c_row = fields[C + 3] // itemsize(workspace)
    c = advance(pointer(workspace, fields[C]), i * c_row + j)
    mode, beta, slope, has_bias = extras(fields, is_first, is_last)
    bias = advance(pointer(workspace, fields[BIAS]), j) if has_bias else pointer(workspace, 0)
    return c, c_row, mode, as_float(fields[ALPHA]), beta, bias, slope


@jit(cache=False)
def _finish_rows(fields, tile, width, rows, columns, i, j):
    """C[i:, j:] = f(alpha * tile + beta * C + bias)"""
    _, beta, slope, has_bias = extras(fields, True, True)
    c_row = fields[C + 3] // itemsize(tile)
    c = advance(pointer(tile, fields[C]), i * c_row + j)
    for x in range(0, columns, lanes(tile)):
        bias = pointer(tile, 0)
        if has_bias:
            bias = advance(pointer(tile, fields[BIAS]), j + x)
        _FINISH_ROWS(
            advance(tile, x), width, rows, columns - x, advance(c, x), c_row,
            as_float(fields[ALPHA]), beta, bias, slope,
        )  # fmt: skip


@jit(cache=False)
def _finish_columns(fields, tile, width, rows, columns, i, j):
    """C[j:, i:] = f(alpha * tile^T + beta * C + bias)"""
    _, beta, slope, has_bias = extras(fields, True, True)
    c_row = fields[C + 3] // itemsize(tile)
    for y in range(0, rows, lanes(tile)):
        bias = pointer(tile, 0)
        if has_bias:
            bias = advance(pointer(tile, fields[BIAS]), i + y)
        for x in range(0, columns, lanes(tile)):
            c = advance(pointer(tile, fields[C]), (j + x) * c_row + i + y)
            _FINISH_COLUMNS(
                advance(tile, y * width + x), width, columns - x, rows - y, c, c_row,
                as_float(fields[ALPHA]), beta, bias, slope,
            )  # fmt: skip


@jit(cache=False)
def _add_column_sums(fields, workspace):
    """bias_grad[j] += the sum of column j of the problem's B, which is not packed here."""
    sums = pointer(workspace, fields[BIAS_GRAD])
    b, size = pointer(workspace, fields[B]), itemsize(workspace)
    b_row, b_col = fields[B + 3] // size, fields[B + 4] // size
    if fields[BIAS_GRAD + 1] != 0:
        for p in range(fields[B + 1]):
            for j in range(fields[B + 2]):
                sums[j] += b[p * b_row + j * b_col]
