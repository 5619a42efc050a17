"""The two passes of DAS for NumPy arrays, one layer at a time; definitions in `reference.das`."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from ._jit import REASSOCIATE
from ._passes import BLOCK, Pass, blocks, check_floats, check_shape, part


def _moments(value, grad, m, v, g_scale, beta_1, beta_2, m_scale, root, epsilon, sums):
    """Update m and v; each block's Σu², Σ m̂ u and Σ w² go into its row of sums, in float64."""
    real = value.dtype.type
    new_1, new_2 = real(1 - beta_1), real(1 - beta_2)
    g_scale, beta_1, beta_2 = real(g_scale), real(beta_1), real(beta_2)
    m_scale, root, epsilon = real(m_scale), real(root), real(epsilon)
    for block in prange(sums.shape[0]):
        w, gradient = part(value, block), part(grad, block)
        mean, square = part(m, block), part(v, block)
        u_squares, m_times_u, w_squares = 0.0, 0.0, 0.0
        for k in range(w.size):
            g = g_scale * gradient[k]
            first = beta_1 * mean[k] + new_1 * g
            second = beta_2 * square[k] + new_2 * g * g
            mean[k] = first
            square[k] = second
            m_hat = m_scale * first
            u = m_hat / (root * np.sqrt(second) + epsilon)
            u_squares += np.float64(u) * np.float64(u)
            m_times_u += np.float64(m_hat) * np.float64(u)
            w_squares += np.float64(w[k]) * np.float64(w[k])
        sums[block, 0] = u_squares
        sums[block, 1] = m_times_u
        sums[block, 2] = w_squares


def _apply(value, m, v, factor, root, epsilon, decay):
    """value -= factor * m / (root * sqrt(v) + epsilon) after value -= decay * value."""
    real = value.dtype.type
    factor, root, epsilon, decay = real(factor), real(root), real(epsilon), real(decay)
    for block in prange(blocks(value.size)):
        w, mean, square = part(value, block), part(m, block), part(v, block)
        for k in range(w.size):
            kept = w[k] - decay * w[k]
            w[k] = kept - factor * mean[k] / (root * np.sqrt(square[k]) + epsilon)


_MOMENTS, _APPLY = Pass(_moments, REASSOCIATE), Pass(_apply)


def das_moments(
    value: np.ndarray,
    grad: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    g_scale: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
) -> tuple[float, float, float]:
    """Update m and v in place; (Σu², Σ m̂ u, Σ w²). See `reference.das_moments`."""
    _check("das_moments", value=value, grad=grad, m=m, v=v)
    sums = np.empty((-(-value.size // BLOCK), 3))
    m_scale, root = 1 / (1 - beta_1**step), 1 / math.sqrt(1 - beta_2**step)
    _MOMENTS(value.size, value, grad, m, v, g_scale, beta_1, beta_2, m_scale, root, epsilon, sums)
    u_squares, m_times_u, w_squares = sums.sum(axis=0)
    return float(u_squares), float(m_times_u), float(w_squares)


def das_apply(
    value: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
    decay: float = 0.0,
) -> None:
    """value = (1 - decay) value - rate u, in place. See `reference.das_apply`."""
    _check("das_apply", value=value, m=m, v=v)
    factor, root = rate / (1 - beta_1**step), 1 / math.sqrt(1 - beta_2**step)
    _APPLY(value.size, value, m, v, factor, root, epsilon, decay)


def _check(name: str, **arrays: np.ndarray) -> None:
    check_floats(name, **arrays)
    for argument, array in arrays.items():
        check_shape(name, argument, array, arrays["value"].shape)
        if array.ndim != 1 or not array.flags.c_contiguous:
            raise ValueError(f"{name}: {argument} must be one-dimensional and contiguous")
