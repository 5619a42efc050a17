"""Layer normalization for NumPy arrays; definitions in `reference.normalization`.

Every row is normalized by its own mean and variance, so that a row is read three times, but from the
cache. The gradients of gamma and beta are sums over the rows: each block of rows adds up its own, and
the blocks' sums are added in order, in float64.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from ._jit import REASSOCIATE, jit
from ._passes import CONTRACT, Pass, check_floats, check_shape
from .rows import row_sum

BLOCK_ROWS = 32


@jit(fastmath=REASSOCIATE, cache=False)
def _row_squares(x, row, center):
    """Sum of (x - center)^2 over a row."""
    total = 0.0
    for k in range(x.shape[1]):
        total += np.float64((x[row, k] - center) * (x[row, k] - center))
    return total


@jit(fastmath=REASSOCIATE, cache=False)
def _row_grad_sums(grad, x, row, gamma, center):
    """Sums of g and g * (x - center) over a row, with g = grad * gamma."""
    total, total_x = 0.0, 0.0
    for k in range(x.shape[1]):
        g = grad[row, k] * gamma[k]
        total += np.float64(g)
        total_x += np.float64(g * (x[row, k] - center))
    return total, total_x


def _normalize(x, gamma, beta, eps, y, mean, inv_std):
    real = x.dtype.type
    rows, columns = x.shape
    for block in prange((rows + BLOCK_ROWS - 1) // BLOCK_ROWS):
        for row in range(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, rows)):
            center = real(row_sum(x, row) / columns)
            variance = _row_squares(x, row, center) / columns
            scale = real(1 / np.sqrt(variance + eps))
            mean[row], inv_std[row] = center, scale
            for k in range(columns):
                y[row, k] = (x[row, k] - center) * scale * gamma[k] + beta[k]


def _gradients(grad, x, gamma, mean, inv_std, dx, dgamma, dbeta):
    """dgamma, dbeta: (blocks, C), each block's share, in float64."""
    real = x.dtype.type
    rows, columns = x.shape
    for block in prange(dgamma.shape[0]):
        block_dgamma, block_dbeta = np.zeros(columns, x.dtype), np.zeros(columns, x.dtype)
        for row in range(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, rows)):
            center, scale = mean[row], inv_std[row]
            total, total_x = _row_grad_sums(grad, x, row, gamma, center)
            mean_g = real(total / columns)
            # x_hat <g x_hat> = (x - mean) inv_std^2 <g (x - mean)>
            slope = real(total_x / columns) * scale * scale
            for k in range(columns):
                g, deviation = grad[row, k], x[row, k] - center
                dx[row, k] = scale * (g * gamma[k] - mean_g - deviation * slope)
                block_dgamma[k] += g * (deviation * scale)
                block_dbeta[k] += g
        for k in range(columns):
            dgamma[block, k] = block_dgamma[k]
            dbeta[block, k] = block_dbeta[k]


_NORMALIZE, _GRADIENTS = Pass(_normalize, CONTRACT), Pass(_gradients, CONTRACT)


def layer_norm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y (M, C), mean (M,), inv_std (M,). See `reference.layer_norm`."""
    check_floats("layer_norm", x=x, gamma=gamma, beta=beta)
    rows, columns = _check("layer_norm", x, gamma)
    check_shape("layer_norm", "beta", beta, (columns,))
    y, mean, inv_std = np.empty(x.shape, x.dtype), np.empty(rows, x.dtype), np.empty(rows, x.dtype)
    vectors = gamma.ravel(), beta.ravel()
    _NORMALIZE(x.size, np.ascontiguousarray(x), *vectors, float(eps), y, mean, inv_std)
    return y, mean, inv_std


def layer_norm_grad(
    grad: np.ndarray, x: np.ndarray, gamma: np.ndarray, mean: np.ndarray, inv_std: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx (M, C), dgamma (C,), dbeta (C,). See `reference.layer_norm_grad`."""
    name = "layer_norm_grad"
    check_floats(name, grad=grad, x=x, gamma=gamma, mean=mean, inv_std=inv_std)
    rows, columns = _check(name, x, gamma)
    check_shape(name, "grad", grad, x.shape)
    check_shape(name, "mean", mean, (rows,))
    check_shape(name, "inv_std", inv_std, (rows,))
    dx = np.empty(x.shape, x.dtype)
    dgamma = np.empty((-(-rows // BLOCK_ROWS), columns))
    dbeta = np.empty_like(dgamma)
    arrays = [np.ascontiguousarray(array) for array in (grad, x, gamma, mean, inv_std)]
    _GRADIENTS(x.size, *arrays, dx, dgamma, dbeta)
    return dx, dgamma.sum(axis=0).astype(x.dtype), dbeta.sum(axis=0).astype(x.dtype)


def _check(name: str, x: np.ndarray, gamma: np.ndarray) -> tuple[int, int]:
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"{name}: x must have shape (M, C) with C > 0, not {x.shape}")
    check_shape(name, "gamma", gamma, x.shape[1:])
    return x.shape
