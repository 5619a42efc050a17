"""The backward pass of a table look-up for NumPy arrays; definition in `reference.embedding`."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange

from ._jit import jit
from ._passes import PARALLEL_SIZE, check_floats, check_shape

# Threads share the columns, not the rows: rows of equal index would meet in one row of `out`, columns
# never do. And each element of `out` gets its terms in the order of the indices, always.
COLUMNS = 128


@jit
def _serial(indices, grad, out):
    for i in range(indices.size):
        row = indices[i]
        for k in range(grad.shape[1]):
            out[row, k] += grad[i, k]


@jit(parallel=True)
def _threaded(indices, grad, out):
    columns = out.shape[1]
    for block in prange((columns + COLUMNS - 1) // COLUMNS):
        first = np.int64(block) * COLUMNS
        last = min(first + COLUMNS, columns)
        for i in range(indices.size):
            # Cut out, since only indices that count from 0 make vector code: see `_passes`.
            target, source = out[indices[i], first:last], grad[i, first:last]
            for k in range(target.size):
                target[k] += source[k]


@jit
def _outside(indices, rows):
    """Whether an index lies outside the table."""
    found = False
    for i in range(indices.size):
        found |= (indices[i] < 0) | (indices[i] >= rows)
    return found


def embedding_grad(indices: np.ndarray, grad: np.ndarray, out: np.ndarray) -> np.ndarray:
    """out[indices] += grad, duplicates added. See `reference.embedding_grad`."""
    name = "embedding_grad"
    check_floats(name, grad=grad, out=out)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"{name}: indices must be integers, not {indices.dtype}")
    if out.ndim != 2:
        raise ValueError(f"{name}: out must have shape (V, D), not {out.shape}")
    check_shape(name, "grad", grad, (*indices.shape, out.shape[1]))
    if not out.flags.writeable:
        raise ValueError(f"{name}: out is read-only")
    numbers = np.ascontiguousarray(indices, np.int64).ravel()
    if _outside(numbers, len(out)):
        raise IndexError(f"{name}: indices must lie in [0, {len(out)}), the rows of out")
    rows = np.ascontiguousarray(grad).reshape(numbers.size, out.shape[1])
    table = np.ascontiguousarray(out)
    if grad.size >= PARALLEL_SIZE and out.shape[1] > COLUMNS and get_num_threads() > 1:
        _threaded(numbers, rows, table)
    else:
        _serial(numbers, rows, table)
    if table is not out:
        out[...] = table
    return out
