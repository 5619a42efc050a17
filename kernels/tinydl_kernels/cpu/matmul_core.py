"""The loops around the register tile: one matrix product of any shape and any strides, one thread.

    for each block of NC columns of B
        for each block of KC rows of it              pack B's block: it stays in the L2 cache
            for each panel of MR rows of A           pack A's panel: it stays in the L1 cache
                for each NR columns of the block     register tile: MR x NR of C

Every number of the packed block of B is read from L2 once for each panel of A, and feeds 2 MR
floating-point operations there; A's panel is read from L1 all along. C is read and written once for
each KC, so KC is as large as L1 allows. This is the order of Goto & van de Geijn (see `matmul_tile`)
with the roles of A and B exchanged, since our matrices are stored by rows.

The kernel takes pointers and strides in a block of 64-bit fields, so that it is compiled once for an
element type, whatever the layout of the arrays.
"""

from __future__ import annotations

import numpy as np
from numba import types

from ._jit import jit, native
from .matmul_packing import add_column_sums, pack_a, pack_b
from .matmul_tile import ADD, GENERAL, HEIGHTS, MR, STORE, VECTORS, make_tile
from .simd import advance, itemsize, lanes, pointer
from .target import cache_bytes, vector_bytes

# The fields of a problem. A matrix takes five: address, rows, columns, and the distances in bytes
# between rows and between columns. BIAS and BIAS_GRAD take three: address, size, distance; a size
# of 0 means that there is none. ALPHA, BETA, SLOPE and LIMIT hold the bits of a float64.
A, B, C, BIAS, BIAS_GRAD = 0, 5, 10, 15, 18
ALPHA, BETA, SLOPE, LIMIT, KC, NC, SKINNY = range(21, 28)
FIELDS = 28

# What a kernel returns. LARGE: there are more than LIMIT multiply-adds, and nothing was done, so that
# the caller can share them among threads. AWKWARD: memory overlaps or is laid out such that the
# kernel cannot work on it, and nothing was done.
DONE, LARGE, WRONG_SHAPE, AWKWARD = range(4)

_FULL, _MIDDLE, _LOW = (make_tile(rows, VECTORS) for rows in HEIGHTS)
_FULL_NARROW, _MIDDLE_NARROW, _LOW_NARROW = (make_tile(rows, 1) for rows in HEIGHTS)
_BY_ROWS = make_tile(MR, 1, by_rows=True)
MIDDLE, LOW = HEIGHTS[1], HEIGHTS[2]


@jit(cache=False)
def _tile(k, a, a_step, b, b_step, c, c_row, m, n, mode, alpha, beta, bias, slope):
    """The smallest tile that holds m x n."""
    if n > lanes(a):
        if m > MIDDLE:
            _FULL(k, a, 1, a_step, b, b_step, c, c_row, m, n, mode, alpha, beta, bias, slope)
        elif m > LOW:
            _MIDDLE(k, a, 1, a_step, b, b_step, c, c_row, m, n, mode, alpha, beta, bias, slope)
        else:
            _LOW(k, a, 1, a_step, b, b_step, c, c_row, m, n, mode, alpha, beta, bias, slope)
    elif m > MIDDLE:
        _FULL_NARROW(k, a, 1, a_step, b, b_step, c, c_row, m, n, mode, alpha, beta, bias, slope)
    elif m > LOW:
        _MIDDLE_NARROW(k, a, 1, a_step, b, b_step, c, c_row, m, n, mode, alpha, beta, bias, slope)
    else:
        _LOW_NARROW(k, a, 1, a_step, b, b_step, c, c_row, m, n, mode, alpha, beta, bias, slope)


