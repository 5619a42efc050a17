"""The passes of DAS over all layers at once, for NumPy arrays; definitions in `reference.das`.

Each goes over the pieces of layers, on threads where there is enough to do. What is summed of a piece depends on the
piece alone, and sums of pieces are added in their order: results are equal to the last bit for any number of threads.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from ..reference.das import SMALLEST_UNIT
from ._jit import REASSOCIATE, jit
from ._passes import Pass, check_floats, check_shape


def _norms(grad, pieces, sums):
    for p in prange(pieces.shape[0]):
        g = grad[pieces[p, 1] : pieces[p, 2]]
        squares = 0.0
        for k in range(g.size):
            squares += np.float64(g[k]) * np.float64(g[k])
        sums[p, 0] = squares


def _sizes(value, grad, pieces, sums):
    for p in prange(pieces.shape[0]):
        w, g = value[pieces[p, 1] : pieces[p, 2]], grad[pieces[p, 1] : pieces[p, 2]]
        squares, products = 0.0, 0.0
        for k in range(w.size):
            squares += np.float64(w[k]) * np.float64(w[k])
            products += np.float64(w[k]) * np.float64(g[k])
        sums[p, 0] = squares
        sums[p, 1] = products


def _moments(
    value,
    grad,
    m,
    v,
    pieces,
    g_scale,
    beta_1,
    beta_2,
    m_scale,
    root,
    before,
    old_root,
    epsilon,
    sums,
):
    """Update m and v; each piece's Σ u², Σ m̂ u, Σ w² and Σ s g u_before go into its row of sums, in float64.

    before and old_root are what m_scale and root were a step ago; before is 0 in the first step.
    """
    real = value.dtype.type
    new_1, new_2 = real(1 - beta_1), real(1 - beta_2)
    beta_1, beta_2, epsilon = real(beta_1), real(beta_2), real(epsilon)
    m_scale, root, before, old_root = real(m_scale), real(root), real(before), real(old_root)
    for p in prange(pieces.shape[0]):
        start, stop = pieces[p, 1], pieces[p, 2]
        w, g_all, m_all, v_all = value[start:stop], grad[start:stop], m[start:stop], v[start:stop]
        scale = real(g_scale[pieces[p, 0]])
        u_squares, m_times_u, w_squares, g_times_before = 0.0, 0.0, 0.0, 0.0
        for k in range(w.size):
            g = scale * g_all[k]
            first, second = m_all[k], v_all[k]
            u = before * first / (old_root * np.sqrt(second) + epsilon)
            g_times_before += np.float64(g) * np.float64(u)
            first = beta_1 * first + new_1 * g
            second = beta_2 * second + new_2 * g * g
            m_all[k] = first
            v_all[k] = second
            m_hat = m_scale * first
            u = m_hat / (root * np.sqrt(second) + epsilon)
            u_squares += np.float64(u) * np.float64(u)
            m_times_u += np.float64(m_hat) * np.float64(u)
            w_squares += np.float64(w[k]) * np.float64(w[k])
        sums[p, 0] = u_squares
        sums[p, 1] = m_times_u
        sums[p, 2] = w_squares
        sums[p, 3] = g_times_before


def _apply(value, average, m, v, pieces, factors, decays, share, root, epsilon):
    """value -= decay * value + factor * m / (root * sqrt(v) + epsilon), and the average follows."""
    real = value.dtype.type
    share, root, epsilon = real(share), real(root), real(epsilon)
    for p in prange(pieces.shape[0]):
        start, stop = pieces[p, 1], pieces[p, 2]
        w, x, m_all, v_all = value[start:stop], average[start:stop], m[start:stop], v[start:stop]
        factor, decay = real(factors[pieces[p, 0]]), real(decays[pieces[p, 0]])
        for k in range(w.size):
            new = w[k] - decay * w[k] - factor * m_all[k] / (root * np.sqrt(v_all[k]) + epsilon)
            w[k] = new
            x[k] += share * (new - x[k])


@jit
def _collect(pieces, of_pieces, sums):
    """Add the rows of pieces to those of their layers."""
    for p in range(pieces.shape[0]):
        for k in range(sums.shape[1]):
            sums[pieces[p, 0], k] += of_pieces[p, k]


_NORMS, _SIZES, _MOMENTS = (Pass(f, REASSOCIATE) for f in (_norms, _sizes, _moments))
_APPLY = Pass(_apply)


def das_norms(grad: np.ndarray, pieces: np.ndarray, layers: int) -> np.ndarray:
    """Σ grad² of each layer. See `reference.das_norms`."""
    _check("das_norms", pieces, grad=grad)
    of_pieces, sums = np.empty((len(pieces), 1)), np.zeros((layers, 1))
    _check_layers("das_norms", pieces, layers)
    _NORMS(grad.size, grad, pieces, of_pieces)
    _collect(pieces, of_pieces, sums)
    return sums[:, 0]


def das_sizes(value: np.ndarray, grad: np.ndarray, pieces: np.ndarray, layers: int) -> np.ndarray:
    """Σ value² and Σ value grad of each layer. See `reference.das_sizes`."""
    _check("das_sizes", pieces, value=value, grad=grad)
    _check_layers("das_sizes", pieces, layers)
    of_pieces, sums = np.empty((len(pieces), 2)), np.zeros((layers, 2))
    _SIZES(value.size, value, grad, pieces, of_pieces)
    _collect(pieces, of_pieces, sums)
    return sums


@jit
def das_units(squares, sizes, state, kappa, beta_2, step):
    """See `reference.das_units`."""
    scales = np.zeros(len(squares))
    known = 1 - beta_2 ** (step - 1)
    for layer in range(len(squares)):
        size, R, unit = math.sqrt(squares[layer] / sizes[layer]), state[0, layer], state[1, layer]
        share = 1.0
        if step > 1 and R > 0 and size > kappa * math.sqrt(R / known):
            share = kappa * math.sqrt(R / known) / size
        state[0, layer] = beta_2 * R + (1 - beta_2) * (share * size) ** 2
        if unit == 0 and size > 0:
            unit = state[1, layer] = max(size, SMALLEST_UNIT)
        if unit > 0:
            scales[layer] = share / unit
    return scales


def das_moments(
    value: np.ndarray,
    grad: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    pieces: np.ndarray,
    g_scale: np.ndarray,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
) -> np.ndarray:
    """Update m and v in place; the sums of each layer, (layers, 4). See `reference.das_moments`."""
    _check("das_moments", pieces, value=value, grad=grad, m=m, v=v)
    _check_layers("das_moments", pieces, len(g_scale))
    of_pieces = np.empty((len(pieces), 4))
    m_scale, root = _corrections(beta_1, beta_2, step)
    before, old_root = _corrections(beta_1, beta_2, step - 1) if step > 1 else (0.0, 1.0)
    _MOMENTS(
        value.size,
        value,
        grad,
        m,
        v,
        pieces,
        g_scale,
        beta_1,
        beta_2,
        m_scale,
        root,
        before,
        old_root,
        epsilon,
        of_pieces,
    )
    sums = np.zeros((len(g_scale), 4))
    _collect(pieces, of_pieces, sums)
    return sums


@jit
def das_slopes(sums, sizes, floors, state, relative):
    """See `reference.das_slopes`."""
    slope, after = 0.0, 0.0
    for layer in range(len(sizes)):
        unit, scale = state[1, layer], 1.0
        after += unit * state[2, layer] * sums[layer, 3]
        if relative:
            size = max(math.sqrt(sums[layer, 2] / sizes[layer]), floors[layer])
            scale = math.sqrt(size) / max(1.0, math.sqrt(sums[layer, 0] / sizes[layer]))
        slope += unit * scale * sums[layer, 1]
        state[2, layer] = scale
    return slope, after


def das_apply(
    value: np.ndarray,
    average: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    pieces: np.ndarray,
    rates: np.ndarray,
    decays: np.ndarray,
    share: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
) -> None:
    """The step and the average, in place. See `reference.das_apply`."""
    _check("das_apply", pieces, value=value, average=average, m=m, v=v)
    _check_layers("das_apply", pieces, min(len(rates), len(decays)))
    m_scale, root = _corrections(beta_1, beta_2, step)
    _APPLY(value.size, value, average, m, v, pieces, rates * m_scale, decays, share, root, epsilon)


def _corrections(beta_1: float, beta_2: float, step: int) -> tuple[float, float]:
    """Factors that make averages unbiased: of m, and of √v."""
    return 1 / (1 - beta_1**step), 1 / math.sqrt(1 - beta_2**step)


def _check(name: str, pieces: np.ndarray, **arrays: np.ndarray) -> None:
    check_floats(name, **arrays)
    first = next(iter(arrays.values()))
    for argument, array in arrays.items():
        check_shape(name, argument, array, first.shape)
        if array.ndim != 1 or not array.flags.c_contiguous:
            raise ValueError(f"{name}: {argument} must be one-dimensional and contiguous")
    whole = pieces.dtype == np.int64 and pieces.ndim == 2 and pieces.shape[1] == 3
    if not (whole and pieces.flags.c_contiguous):
        raise ValueError(f"{name}: pieces must be rows of three int64: (layer, start, stop)")
    # Rows ascend, so that the first and the last one tell; looking at all would take longer than the pass.
    if len(pieces) and (pieces[0, 1] < 0 or pieces[-1, 2] > first.size):
        raise ValueError(f"{name}: pieces must lie in [0, {first.size}], the size of the arrays")


def _check_layers(name: str, pieces: np.ndarray, layers: int) -> None:
    if len(pieces) and not (pieces[0, 0] >= 0 and pieces[-1, 0] < layers):
        raise ValueError(f"{name}: pieces name layers outside 0 ... {layers - 1}")
