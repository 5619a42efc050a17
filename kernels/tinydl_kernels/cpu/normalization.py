"""Batch normalization for NumPy arrays; definitions in `reference.normalization`.

x is a matrix of rows (samples, pixels; several axes of it) and columns (channels), the columns next to each
other in memory. Batch normalization works along the columns: statistics of all rows for each channel. There
may be few channels, 16 say, too few for a loop over them to fill the processor's pipeline. But a row
followed by the next is as good as one row of twice the channels: as many rows as make up at least
WIDE numbers are taken as one WIDE row, and the loops below run over wide rows. The sums of a wide
row's parts are added at the end. What is left when the rows do not divide is called `rest`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from ..reference.normalization import running_moments  # C numbers only: nothing to gain
from ._jit import jit
from ._passes import Pass, check_floats, check_shape, deliver, memory_for
from .activations import activation as activate
from .activations import activation_grad
from .layer_normalization import layer_norm, layer_norm_grad

__all__ = [
    "batch_moments",
    "batch_norm",
    "batch_norm_apply",
    "batch_norm_grad",
    "batch_norm_grad_input",
    "batch_norm_grad_sums",
    "column_moments",
    "layer_norm",
    "layer_norm_grad",
    "running_moments",
]

WIDE = 1024

# Wide rows of a block. A sum over a block is kept in the arrays' own precision, the sum over blocks
# in float64: float32 rounding does not grow with the number of rows.
BLOCK_ROWS = 32


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x (..., C) as wide rows (W, wide) and the rest, flat; wide is a multiple of C."""
    wide = max(1, WIDE // x.shape[-1]) * x.shape[-1]
    flat = x.ravel()
    split = flat.size // wide * wide
    return flat[:split].reshape(-1, wide), flat[split:]


def _block_count(wide_rows: np.ndarray) -> int:
    """The rest belongs to the last block, even if that has no wide rows."""
    return max(1, -(-len(wide_rows) // BLOCK_ROWS))


@jit(cache=False)
def _tile(vector, row):
    """Fill a wide row with repetitions of a vector (C,)."""
    for start in range(0, row.size, vector.size):
        for k in range(vector.size):
            row[start + k] = vector[k]


@jit(cache=False)
def _fold(row, totals):
    """totals (C,) = the sums over the parts of a wide row, in float64."""
    for k in range(totals.size):
        totals[k] = 0
    for start in range(0, row.size, totals.size):
        for k in range(totals.size):
            totals[k] += row[start + k]


# --- column moments -------------------------------------------------------------------------------


@jit(cache=False)
def _sum_columns(x, rest, first, last, sums):
    """sums (a wide row) = column sums of the wide rows x[first:last] and of the rest."""
    for j in range(sums.size):
        sums[j] = 0
    fours = first + (last - first) // 4 * 4
    for r in range(first, fours, 4):  # the sums are fetched and stored once for four rows
        for j in range(sums.size):
            sums[j] += (x[r, j] + x[r + 1, j]) + (x[r + 2, j] + x[r + 3, j])
    for r in range(fours, last):
        for j in range(sums.size):
            sums[j] += x[r, j]
    for j in range(rest.size):
        sums[j] += rest[j]


@jit(cache=False)
def _sum_deviations(x, rest, first, last, center, sums, squares):
    """sums and squares = column sums of x - center and of (x - center)^2."""
    for j in range(sums.size):
        sums[j] = squares[j] = 0
    fours = first + (last - first) // 4 * 4
    for r in range(first, fours, 4):
        for j in range(sums.size):
            a, b = x[r, j] - center[j], x[r + 1, j] - center[j]
            c, d = x[r + 2, j] - center[j], x[r + 3, j] - center[j]
            sums[j] += (a + b) + (c + d)
            squares[j] += (a * a + b * b) + (c * c + d * d)
    for r in range(fours, last):
        for j in range(sums.size):
            a = x[r, j] - center[j]
            sums[j] += a
            squares[j] += a * a
    for j in range(rest.size):
        a = rest[j] - center[j]
        sums[j] += a
        squares[j] += a * a


def _block_moments(x, rest, means, deviations):
    """Mean and sum of squared deviations of each block's columns: (blocks, C) in float64.

    Two passes over the block, the second over what the cache holds. The second also sums the plain
    deviations: what the first mean was wrong by (the corrected two-pass algorithm of Chan, Golub &
    LeVeque, The American Statistician 37, 1983).
    """
    blocks, columns = means.shape
    wide = x.shape[1]
    for block in prange(blocks):
        first, last = block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, x.shape[0])
        tail = rest if block == blocks - 1 else rest[:0]
        count = ((last - first) * wide + tail.size) // columns
        sums, squares = np.empty(wide, x.dtype), np.empty(wide, x.dtype)
        center, mean = np.empty(wide, x.dtype), np.empty(columns, x.dtype)
        _sum_columns(x, tail, first, last, sums)
        _fold(sums, means[block])
        for k in range(columns):
            mean[k] = means[block, k] / count
        _tile(mean, center)
        _sum_deviations(x, tail, first, last, center, sums, squares)
        _fold(sums, means[block])
        _fold(squares, deviations[block])
        for k in range(columns):
            error = means[block, k] / count
            means[block, k] = mean[k] + error
            deviations[block, k] -= count * error * error


@jit
def _merge_moments(means, deviations, block_rows, rows, mean, var):
    """The blocks' moments into one, block after block (the update formula of the same paper)."""
    blocks, columns = means.shape
    merged, spread = means[0], deviations[0]
    for block in range(1, blocks):
        before = block * block_rows
        count = block_rows if block < blocks - 1 else rows - before
        share = count / (before + count)
        for k in range(columns):
            delta = means[block, k] - merged[k]
            merged[k] += delta * share
            spread[k] += deviations[block, k] + delta * delta * (before * share)
    for k in range(columns):
        mean[k] = merged[k]
        var[k] = max(spread[k], 0.0) / rows


_BLOCK_MOMENTS = Pass(_block_moments)


def column_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (C,) and population variance (C,) of x (..., C). See `reference.column_moments`."""
    check_floats("column_moments", x=x)
    rows, columns = _matrix("column_moments", x)
    if rows == 0:
        raise ValueError("column_moments: x has no rows, so its mean is not defined")
    mean, var = np.empty(columns, x.dtype), np.empty(columns, x.dtype)
    if columns:
        wide, rest = _split(x)
        means = np.empty((_block_count(wide), columns))
        deviations = np.empty_like(means)
        _BLOCK_MOMENTS(x.size, wide, rest, means, deviations)
        block_rows = BLOCK_ROWS * wide.shape[1] // columns
        _merge_moments(means, deviations, block_rows, rows, mean, var)
    return mean, var


# --- batch normalization --------------------------------------------------------------------------


def _apply(x, rest, mean_c, scale_c, beta_c, out, out_rest):
    """out = (x - mean) * scale + beta."""
    wide = x.shape[1]
    mean, scale, beta = np.empty(wide, x.dtype), np.empty(wide, x.dtype), np.empty(wide, x.dtype)
    _tile(mean_c, mean)
    _tile(scale_c, scale)
    _tile(beta_c, beta)
    for block in prange((x.shape[0] + BLOCK_ROWS - 1) // BLOCK_ROWS):
        for r in range(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, x.shape[0])):
            for j in range(wide):
                out[r, j] = (x[r, j] - mean[j]) * scale[j] + beta[j]
    for j in range(rest.size):
        out_rest[j] = (rest[j] - mean[j]) * scale[j] + beta[j]


def _grad_sums(grad, grad_rest, x, x_rest, mean_c, products, sums):
    """Each block's column sums of grad * (x - mean) and of grad: (blocks, C) in float64."""
    blocks, wide = sums.shape[0], x.shape[1]
    mean = np.empty(wide, x.dtype)
    _tile(mean_c, mean)
    for block in prange(blocks):
        with_x, plain = np.zeros(wide, x.dtype), np.zeros(wide, x.dtype)
        first, last = block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, x.shape[0])
        fours = first + (last - first) // 4 * 4
        for r in range(first, fours, 4):
            for j in range(wide):
                a, b, c, d = grad[r, j], grad[r + 1, j], grad[r + 2, j], grad[r + 3, j]
                plain[j] += (a + b) + (c + d)
                first_two = a * (x[r, j] - mean[j]) + b * (x[r + 1, j] - mean[j])
                last_two = c * (x[r + 2, j] - mean[j]) + d * (x[r + 3, j] - mean[j])
                with_x[j] += first_two + last_two
        for r in range(fours, last):
            for j in range(wide):
                plain[j] += grad[r, j]
                with_x[j] += grad[r, j] * (x[r, j] - mean[j])
        if block == blocks - 1:
            for j in range(x_rest.size):
                plain[j] += grad_rest[j]
                with_x[j] += grad_rest[j] * (x_rest[j] - mean[j])
        _fold(with_x, products[block])
        _fold(plain, sums[block])


@jit
def _sum_blocks(products, sums, inv_std, dgamma, dbeta):
    """dgamma, dbeta (C,) from the blocks' sums, added in order, in float64, into the first's."""
    for block in range(1, sums.shape[0]):
        for k in range(sums.shape[1]):
            products[0, k] += products[block, k]
            sums[0, k] += sums[block, k]
    for k in range(sums.shape[1]):
        dgamma[k] = products[0, k] * inv_std[k]
        dbeta[k] = sums[0, k]


def _grad_input(grad, grad_rest, x, x_rest, mean_c, scale_c, offset_c, slope_c, out, out_rest):
    """out = scale * (grad - offset - slope * (x - mean))."""
    wide = x.shape[1]
    mean, scale = np.empty(wide, x.dtype), np.empty(wide, x.dtype)
    offset, slope = np.empty(wide, x.dtype), np.empty(wide, x.dtype)
    _tile(mean_c, mean)
    _tile(scale_c, scale)
    _tile(offset_c, offset)
    _tile(slope_c, slope)
    for block in prange((x.shape[0] + BLOCK_ROWS - 1) // BLOCK_ROWS):
        for r in range(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, x.shape[0])):
            for j in range(wide):
                along = slope[j] * (x[r, j] - mean[j])
                out[r, j] = scale[j] * (grad[r, j] - offset[j] - along)
    for j in range(x_rest.size):
        along = slope[j] * (x_rest[j] - mean[j])
        out_rest[j] = scale[j] * (grad_rest[j] - offset[j] - along)


_APPLY, _GRAD_SUMS, _GRAD_INPUT = Pass(_apply), Pass(_grad_sums), Pass(_grad_input)


def batch_moments(
    x: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    momentum: float,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (C,) and 1 / standard deviation (C,) of x (..., C). See `reference.batch_moments`."""
    mean, var = column_moments(x)
    return mean, running_moments(mean, var, running_mean, running_var, momentum, epsilon)


def batch_norm(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    momentum: float,
    epsilon: float,
    *,
    activation: str | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y (..., C), mean (C,) and 1 / standard deviation (C,). See `reference.batch_norm`."""
    mean, inv_std = batch_moments(x, running_mean, running_var, momentum, epsilon)
    return batch_norm_apply(x, mean, inv_std, gamma, beta, activation=activation), mean, inv_std


def batch_norm_grad(
    grad: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    gamma_grad: np.ndarray | None = None,
    beta_grad: np.ndarray | None = None,
    *,
    activation: str | None = None,
    y: np.ndarray | None = None,
) -> np.ndarray:
    """dL/dx (..., C) of `batch_norm`. See `reference.batch_norm_grad`."""
    dz = grad if activation is None else activation_grad(activation, grad, None, y)
    sums = batch_norm_grad_sums(dz, x, mean, inv_std, gamma_grad, beta_grad)
    return batch_norm_grad_input(dz, x, gamma, mean, inv_std, *sums, x.size // x.shape[-1])


def batch_norm_apply(
    x: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    out: np.ndarray | None = None,
    *,
    activation: str | None = None,
) -> np.ndarray:
    """y = activation(gamma * (x - mean) * inv_std + beta). See `reference.batch_norm_apply`."""
    name = "batch_norm_apply"
    _check_columns(name, {"x": x}, mean=mean, inv_std=inv_std, gamma=gamma, beta=beta)
    result = memory_for(name, out, x.shape, x.dtype, x)
    if x.size:
        vectors = mean.ravel(), gamma * inv_std, beta.ravel()
        _APPLY(x.size, *_split(x), *vectors, *_split(result))
    if activation is not None:
        activate(activation, result, result)
    return deliver(result, out)


def batch_norm_grad_sums(
    grad: np.ndarray,
    x: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    gamma_grad: np.ndarray | None = None,
    beta_grad: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """dgamma (C,) and dbeta (C,). See `reference.batch_norm_grad_sums`."""
    name = "batch_norm_grad_sums"
    _check_columns(name, {"x": x, "grad": grad}, mean=mean, inv_std=inv_std)
    columns = x.shape[-1]
    dgamma, dbeta = np.zeros(columns, x.dtype), np.zeros(columns, x.dtype)
    if x.size:
        wide, rest = _split(x)
        products = np.empty((_block_count(wide), columns))
        sums = np.empty_like(products)
        _GRAD_SUMS(x.size, *_split(grad), wide, rest, mean.ravel(), products, sums)
        _sum_blocks(products, sums, inv_std.ravel(), dgamma, dbeta)
    if gamma_grad is not None:
        gamma_grad += dgamma
    if beta_grad is not None:
        beta_grad += dbeta
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
    result = memory_for(name, out, x.shape, x.dtype, grad, x)
    if x.size:
        share = x.dtype.type(1 / count)
        columns = mean.ravel(), gamma * inv_std, dbeta * share, inv_std * dgamma * share
        _GRAD_INPUT(x.size, *_split(grad), *_split(x), *columns, *_split(result))
    return deliver(result, out)


def _matrix(name: str, x: np.ndarray) -> tuple[int, int]:
    if x.ndim < 2:
        raise ValueError(f"{name}: x must have shape (M, ..., C), not {x.shape}")
    return math.prod(x.shape[:-1]), x.shape[-1]


def _check_columns(name: str, matrices: dict[str, np.ndarray], **vectors: np.ndarray) -> None:
    """Matrices (..., C) of one shape and vectors (C,), all of one dtype."""
    check_floats(name, **matrices, **vectors)
    _, columns = _matrix(name, matrices["x"])
    for argument, matrix in matrices.items():
        check_shape(name, argument, matrix, matrices["x"].shape)
    for argument, vector in vectors.items():
        check_shape(name, argument, vector, (columns,))
