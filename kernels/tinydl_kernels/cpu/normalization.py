"""Batch normalization for NumPy arrays; definitions in `reference.normalization`.

x is a matrix of rows (samples, pixels) and columns (channels), the columns next to each other in
memory. Batch normalization works along the columns: statistics of all rows for each channel. There
may be few channels, 16 say, too few for a loop over them to fill the processor's pipeline. But a row
followed by the next is as good as one row of twice the channels: `fold` rows are taken as one WIDE row
of at least WIDE numbers, and every loop below runs over wide rows. The sums of a wide row's parts are
added at the end.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from ._jit import jit
from ._passes import CONTRACT, Pass, check_floats, check_out, check_shape, overlaps
from .layer_normalization import layer_norm, layer_norm_grad

__all__ = [
    "batch_norm_apply",
    "batch_norm_grad_input",
    "batch_norm_grad_sums",
    "column_moments",
    "layer_norm",
    "layer_norm_grad",
]

WIDE = 256

# Rows of a block, counted in wide rows. A sum over a block is kept in the arrays' own precision, the
# sum over blocks in float64: float32 rounding does not grow with the number of rows.
BLOCK_ROWS = 32


def fold(columns: int) -> int:
    """How many rows make a wide row."""
    return max(1, WIDE // columns)


def block_rows(columns: int) -> int:
    return BLOCK_ROWS * max(1, WIDE // columns)


_fold, _block_rows = jit(fold, cache=False), jit(block_rows, cache=False)


@jit(cache=False)
def _wide(vector):
    """A vector (C,) as a wide row."""
    times = _fold(vector.size)
    row = np.empty(vector.size * times, vector.dtype)
    for i in range(times):
        for j in range(vector.size):
            row[i * vector.size + j] = vector[j]
    return row


@jit(cache=False)
def _folded(sums, columns, column):
    """The sum over the parts of a wide row that belong to one column."""
    total = 0.0
    for j in range(column, sums.size, columns):
        total += sums[j]
    return total


# --- column moments -------------------------------------------------------------------------------


@jit(cache=False)
def _wide_rows(x, start, count, wide, group):
    """x[start : start + count] (flat) as (groups, group, wide), and what is left, flat."""
    groups = count // (group * wide)
    split = start + groups * group * wide
    return x[start:split].reshape(groups, group, wide), x[split : start + count]


@jit(fastmath=CONTRACT, cache=False)
def _sum_columns(x, start, count, sums):
    """sums (a wide row) = column sums of the flat x[start : start + count]."""
    wide = sums.size
    sums[:] = 0
    groups, rest = _wide_rows(x, start, count, wide, 4)
    for g in range(groups.shape[0]):  # the sums are fetched and stored once for four rows
        for j in range(wide):
            sums[j] += (groups[g, 0, j] + groups[g, 1, j]) + (groups[g, 2, j] + groups[g, 3, j])
    for done in range(0, rest.size, wide):
        for j in range(min(wide, rest.size - done)):
            sums[j] += rest[done + j]


@jit(fastmath=CONTRACT, cache=False)
def _sum_deviations(x, start, count, center, sums, squares):
    """sums and squares = column sums of x - center and of (x - center)^2."""
    wide = sums.size
    sums[:] = 0
    squares[:] = 0
    groups, rest = _wide_rows(x, start, count, wide, 4)
    for g in range(groups.shape[0]):
        for j in range(wide):
            a, b = groups[g, 0, j] - center[j], groups[g, 1, j] - center[j]
            c, d = groups[g, 2, j] - center[j], groups[g, 3, j] - center[j]
            sums[j] += (a + b) + (c + d)
            squares[j] += (a * a + b * b) + (c * c + d * d)
    for done in range(0, rest.size, wide):
        for j in range(min(wide, rest.size - done)):
            a = rest[done + j] - center[j]
            sums[j] += a
            squares[j] += a * a


def _block_moments(x, columns, means, deviations):
    """Mean and sum of squared deviations of each block's columns: (blocks, C) in float64.

    Two passes over the block, the second over what the cache holds. The second also sums the plain
    deviations: what the first mean was wrong by (the corrected two-pass algorithm of Chan, Golub &
    LeVeque, The American Statistician 37, 1983).
    """
    rows = x.size // columns
    step = _block_rows(columns)
    fold = _fold(columns)
    for block in prange(means.shape[0]):
        first, last = block * step, min((block + 1) * step, rows)
        count = last - first
        sums = np.empty(fold * columns, x.dtype)
        squares = np.empty_like(sums)
        center = np.empty_like(sums)
        _sum_columns(x, first * columns, count * columns, sums)
        for column in range(columns):
            mean = x.dtype.type(_folded(sums, columns, column) / count)
            for j in range(column, center.size, columns):
                center[j] = mean
        _sum_deviations(x, first * columns, count * columns, center, sums, squares)
        for column in range(columns):
            error = _folded(sums, columns, column) / count
            means[block, column] = center[column] + error
            total = _folded(squares, columns, column)
            deviations[block, column] = total - count * error * error


@jit(fastmath=CONTRACT)
def _merge_moments(means, deviations, rows, columns, mean, var):
    """The blocks' moments into one, block after block (the update formula of the same paper)."""
    merged, spread = means[0].copy(), deviations[0].copy()
    step = _block_rows(columns)
    for block in range(1, means.shape[0]):
        before = block * step
        count = min(step, rows - before)
        share = count / (before + count)
        for column in range(columns):
            delta = means[block, column] - merged[column]
            merged[column] += delta * share
            spread[column] += deviations[block, column] + delta * delta * (before * share)
    for column in range(columns):
        mean[column] = merged[column]
        var[column] = max(spread[column] / rows, 0.0)


