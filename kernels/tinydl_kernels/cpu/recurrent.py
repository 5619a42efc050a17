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
    _check("lstm_cell", c_prev, 4, z=z)
    gates = np.empty(z.shape, z.dtype)
    c, tanh_c, h = (np.empty(c_prev.shape, z.dtype) for _ in range(3))
    by_gate = _by_gate(4, z, c_prev, gates)
    _LSTM(z.size, *by_gate, c, tanh_c, h)
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
    _check("lstm_cell_grad", c_prev, 4, states, gates=gates)
    dz, dc_prev = np.empty(gates.shape, gates.dtype), np.empty(c_prev.shape, gates.dtype)
    by_gate = _by_gate(4, grad_h, grad_c, gates, c_prev, tanh_c, dz)
    _LSTM_GRAD(gates.size, *by_gate, dc_prev)
    return dz, dc_prev


def gru_cell(zx: np.ndarray, zh: np.ndarray, h_prev: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """gates (N, 3H), h (N, H). See `reference.gru_cell`."""
    _check("gru_cell", h_prev, 3, zx=zx, zh=zh)
    gates, h = np.empty(zx.shape, zx.dtype), np.empty(h_prev.shape, zx.dtype)
    _GRU(zx.size, *_by_gate(3, zx, zh, h_prev, gates), h)
    return gates, h


def gru_cell_grad(
    grad_h: np.ndarray, gates: np.ndarray, zh: np.ndarray, h_prev: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dzx, dzh (N, 3H), dh_prev (N, H). See `reference.gru_cell_grad`."""
    _check("gru_cell_grad", h_prev, 3, {"grad_h": grad_h}, gates=gates, zh=zh)
    dzx, dzh = np.empty(gates.shape, gates.dtype), np.empty(gates.shape, gates.dtype)
    dh_prev = np.empty(h_prev.shape, gates.dtype)
    _GRU_GRAD(gates.size, *_by_gate(3, grad_h, gates, zh, h_prev, dzx, dzh), dh_prev)
    return dzx, dzh, dh_prev


def _by_gate(gate_count: int, *arrays: np.ndarray) -> list[np.ndarray]:
    """Contiguous arrays; those of shape (N, gate_count * H) as (N, gate_count, H)."""
    rows, units = min(array.shape for array in arrays)
    return [
        np.ascontiguousarray(array)
        if array.shape[1] == units
        else np.ascontiguousarray(array).reshape(rows, gate_count, units)
        for array in arrays
    ]


def _check(
    name: str,
    previous: np.ndarray,
    gate_count: int,
    states: dict[str, np.ndarray] | None = None,
    **wide: np.ndarray,
) -> None:
    """Shapes: previous and states (N, H), wide (N, gate_count * H)."""
    states = states or {}
    check_floats(name, **wide, previous=previous, **states)
    if previous.ndim != 2:
        raise ValueError(f"{name}: the previous state must have shape (N, H), not {previous.shape}")
    rows, units = previous.shape
    for argument, array in states.items():
        check_shape(name, argument, array, (rows, units))
    for argument, array in wide.items():
        check_shape(name, argument, array, (rows, gate_count * units))
    if units == 0:
        raise ValueError(f"{name}: a cell needs at least one unit")
