"""All time steps of an LSTM or a GRU for device arrays: a product and a cell for each; see `reference.sequences`."""

from __future__ import annotations

from typing import Any

from . import device
from .linear import matmul
from .recurrent import gru_cell, gru_cell_grad, lstm_cell, lstm_cell_grad


def lstm_sequence(z: Any, u: Any, h0: Any, c0: Any, skip: Any = None) -> tuple[Any, Any, Any, Any]:
    """See `reference.lstm_sequence`."""
    steps, samples, _ = z.shape
    empty, units = device.namespace().empty, len(u)
    h, c = (empty((steps + 1, samples, units), z.dtype) for _ in range(2))
    tanh_c = empty((steps, samples, units), z.dtype)
    h[0], c[0] = h0, c0
    for t in range(steps):
        matmul(h[t], u, z[t], beta=1.0)
        z[t], c[t + 1], tanh_c[t], h[t + 1] = lstm_cell(z[t], c[t])
        if skip is not None:
            _stay(skip[t], (h[t + 1], h[t]), (c[t + 1], c[t]))
    return z, c, tanh_c, h


def lstm_sequence_grad(
    grad_h: Any,
    grad_c: Any,
    u: Any,
    gates: Any,
    c: Any,
    tanh_c: Any,
    *,
    grad_y: Any = None,
    skip: Any = None,
) -> tuple[Any, Any, Any]:
    """See `reference.lstm_sequence_grad`."""
    dz = device.namespace().empty(gates.shape, gates.dtype)
    dh, dc = grad_h, grad_c
    for t in reversed(range(len(dz))):
        if grad_y is not None:
            dh = dh + grad_y[t]
        dz[t], dc_before = lstm_cell_grad(dh, dc, gates[t], c[t], tanh_c[t])
        dh_before = matmul(dz[t], u.T)
        if skip is not None:
            _stay(skip[t], (dz[t], 0), (dh_before, dh), (dc_before, dc))
        dh, dc = dh_before, dc_before
    return dz, dh, dc


def gru_sequence(zx: Any, u: Any, bias: Any, h0: Any, skip: Any = None) -> tuple[Any, Any, Any]:
    """See `reference.gru_sequence`."""
    steps, samples, columns = zx.shape
    empty = device.namespace().empty
    zh = empty((steps, samples, columns), zx.dtype)
    h = empty((steps + 1, samples, len(u)), zx.dtype)
    h[0] = h0
    for t in range(steps):
        matmul(h[t], u, zh[t], bias=bias)
        zx[t], h[t + 1] = gru_cell(zx[t], zh[t], h[t])
        if skip is not None:
            _stay(skip[t], (h[t + 1], h[t]))
    return zx, zh, h


def gru_sequence_grad(
    grad_h: Any, u: Any, gates: Any, zh: Any, h: Any, *, grad_y: Any = None, skip: Any = None
) -> tuple[Any, Any, Any]:
    """See `reference.gru_sequence_grad`."""
    dzx, dzh = (device.namespace().empty(gates.shape, gates.dtype) for _ in range(2))
    dh = grad_h
    for t in reversed(range(len(dzx))):
        if grad_y is not None:
            dh = dh + grad_y[t]
        dzx[t], dzh[t], direct = gru_cell_grad(dh, gates[t], zh[t], h[t])
        dh_before = direct + matmul(dzh[t], u.T)
        if skip is not None:
            _stay(skip[t], (dzx[t], 0), (dzh[t], 0), (dh_before, dh))
        dh = dh_before
    return dzx, dzh, dh


def _stay(skip: Any, *pairs: tuple[Any, Any]) -> None:
    """For each (new, old): the rows of `new` whose step is passed over become those of `old`."""
    where = device.namespace().where
    for new, old in pairs:
        new[...] = where(skip[:, None], old, new)