_BLOCK_MOMENTS = Pass(_block_moments)


def column_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (C,) and population variance (C,) of x (M, C). See `reference.column_moments`."""
    check_floats("column_moments", x=x)
    rows, columns = _matrix("column_moments", x)
    if rows == 0:
        raise ValueError("column_moments: x has no rows, so its mean is not defined")
    mean, var = np.empty(columns, x.dtype), np.empty(columns, x.dtype)
    if columns:
        means = np.empty((-(-rows // block_rows(columns)), columns))
        deviations = np.empty_like(means)
        _BLOCK_MOMENTS(x.size, x.ravel(), columns, means, deviations)
        _merge_moments(means, deviations, rows, columns, mean, var)
    return mean, var


# --- batch normalization --------------------------------------------------------------------------


def _apply(x, mean, inv_std, gamma, beta, out):
    mean, scale, beta = _wide(mean), _wide(gamma * inv_std), _wide(beta)
    wide = mean.size
    size = BLOCK_ROWS * wide
    for block in prange((x.size + size - 1) // size):
        start, count = block * size, min(size, x.size - block * size)
        rows, rest = _wide_rows(x, start, count, wide, 1)
        out_rows, out_rest = _wide_rows(out, start, count, wide, 1)
        for r in range(rows.shape[0]):
            for j in range(wide):
                out_rows[r, 0, j] = (rows[r, 0, j] - mean[j]) * scale[j] + beta[j]
        for j in range(rest.size):
            out_rest[j] = (rest[j] - mean[j]) * scale[j] + beta[j]


def _grad_sums(grad, x, mean, products, sums):
    """Each block's column sums of grad * (x - mean) and of grad: (blocks, C) in float64."""
    mean = _wide(mean)
    wide, columns = mean.size, sums.shape[1]
    size = BLOCK_ROWS * wide
    for block in prange(sums.shape[0]):
        start, count = block * size, min(size, x.size - block * size)
        with_x, plain = np.zeros(wide, x.dtype), np.zeros(wide, x.dtype)
        x_groups, x_rest = _wide_rows(x, start, count, wide, 4)
        groups, rest = _wide_rows(grad, start, count, wide, 4)
        for g in range(groups.shape[0]):
            for j in range(wide):
                a, b, c, d = groups[g, 0, j], groups[g, 1, j], groups[g, 2, j], groups[g, 3, j]
                plain[j] += (a + b) + (c + d)
                first = a * (x_groups[g, 0, j] - mean[j]) + b * (x_groups[g, 1, j] - mean[j])
                second = c * (x_groups[g, 2, j] - mean[j]) + d * (x_groups[g, 3, j] - mean[j])
                with_x[j] += first + second
        for done in range(0, rest.size, wide):
            for j in range(min(wide, rest.size - done)):
                plain[j] += rest[done + j]
                with_x[j] += rest[done + j] * (x_rest[done + j] - mean[j])
        for column in range(columns):
            products[block, column] = _folded(with_x, columns, column)
            sums[block, column] = _folded(plain, columns, column)


@jit
def _sum_blocks(parts, out):
    """out (C,) = sum over the blocks of parts (blocks, C), in order, in float64."""
    total = np.zeros(parts.shape[1])
    for block in range(parts.shape[0]):
        for column in range(parts.shape[1]):
            total[column] += parts[block, column]
    for column in range(parts.shape[1]):
        out[column] = total[column]


