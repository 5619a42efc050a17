"""How a matrix product is described to the compiled kernels, and the checks before it begins.

The kernels take pointers and strides in a block of 64-bit fields, so that each is compiled once for
an element type, whatever the layout of the arrays.
"""

from __future__ import annotations

import numpy as np

from ._jit import jit, native_for_floats
from .matmul_tile import ADD, GENERAL, STORE, VECTORS
from .simd import call_native, itemsize, lanes, pointer

# The fields of a problem. A matrix takes five: address, rows, columns, and the distances in bytes
# between rows and between columns. BIAS and BIAS_GRAD take three: address, size, distance; a size
# of 0 means that there is none. ALPHA, BETA, SLOPE and LIMIT hold the bits of a float64.
A, B, C, BIAS, BIAS_GRAD = 0, 5, 10, 15, 18
ALPHA, BETA, SLOPE, LIMIT, KC, NC = range(21, 27)
SIZES = (A + 1, A + 2, B + 2)  # where M, K and N stand
# Addresses of the kernels, 0 until they are compiled; which of these fields holds the one chosen,
# and whether that is to compute C^T = B^T A^T.
BLOCKED, OUTER, INNER, NARROW, CHOSEN, IS_TRANSPOSED = range(27, 33)
# Addresses of `start` and of a workspace, for those who are given only the fields.
ENTRY, WORKSPACE = 33, 34
FIELDS = 35

# What `start` returns. All but DONE mean that nothing was computed. LARGE: there are more than LIMIT
# multiply-adds, which the caller can share among threads. AWKWARD: memory overlaps or is laid out
# such that the kernels cannot work on it. BLOCKED, OUTER, INNER, NARROW: this kernel's address is
# wanted. (READ_ONLY is for callers that see the arrays.)
DONE, LARGE, WRONG_SHAPE, AWKWARD, READ_ONLY = range(5)

# Products with no more rows or columns than these are not worth packing; see `matmul_skinny`.
FEW = 14
LONGEST_SKINNY = 4096  # their longest inner dimension, since whole columns of B are packed
SCRATCH = 16 * 8 * 16  # elements of the tile through which their results may go, at its largest


def start(fields, workspace):
    """Check a problem, choose the kernel that suits it, and call that."""
    size = itemsize(workspace)
    status = check(fields, size)
    if status != DONE:
        return status
    has_sums = fields[BIAS_GRAD + 1] != 0
    if fields[C + 2] == 0 or (fields[C + 1] == 0 and not has_sums):
        return DONE
    chosen, is_transposed = choose(fields, size, VECTORS * lanes(workspace), lanes(workspace))
    fields[CHOSEN], fields[IS_TRANSPOSED] = chosen, is_transposed
    if fields[chosen] == 0:
        return chosen
    work = float(fields[C + 1]) * float(fields[C + 2]) * float(fields[A + 2])
    if work > as_float(fields[LIMIT]):
        return LARGE
    return call_native(fields[chosen], fields, workspace)


START = native_for_floats(start)


@jit(cache=False)
def choose(fields, size, width, lanes):
    """(field of the kernel's address, whether it computes C^T)"""
    m, k, n = fields[A + 1], fields[A + 2], fields[B + 2]
    if k > LONGEST_SKINNY or (m > max(FEW, width) and n > max(FEW, width)):
        return BLOCKED, False
    a_has_columns, a_has_rows = fields[A + 3] == size, fields[A + 4] == size  # contiguous ones
    b_has_columns, b_has_rows = fields[B + 3] == size, fields[B + 4] == size
    if m <= FEW and b_has_rows:
        return OUTER, False
    if n <= FEW and a_has_columns:
        return OUTER, True
    if a_has_rows and b_has_columns:
        return (INNER, n == 1) if min(m, n) <= FEW and k >= 4 * lanes else (BLOCKED, False)
    if n <= width and a_has_rows and b_has_rows:
        return NARROW, False
    if m <= width and a_has_columns and b_has_columns:
        return NARROW, True
    return BLOCKED, False


@jit(cache=False)
def operands(fields, workspace):
    """(a, a_row, a_col, b, b_row, b_col, m, k, n) as a kernel is to take them, with strides in
    elements; of the transposed problem if that was chosen."""
    size = itemsize(workspace)
    a, a_row, a_col = pointer(workspace, fields[A]), fields[A + 3] // size, fields[A + 4] // size
    b, b_row, b_col = pointer(workspace, fields[B]), fields[B + 3] // size, fields[B + 4] // size
    m, k, n = fields[A + 1], fields[A + 2], fields[B + 2]
    if fields[IS_TRANSPOSED] != 0:
        return b, b_col, b_row, a, a_col, a_row, n, k, m
    return a, a_row, a_col, b, b_row, b_col, m, k, n


@jit(cache=False)
def extras(fields, is_first, is_last):
    """(mode, beta, slope, has bias) for the sums over one block of k: C's former content joins the
    first block, bias and activation the last."""
    beta = as_float(fields[BETA]) if is_first else 1.0
    slope = as_float(fields[SLOPE]) if is_last else 1.0
    has_bias = is_last and fields[BIAS + 1] != 0
    mode = GENERAL
    if as_float(fields[ALPHA]) == 1 and slope == 1 and not has_bias:
        if beta == 0:
            mode = STORE
        elif beta == 1:
            mode = ADD
    return mode, beta, slope, has_bias


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
