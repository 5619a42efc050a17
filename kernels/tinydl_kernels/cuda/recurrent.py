"""One time step of LSTM and GRU cells for device arrays; `reference.recurrent` holds the equations.

One thread computes one unit of one sample: all its gates, which lie H elements apart.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from . import device
from .activations import value_of
from .arrays import check_floats, name_of, plain
from .device import cuda, kernel
from .instructions import pointer
from .operands import divisor
from .passes import THREADS, divide, each


def lstm_cell(z: Any, c_prev: Any) -> tuple[Any, Any, Any, Any]:
    """See `reference.lstm_cell`."""
    check_floats("lstm_cell", z=z, c_prev=c_prev)
    _check("lstm_cell", z, c_prev, 4)
    gates, c, tanh_c, h = _empty(z.dtype, z.shape, *[c_prev.shape] * 3)
    _launch(lstm_kernel, c_prev, plain(z), plain(c_prev), gates, c, tanh_c, h)
    return gates, c, tanh_c, h


@functools.cache
def lstm_kernel(dtype: str) -> Any:
    sigmoid = value_of("sigmoid", dtype)

    @kernel(THREADS)
    def lstm(elements, z, c_prev, gates, c, tanh_c, h, units, by, like):
        k = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if k >= elements:
            return
        n, j = divide(k, by)
        start, before, after = n * 4 * units + j, pointer(z, like), pointer(gates, like)
        i = sigmoid(before[start], like)
        f = sigmoid(before[start + units], like)
        g = math.tanh(before[start + 2 * units])
        o = sigmoid(before[start + 3 * units], like)
        after[start], after[start + units] = i, f
        after[start + 2 * units], after[start + 3 * units] = g, o
        cell = f * pointer(c_prev, like)[k] + i * g
        squashed = math.tanh(cell)
        pointer(c, like)[k], pointer(tanh_c, like)[k] = cell, squashed
        pointer(h, like)[k] = o * squashed

    return lstm


def lstm_cell_grad(
    grad_h: Any, grad_c: Any, gates: Any, c_prev: Any, tanh_c: Any
) -> tuple[Any, Any]:
    """See `reference.lstm_cell_grad`."""
    name = "lstm_cell_grad"
    given = {"gates": gates, "grad_h": grad_h, "grad_c": grad_c, "c_prev": c_prev, "tanh_c": tanh_c}
    check_floats(name, **given)
    for x in (grad_h, grad_c, tanh_c, c_prev):
        _check(name, gates, x, 4)
    dz, dc_prev = _empty(gates.dtype, gates.shape, c_prev.shape)
    inputs = map(plain, (grad_h, grad_c, gates, c_prev, tanh_c))
    _launch(lstm_grad_kernel, c_prev, *inputs, dz, dc_prev)
    return dz, dc_prev


@functools.cache
def lstm_grad_kernel(dtype: str) -> Any:
    @kernel(THREADS)
    def lstm_grad(elements, grad_h, grad_c, gates, c_prev, tanh_c, dz, dc_prev, units, by, one):
        k = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if k >= elements:
            return
        n, j = divide(k, by)
        start, active, result = n * 4 * units + j, pointer(gates, one), pointer(dz, one)
        i, f = active[start], active[start + units]
        g, o = active[start + 2 * units], active[start + 3 * units]
        dh, squashed = pointer(grad_h, one)[k], pointer(tanh_c, one)[k]
        dc = pointer(grad_c, one)[k] + dh * o * (one - squashed * squashed)
        result[start] = dc * g * i * (one - i)
        result[start + units] = dc * pointer(c_prev, one)[k] * f * (one - f)
        result[start + 2 * units] = dc * i * (one - g * g)
        result[start + 3 * units] = dh * squashed * o * (one - o)
        pointer(dc_prev, one)[k] = dc * f

    return lstm_grad


def gru_cell(zx: Any, zh: Any, h_prev: Any) -> tuple[Any, Any]:
    """See `reference.gru_cell`."""
    check_floats("gru_cell", zx=zx, zh=zh, h_prev=h_prev)
    _check("gru_cell", zx, h_prev, 3)
    _check("gru_cell", zh, h_prev, 3)
    gates, h = _empty(zx.dtype, zx.shape, h_prev.shape)
    _launch(gru_kernel, h_prev, plain(zx), plain(zh), plain(h_prev), gates, h)
    return gates, h


@functools.cache
def gru_kernel(dtype: str) -> Any:
    sigmoid = value_of("sigmoid", dtype)

    @kernel(THREADS)
    def gru(elements, zx, zh, h_prev, gates, h, units, by, one):
        k = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if k >= elements:
            return
        row, j = divide(k, by)
        start = row * 3 * units + j
        of_x, of_h, after = pointer(zx, one), pointer(zh, one), pointer(gates, one)
        z = sigmoid(of_x[start] + of_h[start], one)
        r = sigmoid(of_x[start + units] + of_h[start + units], one)
        n = math.tanh(of_x[start + 2 * units] + r * of_h[start + 2 * units])
        after[start], after[start + units], after[start + 2 * units] = z, r, n
        pointer(h, one)[k] = z * pointer(h_prev, one)[k] + (one - z) * n

    return gru


def gru_cell_grad(grad_h: Any, gates: Any, zh: Any, h_prev: Any) -> tuple[Any, Any, Any]:
    """See `reference.gru_cell_grad`."""
    name = "gru_cell_grad"
    check_floats(name, gates=gates, zh=zh, grad_h=grad_h, h_prev=h_prev)
    _check(name, gates, h_prev, 3)
    _check(name, zh, grad_h, 3)
    dzx, dzh, dh_prev = _empty(gates.dtype, gates.shape, gates.shape, h_prev.shape)
    inputs = map(plain, (grad_h, gates, zh, h_prev))
    _launch(gru_grad_kernel, h_prev, *inputs, dzx, dzh, dh_prev)
    return dzx, dzh, dh_prev


@functools.cache
def gru_grad_kernel(dtype: str) -> Any:
    @kernel(THREADS)
    def gru_grad(elements, grad_h, gates, zh, h_prev, dzx, dzh, dh_prev, units, by, one):
        k = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if k >= elements:
            return
        row, j = divide(k, by)
        start, active = row * 3 * units + j, pointer(gates, one)
        z, r, n = active[start], active[start + units], active[start + 2 * units]
        dh = pointer(grad_h, one)[k]
        dn = dh * (one - z) * (one - n * n)
        dz = dh * (pointer(h_prev, one)[k] - n) * z * (one - z)
        dr = dn * pointer(zh, one)[start + 2 * units] * r * (one - r)
        by_x, by_h = pointer(dzx, one), pointer(dzh, one)
        by_x[start], by_x[start + units], by_x[start + 2 * units] = dz, dr, dn
        by_h[start], by_h[start + units], by_h[start + 2 * units] = dz, dr, dn * r
        pointer(dh_prev, one)[k] = dh * z

    return gru_grad


def _check(name: str, gates: Any, state: Any, blocks: int) -> None:
    samples, units = state.shape
    if gates.shape != (samples, blocks * units):
        raise ValueError(
            f"{name}: states of shape {state.shape} need gates of shape {(samples, blocks * units)}, "
            f"got {gates.shape}"
        )


def _empty(dtype: Any, *shapes: tuple[int, ...]) -> list:
    return [device.namespace().empty(shape, dtype) for shape in shapes]


def _launch(make: Any, state: Any, *arrays: Any) -> None:
    units = state.shape[1]
    each(make(name_of(state.dtype)), state.size, arrays, units, divisor(units), state.dtype.type(1))