def _grad_input(grad, x, gamma, mean, inv_std, dgamma, dbeta, count, out):
    count = x.dtype.type(count)
    offset, slope = _wide(dbeta / count), _wide(inv_std * dgamma / count)
    mean, scale = _wide(mean), _wide(gamma * inv_std)
    wide = mean.size
    size = BLOCK_ROWS * wide
    for block in prange((x.size + size - 1) // size):
        start, count = block * size, min(size, x.size - block * size)
        x_rows, x_rest = _wide_rows(x, start, count, wide, 1)
        rows, rest = _wide_rows(grad, start, count, wide, 1)
        out_rows, out_rest = _wide_rows(out, start, count, wide, 1)
        for r in range(rows.shape[0]):
            for j in range(wide):
                along = slope[j] * (x_rows[r, 0, j] - mean[j])
                out_rows[r, 0, j] = scale[j] * (rows[r, 0, j] - offset[j] - along)
        for j in range(rest.size):
            along = slope[j] * (x_rest[j] - mean[j])
            out_rest[j] = scale[j] * (rest[j] - offset[j] - along)


_APPLY, _GRAD_SUMS, _GRAD_INPUT = Pass(_apply), Pass(_grad_sums), Pass(_grad_input)


def batch_norm_apply(
    x: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """y = gamma * (x - mean) * inv_std + beta. See `reference.batch_norm_apply`."""
    name = "batch_norm_apply"
    _check_columns(name, {"x": x}, mean=mean, inv_std=inv_std, gamma=gamma, beta=beta)
    result = _result(name, out, x, x)
    if x.size:
        vectors = mean.ravel(), inv_std.ravel(), gamma.ravel(), beta.ravel()
        _APPLY(x.size, x.ravel(), *vectors, result.ravel())
    return _given(result, out)


def batch_norm_grad_sums(
    grad: np.ndarray, x: np.ndarray, mean: np.ndarray, inv_std: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """dgamma (C,) and dbeta (C,). See `reference.batch_norm_grad_sums`."""
    name = "batch_norm_grad_sums"
    _check_columns(name, {"x": x, "grad": grad}, mean=mean, inv_std=inv_std)
    rows, columns = x.shape
    dgamma, dbeta = np.zeros(columns, x.dtype), np.zeros(columns, x.dtype)
    if x.size:
        products = np.empty((-(-rows // block_rows(columns)), columns))
        sums = np.empty_like(products)
        _GRAD_SUMS(x.size, grad.ravel(), x.ravel(), mean.ravel(), products, sums)
        _sum_blocks(products, dgamma)
        _sum_blocks(sums, dbeta)
    dgamma *= inv_std
    return dgamma, dbeta


def batch_norm_grad_input(
    grad: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    dgamma: np.ndarray,
    dbeta: np.ndarray,
    count: float,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """dL/dx of batch normalization in training. See `reference.batch_norm_grad_input`."""
    name = "batch_norm_grad_input"
    vectors = {"gamma": gamma, "mean": mean, "inv_std": inv_std, "dgamma": dgamma, "dbeta": dbeta}
    _check_columns(name, {"x": x, "grad": grad}, **vectors)
    result = _result(name, out, x, grad, x)
    if x.size:
        flat = [vector.ravel() for vector in vectors.values()]
        _GRAD_INPUT(x.size, grad.ravel(), x.ravel(), *flat, float(count), result.ravel())
    return _given(result, out)


def _matrix(name: str, x: np.ndarray) -> tuple[int, int]:
    if x.ndim != 2:
        raise ValueError(f"{name}: x must have shape (M, C), not {x.shape}")
    return x.shape


def _check_columns(name: str, matrices: dict[str, np.ndarray], **vectors: np.ndarray) -> None:
    """Matrices (M, C) of one shape and vectors (C,), all of one dtype."""
    check_floats(name, **matrices, **vectors)
    _, columns = _matrix(name, matrices["x"])
    for argument, matrix in matrices.items():
        check_shape(name, argument, matrix, matrices["x"].shape)
    for argument, vector in vectors.items():
        check_shape(name, argument, vector, (columns,))


def _result(name: str, out: np.ndarray | None, like: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
    """Where the loop writes: `out`, if it is there, contiguous and apart from the inputs."""
    if out is not None:
        check_out(name, out, like)
        if out.flags.c_contiguous and not overlaps(out, *inputs):
            return out
    return np.empty(like.shape, like.dtype)


def _given(result: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is None or out is result:
        return result
    out[...] = result
    return out