def multiply(fields, workspace):
    """C = f(alpha A B + beta C + bias); see `make_tile` for f. `workspace` has room for a block of
    B and a panel of A (`workspace_size`); its type says what the elements are."""
    size = itemsize(workspace)
    status = check(fields, size)
    if status != DONE:
        return status
    a, a_row, a_col = pointer(workspace, fields[A]), fields[A + 3] // size, fields[A + 4] // size
    b, b_row, b_col = pointer(workspace, fields[B]), fields[B + 3] // size, fields[B + 4] // size
    c, c_row = pointer(workspace, fields[C]), fields[C + 3] // size
    m, k, n = fields[A + 1], fields[A + 2], fields[B + 2]
    bias = fields[BIAS] if fields[BIAS + 1] != 0 else 0
    bias_grad = fields[BIAS_GRAD] if fields[BIAS_GRAD + 1] != 0 else 0
    alpha, beta, slope = as_float(fields[ALPHA]), as_float(fields[BETA]), as_float(fields[SLOPE])
    is_plain = bias == 0 and slope == 1

    width = VECTORS * lanes(workspace)
    # Blocks of equal height: 400 = 200 + 200 rather than 384 + 16.
    blocks = max(1, -(-k // fields[KC]))
    kc = max(8, (-(-k // blocks) + 7) // 8 * 8)
    nc = fields[NC]
    panel_a = workspace
    panels_b = advance(workspace, MR * (kc + lanes(workspace)) + 64)

    # A panel that serves few tiles is not worth packing if the tile can read it where it lies.
    direct_a = a_row == 1 and n <= 2 * width
    direct_b = b_col == 1 and m <= MR and bias_grad == 0
    by_rows = a_row != 1 and n <= lanes(workspace)

    for jc in range(0, n, nc):
        n_here = min(nc, n - jc)
        for pc in range(0, max(k, 1), kc):
            k_here = min(kc, k - pc)
            is_last = pc + kc >= k
            beta_here = beta if pc == 0 else 1.0
            mode = GENERAL
            if alpha == 1 and (is_plain or not is_last):
                if beta_here == 0:
                    mode = STORE
                elif beta_here == 1:
                    mode = ADD
            slope_here = slope if is_last else 1.0
            bias_here = bias if is_last else 0

            block_b = advance(b, pc * b_row + jc * b_col)
            packed_from = n_here // width * width if direct_b else 0
            source = advance(block_b, packed_from * b_col)
            target = advance(panels_b, packed_from * k_here)
            pack_b(source, b_row, b_col, k_here, n_here - packed_from, target)
            if bias_grad != 0:
                sums = advance(pointer(workspace, bias_grad), jc)
                add_column_sums(panels_b, k_here, n_here, sums)

            for i in range(0, m, MR):
                rows = min(MR, m - i)
                tile_a, step_a = advance(a, i * a_row + pc * a_col), a_col
                if not by_rows and not (direct_a and rows == MR):
                    pack_a(tile_a, a_row, a_col, rows, k_here, panel_a)
                    tile_a, step_a = panel_a, MR
                for j in range(0, n_here, width):
                    columns = min(width, n_here - j)
                    tile_b, step_b = advance(panels_b, j * k_here), width
                    if j < packed_from:
                        tile_b, step_b = advance(block_b, j), b_row
                    tile_c = advance(c, i * c_row + jc + j)
                    tile_bias = pointer(workspace, 0)
                    if bias_here != 0:
                        tile_bias = advance(pointer(workspace, bias_here), jc + j)
                    if by_rows:
                        _BY_ROWS(
                            k_here, tile_a, a_row, a_col, tile_b, step_b, tile_c, c_row,
                            rows, columns, mode, alpha, beta_here, tile_bias, slope_here,
                        )  # fmt: skip
                    else:
                        _tile(
                            k_here, tile_a, step_a, tile_b, step_b, tile_c, c_row,
                            rows, columns, mode, alpha, beta_here, tile_bias, slope_here,
                        )  # fmt: skip

    return DONE


@jit(cache=False)
def check(fields, size):
    """Whether the kernels can work on the problem: DONE if so, otherwise why not."""
    m, k, n = fields[A + 1], fields[A + 2], fields[B + 2]
    if fields[B + 1] != k or fields[C + 1] != m or fields[C + 2] != n:
        return WRONG_SHAPE
    for vector in (BIAS, BIAS_GRAD):
        if fields[vector + 1] != 0 and fields[vector + 1] != n:
            return WRONG_SHAPE
        if n > 1 and fields[vector + 1] != 0 and fields[vector + 2] != size:
            return AWKWARD
    if m > 0 and n > 1 and fields[C + 4] != size:
        return AWKWARD
    for matrix in (A, B, C):
        # Elements at fractions of their size, as in a field of a packed record.
        if (fields[matrix] | fields[matrix + 3] | fields[matrix + 4]) % size != 0:
            return AWKWARD
    if m == 0 or n == 0:
        return DONE
    c_first, c_end = extent(fields, C, size)
    sums_first = fields[BIAS_GRAD]
    sums_end = sums_first + fields[BIAS_GRAD + 1] * size
    for matrix in (A, B):
        first, end = extent(fields, matrix, size)
        if meet(first, end, c_first, c_end) or meet(first, end, sums_first, sums_end):
            return AWKWARD
    first, end = fields[BIAS], fields[BIAS] + fields[BIAS + 1] * size
    if meet(first, end, c_first, c_end) or meet(sums_first, sums_end, c_first, c_end):
        return AWKWARD
    if float(m) * float(n) * float(k) > as_float(fields[LIMIT]):
        return LARGE
    return DONE


@jit(cache=False)
def meet(x_first, x_end, y_first, y_end):
    """Whether two address ranges meet (the elements of strided arrays may still be disjoint)."""
    return x_first < x_end and y_first < y_end and x_first < y_end and y_first < x_end


@jit(cache=False)
def extent(fields, matrix, size):
    """First address of a matrix and first address after it; equal if it has no elements."""
    if fields[matrix + 1] == 0 or fields[matrix + 2] == 0:
        return fields[matrix], fields[matrix]
    rows = (fields[matrix + 1] - 1) * fields[matrix + 3]
    columns = (fields[matrix + 2] - 1) * fields[matrix + 4]
    first = fields[matrix] + min(rows, 0) + min(columns, 0)
    return first, fields[matrix] + max(rows, 0) + max(columns, 0) + size


@jit(cache=False)
def as_float(bits):
    return np.int64(bits).view(np.float64)


def kernels_of(function):
    """The native kernel for each element type."""
    pointers = {name: types.CPointer(getattr(types, name)) for name in ("float32", "float64")}
    signatures = {n: types.int64(types.CPointer(types.int64), p) for n, p in pointers.items()}
    return {name: native(signature)(function) for name, signature in signatures.items()}


KERNELS = kernels_of(multiply)


def block_sizes(itemsize: int) -> tuple[int, int]:
    """(KC, NC), in elements: a panel of A takes less than half of the L1 cache, where parts of B and
    C pass through as well, and a block of B three quarters of L2, and never more than 3 MiB."""
    l1, l2 = cache_bytes()
    kc = min(l1 * 9 // 20 // (MR * itemsize), 1536 // itemsize) // 8 * 8
    width = VECTORS * vector_bytes() // itemsize
    nc = min(l2 * 3 // 4, 3 << 20) // (kc * itemsize) // width * width
    return kc, max(nc, width)


def workspace_size(itemsize: int) -> int:
    """Elements that `multiply` needs: the two packed blocks with their slack."""
    kc, nc = block_sizes(itemsize)
    lanes = vector_bytes() // itemsize
    return MR * (kc + lanes) + 64 + (nc + VECTORS * lanes) * kc + VECTORS * lanes * lanes
