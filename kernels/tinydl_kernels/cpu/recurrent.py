"""One time step of LSTM and GRU cells for NumPy arrays; definitions in `reference.recurrent`.

All gates of a unit are worked on together, in one loop: each pre-activation is read once, everything
that the backward pass needs is written once, and nothing else is.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from ._jit import jit
from ._passes import BLOCK, Pass, check_floats, check_shape
from .elementary import sigmoid, tanh

# Pre-activations, gates and their gradients arrive as (N, 4, H) or (N, 3, H), the states as (N, H).


@jit(cache=False)
def _rows_per_block(gates):
    return max(1, BLOCK // (gates.shape[1] * gates.shape[2]))


def _lstm(z, c_prev, gates, c, tanh_c, h):
    rows, units = c_prev.shape
    step = _rows_per_block(gates)
    for block in prange((rows + step - 1) // step):
        for n in range(block * step, min((block + 1) * step, rows)):
            for j in range(units):
                i, f, o = sigmoid(z[n, 0, j]), sigmoid(z[n, 1, j]), sigmoid(z[n, 3, j])
                g = tanh(z[n, 2, j])
                state = f * c_prev[n, j] + i * g
                shown = tanh(state)
                gates[n, 0, j], gates[n, 1, j], gates[n, 2, j], gates[n, 3, j] = i, f, g, o
                c[n, j], tanh_c[n, j], h[n, j] = state, shown, o * shown


def _lstm_grad(grad_h, grad_c, gates, c_prev, tanh_c, dz, dc_prev):
    one = gates.dtype.type(1)
    rows, units = c_prev.shape
    step = _rows_per_block(gates)
    for block in prange((rows + step - 1) // step):
        for n in range(block * step, min((block + 1) * step, rows)):
            for j in range(units):
                i, f, g, o = gates[n, 0, j], gates[n, 1, j], gates[n, 2, j], gates[n, 3, j]
                shown = tanh_c[n, j]
                dh = grad_h[n, j]
                dc = grad_c[n, j] + dh * o * (one - shown * shown)
                dz[n, 0, j] = dc * g * i * (one - i)
                dz[n, 1, j] = dc * c_prev[n, j] * f * (one - f)
                dz[n, 2, j] = dc * i * (one - g * g)
                dz[n, 3, j] = dh * shown * o * (one - o)
                dc_prev[n, j] = dc * f


def _gru(zx, zh, h_prev, gates, h):
    one = zx.dtype.type(1)
    rows, units = h_prev.shape
    step = _rows_per_block(gates)
    for block in prange((rows + step - 1) // step):
        for row in range(block * step, min((block + 1) * step, rows)):
            for j in range(units):
                z = sigmoid(zx[row, 0, j] + zh[row, 0, j])
                r = sigmoid(zx[row, 1, j] + zh[row, 1, j])
                n = tanh(zx[row, 2, j] + r * zh[row, 2, j])
                gates[row, 0, j], gates[row, 1, j], gates[row, 2, j] = z, r, n
                h[row, j] = z * h_prev[row, j] + (one - z) * n


def _gru_grad(grad_h, gates, zh, h_prev, dzx, dzh, dh_prev):
    one = gates.dtype.type(1)
    rows, units = h_prev.shape
    step = _rows_per_block(gates)
    for block in prange((rows + step - 1) // step):
        for row in range(block * step, min((block + 1) * step, rows)):
            for j in range(units):
                z, r, n = gates[row, 0, j], gates[row, 1, j], gates[row, 2, j]
                dh = grad_h[row, j]
                d_n = dh * (one - z) * (one - n * n)
                d_z = dh * (h_prev[row, j] - n) * z * (one - z)
                d_r = d_n * zh[row, 2, j] * r * (one - r)
                dzx[row, 0, j], dzx[row, 1, j], dzx[row, 2, j] = d_z, d_r, d_n
                dzh[row, 0, j], dzh[row, 1, j], dzh[row, 2, j] = d_z, d_r, d_n * r
                dh_prev[row, j] = dh * z


_LSTM, _LSTM_GRAD, _GRU, _GRU_GRAD = Pass(_lstm), Pass(_lstm_grad), Pass(_gru), Pass(_gru_grad)


def lstm_cell(
    z: np.ndarray, c_prev: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """gates (N, 4H), c, tanh_c, h (N, H). See `reference.lstm_cell`."""
    rows, units = _shape("lstm_cell", {"c_prev": c_prev}, 4, {"z": z})
    gates = np.empty((rows, 4, units), z.dtype)
    c, tanh_c, h = np.empty((3, rows, units), z.dtype)
    z = np.ascontiguousarray(z).reshape(rows, 4, units)
    _LSTM(z.size, z, np.ascontiguousarray(c_prev), gates, c, tanh_c, h)
    return gates.reshape(rows, 4 * units), c, tanh_c, h


def lstm_cell_grad(
    grad_h: np.ndarray,
    grad_c: np.ndarray,
    gates: np.ndarray,
    c_prev: np.ndarray,
    tanh_c: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """dz (N, 4H), dc_prev (N, H). See `reference.lstm_cell_grad`."""
    states = {"c_prev": c_prev, "grad_h": grad_h, "grad_c": grad_c, "tanh_c": tanh_c}
    rows, units = _shape("lstm_cell_grad", states, 4, {"gates": gates})
    dz, dc_prev = np.empty((rows, 4, units), gates.dtype), np.empty((rows, units), gates.dtype)
    gates = np.ascontiguousarray(gates).reshape(rows, 4, units)
    c_prev, grad_h, grad_c, tanh_c = map(np.ascontiguousarray, states.values())
    _LSTM_GRAD(gates.size, grad_h, grad_c, gates, c_prev, tanh_c, dz, dc_prev)
    return dz.reshape(rows, 4 * units), dc_prev


def gru_cell(zx: np.ndarray, zh: np.ndarray, h_prev: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """gates (N, 3H), h (N, H). See `reference.gru_cell`."""
    rows, units = _shape("gru_cell", {"h_prev": h_prev}, 3, {"zx": zx, "zh": zh})
    gates, h = np.empty((rows, 3, units), zx.dtype), np.empty((rows, units), zx.dtype)
    zx, zh = (np.ascontiguousarray(z).reshape(rows, 3, units) for z in (zx, zh))
    _GRU(zx.size, zx, zh, np.ascontiguousarray(h_prev), gates, h)
    return gates.reshape(rows, 3 * units), h


def gru_cell_grad(
    grad_h: np.ndarray, gates: np.ndarray, zh: np.ndarray, h_prev: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dzx, dzh (N, 3H), dh_prev (N, H). See `reference.gru_cell_grad`."""
    states = {"h_prev": h_prev, "grad_h": grad_h}
    rows, units = _shape("gru_cell_grad", states, 3, {"gates": gates, "zh": zh})
    dzx, dzh = np.empty((2, rows, 3, units), gates.dtype)
    dh_prev = np.empty((rows, units), gates.dtype)
    gates, zh = (np.ascontiguousarray(array).reshape(rows, 3, units) for array in (gates, zh))
    h_prev, grad_h = map(np.ascontiguousarray, states.values())
    _GRU_GRAD(gates.size, grad_h, gates, zh, h_prev, dzx, dzh, dh_prev)
    return dzx.reshape(rows, 3 * units), dzh.reshape(rows, 3 * units), dh_prev


def _shape(
    name: str, states: dict[str, np.ndarray], gates: int, wide: dict[str, np.ndarray]
) -> tuple[int, int]:
    """(N, H), after a check of all arrays: states (N, H), wide (N, gates * H)."""
    check_floats(name, **wide, **states)
    (argument, previous), *_ = states.items()
    if previous.ndim != 2 or previous.shape[1] == 0:
        raise ValueError(
            f"{name}: {argument} must have shape (N, H) with H > 0, not {previous.shape}"
        )
    rows, units = previous.shape
    for argument, array in states.items():
        check_shape(name, argument, array, (rows, units))
    for argument, array in wide.items():
        check_shape(name, argument, array, (rows, gates * units))
    return rows, units
