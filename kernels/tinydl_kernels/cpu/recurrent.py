"""One time step of LSTM and GRU cells for NumPy arrays; definitions in `reference.recurrent`.

All gates of a unit are worked on together, in one loop: each pre-activation is read once, everything
that the backward pass needs is written once, and nothing else is.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from ._passes import BLOCK, Pass, check_floats, check_shape
from .elementary import sigmoid, tanh

# Arrays are flat. The gates of row r begin at r * 4 * units (LSTM) or r * 3 * units (GRU).


def _lstm(z, c_prev, gates, c, tanh_c, h, units):
    rows = c.size // units
    step = max(1, BLOCK // (4 * units))
    for block in prange((rows + step - 1) // step):
        for row in range(block * step, min((block + 1) * step, rows)):
            first = 4 * row * units
            for j in range(row * units, (row + 1) * units):
                i_at = first + j - row * units
                f_at, g_at, o_at = i_at + units, i_at + 2 * units, i_at + 3 * units
                i, f, o = sigmoid(z[i_at]), sigmoid(z[f_at]), sigmoid(z[o_at])
                g = tanh(z[g_at])
                state = f * c_prev[j] + i * g
                shown = tanh(state)
                gates[i_at], gates[f_at], gates[g_at], gates[o_at] = i, f, g, o
                c[j], tanh_c[j], h[j] = state, shown, o * shown


def _lstm_grad(grad_h, grad_c, gates, c_prev, tanh_c, dz, dc_prev, units):
    one = gates.dtype.type(1)
    rows = c_prev.size // units
    step = max(1, BLOCK // (4 * units))
    for block in prange((rows + step - 1) // step):
        for row in range(block * step, min((block + 1) * step, rows)):
            first = 4 * row * units
            for j in range(row * units, (row + 1) * units):
                i_at = first + j - row * units
                f_at, g_at, o_at = i_at + units, i_at + 2 * units, i_at + 3 * units
                i, f, g, o = gates[i_at], gates[f_at], gates[g_at], gates[o_at]
                shown = tanh_c[j]
                dc = grad_c[j] + grad_h[j] * o * (one - shown * shown)
                dz[i_at] = dc * g * i * (one - i)
                dz[f_at] = dc * c_prev[j] * f * (one - f)
                dz[g_at] = dc * i * (one - g * g)
                dz[o_at] = grad_h[j] * shown * o * (one - o)
                dc_prev[j] = dc * f


def _gru(zx, zh, h_prev, gates, h, units):
    one = zx.dtype.type(1)
    rows = h.size // units
    step = max(1, BLOCK // (3 * units))
    for block in prange((rows + step - 1) // step):
        for row in range(block * step, min((block + 1) * step, rows)):
            first = 3 * row * units
            for j in range(row * units, (row + 1) * units):
                z_at = first + j - row * units
                r_at, n_at = z_at + units, z_at + 2 * units
                z, r = sigmoid(zx[z_at] + zh[z_at]), sigmoid(zx[r_at] + zh[r_at])
                n = tanh(zx[n_at] + r * zh[n_at])
                gates[z_at], gates[r_at], gates[n_at] = z, r, n
                h[j] = z * h_prev[j] + (one - z) * n


def _gru_grad(grad_h, gates, zh, h_prev, dzx, dzh, dh_prev, units):
    one = gates.dtype.type(1)
    rows = h_prev.size // units
    step = max(1, BLOCK // (3 * units))
    for block in prange((rows + step - 1) // step):
        for row in range(block * step, min((block + 1) * step, rows)):
            first = 3 * row * units
            for j in range(row * units, (row + 1) * units):
                z_at = first + j - row * units
                r_at, n_at = z_at + units, z_at + 2 * units
                z, r, n = gates[z_at], gates[r_at], gates[n_at]
                dh = grad_h[j]
                d_n = dh * (one - z) * (one - n * n)
                d_z = dh * (h_prev[j] - n) * z * (one - z)
                d_r = d_n * zh[n_at] * r * (one - r)
                dzx[z_at], dzx[r_at], dzx[n_at] = d_z, d_r, d_n
                dzh[z_at], dzh[r_at], dzh[n_at] = d_z, d_r, d_n * r
                dh_prev[j] = dh * z


_LSTM, _LSTM_GRAD, _GRU, _GRU_GRAD = Pass(_lstm), Pass(_lstm_grad), Pass(_gru), Pass(_gru_grad)


def lstm_cell(
    z: np.ndarray, c_prev: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """gates (N, 4H), c, tanh_c, h (N, H). See `reference.lstm_cell`."""
    units = _check("lstm_cell", c_prev, 4, z=z)
    gates = np.empty(z.shape, z.dtype)
    c, tanh_c, h = (np.empty(c_prev.shape, z.dtype) for _ in range(3))
    flat = [array.ravel() for array in (z, c_prev, gates, c, tanh_c, h)]
    _LSTM(z.size, *flat, units)
    return gates, c, tanh_c, h


def lstm_cell_grad(
    grad_h: np.ndarray,
    grad_c: np.ndarray,
    gates: np.ndarray,
    c_prev: np.ndarray,
    tanh_c: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """dz (N, 4H), dc_prev (N, H). See `reference.lstm_cell_grad`."""
    states = {"grad_h": grad_h, "grad_c": grad_c, "tanh_c": tanh_c}
    units = _check("lstm_cell_grad", c_prev, 4, states, gates=gates)
    dz, dc_prev = np.empty(gates.shape, gates.dtype), np.empty(c_prev.shape, gates.dtype)
    arrays = grad_h, grad_c, gates, c_prev, tanh_c, dz, dc_prev
    _LSTM_GRAD(gates.size, *[array.ravel() for array in arrays], units)
    return dz, dc_prev


def gru_cell(zx: np.ndarray, zh: np.ndarray, h_prev: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """gates (N, 3H), h (N, H). See `reference.gru_cell`."""
    units = _check("gru_cell", h_prev, 3, zx=zx, zh=zh)
    gates, h = np.empty(zx.shape, zx.dtype), np.empty(h_prev.shape, zx.dtype)
    _GRU(zx.size, *[array.ravel() for array in (zx, zh, h_prev, gates, h)], units)
    return gates, h


def gru_cell_grad(
    grad_h: np.ndarray, gates: np.ndarray, zh: np.ndarray, h_prev: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dzx, dzh (N, 3H), dh_prev (N, H). See `reference.gru_cell_grad`."""
    units = _check("gru_cell_grad", h_prev, 3, {"grad_h": grad_h}, gates=gates, zh=zh)
    dzx, dzh = np.empty(gates.shape, gates.dtype), np.empty(gates.shape, gates.dtype)
    dh_prev = np.empty(h_prev.shape, gates.dtype)
    arrays = grad_h, gates, zh, h_prev, dzx, dzh, dh_prev
    _GRU_GRAD(gates.size, *[array.ravel() for array in arrays], units)
    return dzx, dzh, dh_prev


def _check(
    name: str,
    previous: np.ndarray,
    gate_count: int,
    states: dict[str, np.ndarray] | None = None,
    **wide: np.ndarray,
) -> int:
    """The number of units, after a check of all shapes: states (N, H), wide (N, gate_count * H)."""
    states = states or {}
    check_floats(name, **wide, previous=previous, **states)
    if previous.ndim != 2:
        raise ValueError(f"{name}: the previous state must have shape (N, H), not {previous.shape}")
    rows, units = previous.shape
    for argument, array in states.items():
        check_shape(name, argument, array, (rows, units))
    for argument, array in wide.items():
        check_shape(name, argument, array, (rows, gate_count * units))
    return max(units, 1)
