"""All time steps of an LSTM or a GRU in one call, for NumPy arrays; definitions in `reference.sequences`.

Step t needs h_(t-1) U, a product with few rows: as many as the batch has samples. Done alone, each such
product packs U anew, and each step costs several calls from Python. Here U is packed once for all steps,
and what a step computes is still in the first-level cache when the next one needs it.

The chain of steps is strictly one after the other, but every sample has a chain of its own: threads
take blocks of samples through all steps. A number's sum runs over k in the same order in every block,
so results are equal to the last bit for any number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from ._jit import jit
from ._passes import Pass, check_floats, check_shape
from .matmul_packing import pack_b
from .matmul_tile import ADD, VECTORS, make_tile
from .recurrent_rows import gru_row, gru_row_grad, lstm_row, lstm_row_grad
from .simd import advance, lanes, pointer
from .target import vector_bytes, vector_registers

# Few rows at a time, but enough sums to keep both multipliers busy: see `matmul_tile`.
ROWS = 8 if vector_registers() == 32 else 6
_TILE = make_tile(ROWS, VECTORS, by_rows=True)


@jit(cache=False)
def _add_product(a, rows, inner, packed, columns, out):
    """out += a B: a (rows <= ROWS, inner) and out (rows, columns) by rows, B as `pack_b` leaves it."""
    width = VECTORS * lanes(a)
    for j in range(0, columns, width):
        panel, target, n = advance(packed, j * inner), advance(out, j), min(width, columns - j)
        _TILE(
            inner, a, inner, 1, panel, width, target, columns, rows, n,
            ADD, 1.0, 1.0, pointer(a, 0), 1.0,
        )  # fmt: skip


@jit(cache=False)
def _lstm_block(first, end, z, packed, h, c, tanh_c, skip):
    """Samples first ... end - 1 through all steps."""
    steps, samples, _, units = z.shape
    for t in range(steps):
        at = t * samples + first
        before, sums = advance(h, at * units), advance(z, at * 4 * units)
        _add_product(before, end - first, units, packed, 4 * units, sums)
        for n in range(first, end):
            now, later = (t * samples + n) * units, ((t + 1) * samples + n) * units
            lstm_row(
                units, advance(z, 4 * now), advance(c, now), advance(c, later),
                advance(tanh_c, now), advance(h, later),
            )  # fmt: skip
            if len(skip) > 0 and skip[t, n]:
                for j in range(units):
                    h[t + 1, n, j], c[t + 1, n, j] = h[t, n, j], c[t, n, j]


@jit(cache=False)
def _lstm_block_grad(first, end, dh, dc, packed, gates, c, tanh_c, grad_y, skip, dz):
    steps, samples, _, units = gates.shape
    for t in range(steps - 1, -1, -1):
        for n in range(first, end):
            if len(grad_y) > 0:
                for j in range(units):
                    dh[n, j] += grad_y[t, n, j]
            if len(skip) > 0 and skip[t, n]:
                for gate in range(4):
                    for j in range(units):
                        dz[t, n, gate, j] = 0
            else:
                now = (t * samples + n) * units
                lstm_row_grad(
                    units, advance(dh, n * units), advance(dc, n * units), advance(gates, 4 * now),
                    advance(c, now), advance(tanh_c, now), advance(dz, 4 * now),
                )  # fmt: skip
        at = t * samples + first
        source, target = advance(dz, at * 4 * units), advance(dh, first * units)
        _add_product(source, end - first, 4 * units, packed, units, target)


def _lstm(z, packed, h, c, tanh_c, skip):
    samples = z.shape[1]
    for block in prange((samples + ROWS - 1) // ROWS):
        first = block * ROWS
        _lstm_block(first, min(first + ROWS, samples), z, packed, h, c, tanh_c, skip)


def _lstm_grad(dh, dc, packed, gates, c, tanh_c, grad_y, skip, dz):
    samples = gates.shape[1]
    for block in prange((samples + ROWS - 1) // ROWS):
        first = block * ROWS
        end = min(first + ROWS, samples)
        _lstm_block_grad(first, end, dh, dc, packed, gates, c, tanh_c, grad_y, skip, dz)


@jit(cache=False)
def _gru_block(first, end, zx, packed, bias, zh, h, skip):
    steps, samples, _, units = zx.shape
    for t in range(steps):
        for n in range(first, end):
            for gate in range(3):
                for j in range(units):
                    zh[t, n, gate, j] = bias[gate, j]
        at = t * samples + first
        before, sums = advance(h, at * units), advance(zh, at * 3 * units)
        _add_product(before, end - first, units, packed, 3 * units, sums)
        for n in range(first, end):
            now, later = (t * samples + n) * units, ((t + 1) * samples + n) * units
            gru_row(
                units, zx.dtype.type(1), advance(zx, 3 * now), advance(zh, 3 * now),
                advance(h, now), advance(h, later),
            )  # fmt: skip
            if len(skip) > 0 and skip[t, n]:
                for j in range(units):
                    h[t + 1, n, j] = h[t, n, j]


@jit(cache=False)
def _gru_block_grad(first, end, dh, packed, gates, zh, h, grad_y, skip, dzx, dzh):
    steps, samples, _, units = gates.shape
    for t in range(steps - 1, -1, -1):
        for n in range(first, end):
            if len(grad_y) > 0:
                for j in range(units):
                    dh[n, j] += grad_y[t, n, j]
            if len(skip) > 0 and skip[t, n]:
                for gate in range(3):
                    for j in range(units):
                        dzx[t, n, gate, j] = dzh[t, n, gate, j] = 0
            else:
                now = (t * samples + n) * units
                gru_row_grad(
                    units, advance(dh, n * units), advance(gates, 3 * now), advance(zh, 3 * now),
                    advance(h, now), advance(dzx, 3 * now), advance(dzh, 3 * now),
                )  # fmt: skip
        at = t * samples + first
        source, target = advance(dzh, at * 3 * units), advance(dh, first * units)
        _add_product(source, end - first, 3 * units, packed, units, target)


def _gru(zx, packed, bias, zh, h, skip):
    samples = zx.shape[1]
    for block in prange((samples + ROWS - 1) // ROWS):
        first = block * ROWS
        _gru_block(first, min(first + ROWS, samples), zx, packed, bias, zh, h, skip)


def _gru_grad(dh, packed, gates, zh, h, grad_y, skip, dzx, dzh):
    samples = gates.shape[1]
    for block in prange((samples + ROWS - 1) // ROWS):
        first = block * ROWS
        end = min(first + ROWS, samples)
        _gru_block_grad(first, end, dh, packed, gates, zh, h, grad_y, skip, dzx, dzh)


_LSTM, _LSTM_GRAD, _GRU, _GRU_GRAD = Pass(_lstm), Pass(_lstm_grad), Pass(_gru), Pass(_gru_grad)


@jit
def _pack(b, b_row, b_col, inner, columns, packed):
    pack_b(b, b_row, b_col, inner, columns, packed)


def lstm_sequence(
    z: np.ndarray,
    u: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    skip: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """gates (T, N, 4H) in the memory of z, c (T+1, N, H), tanh_c (T, N, H), h (T+1, N, H).
    See `reference.lstm_sequence`."""
    name = "lstm_sequence"
    steps, samples, units = _shape(name, 4, "z", z, u, h0=h0, c0=c0)
    _check_overwritable(name, "z", z)
    gates = z.reshape(steps, samples, 4, units)
    c, h = np.empty((2, steps + 1, samples, units), z.dtype)
    tanh_c = np.empty((steps, samples, units), z.dtype)
    h[0], c[0] = h0, c0
    packed = _packed(np.ascontiguousarray(u))
    _LSTM(z.size, gates, packed, h, c, tanh_c, _skip(name, skip, steps, samples))
    return z, c, tanh_c, h


def lstm_sequence_grad(
    grad_h: np.ndarray,
    grad_c: np.ndarray,
    u: np.ndarray,
    gates: np.ndarray,
    c: np.ndarray,
    tanh_c: np.ndarray,
    *,
    grad_y: np.ndarray | None = None,
    skip: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dz (T, N, 4H), dh0, dc0 (N, H). See `reference.lstm_sequence_grad`."""
    name = "lstm_sequence_grad"
    steps, samples, units = _shape(name, 4, "gates", gates, u, grad_h=grad_h, grad_c=grad_c)
    grad_y = _grad_y(name, grad_y, (steps, samples, units), gates.dtype)
    check_floats(name, gates=gates, c=c, tanh_c=tanh_c, grad_y=grad_y)
    check_shape(name, "c", c, (steps + 1, samples, units))
    check_shape(name, "tanh_c", tanh_c, (steps, samples, units))
    gates, c, tanh_c, grad_y = map(np.ascontiguousarray, (gates, c, tanh_c, grad_y))
    dh, dc = np.array(grad_h, order="C"), np.array(grad_c, order="C")
    dz = np.empty((steps, samples, 4, units), gates.dtype)
    packed = _packed(np.ascontiguousarray(u).T)
    wide = gates.reshape(steps, samples, 4, units)
    skip = _skip(name, skip, steps, samples)
    _LSTM_GRAD(dz.size, dh, dc, packed, wide, c, tanh_c, grad_y, skip, dz)
    return dz.reshape(gates.shape), dh, dc


def gru_sequence(
    zx: np.ndarray,
    u: np.ndarray,
    bias: np.ndarray | None,
    h0: np.ndarray,
    skip: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """gates (T, N, 3H) in the memory of zx, zh (T, N, 3H), h (T+1, N, H).
    See `reference.gru_sequence`."""
    name = "gru_sequence"
    steps, samples, units = _shape(name, 3, "zx", zx, u, h0=h0)
    _check_overwritable(name, "zx", zx)
    if bias is None:
        bias = np.zeros(3 * units, zx.dtype)
    check_floats(name, zx=zx, bias=bias)
    check_shape(name, "bias", bias, (3 * units,))
    gates = zx.reshape(steps, samples, 3, units)
    zh = np.empty_like(gates)
    h = np.empty((steps + 1, samples, units), zx.dtype)
    h[0] = h0
    packed = _packed(np.ascontiguousarray(u))
    bias = np.ascontiguousarray(bias).reshape(3, units)
    _GRU(zx.size, gates, packed, bias, zh, h, _skip(name, skip, steps, samples))
    return zx, zh.reshape(zx.shape), h


def gru_sequence_grad(
    grad_h: np.ndarray,
    u: np.ndarray,
    gates: np.ndarray,
    zh: np.ndarray,
    h: np.ndarray,
    *,
    grad_y: np.ndarray | None = None,
    skip: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dzx, dzh (T, N, 3H), dh0 (N, H). See `reference.gru_sequence_grad`."""
    name = "gru_sequence_grad"
    steps, samples, units = _shape(name, 3, "gates", gates, u, grad_h=grad_h)
    grad_y = _grad_y(name, grad_y, (steps, samples, units), gates.dtype)
    check_floats(name, gates=gates, zh=zh, h=h, grad_y=grad_y)
    check_shape(name, "zh", zh, gates.shape)
    check_shape(name, "h", h, (steps + 1, samples, units))
    gates, zh, h, grad_y = map(np.ascontiguousarray, (gates, zh, h, grad_y))
    dh = np.array(grad_h, order="C")
    dzx, dzh = (np.empty((steps, samples, 3, units), gates.dtype) for _ in range(2))
    packed = _packed(np.ascontiguousarray(u).T)
    wide, wide_zh = gates.reshape(dzx.shape), zh.reshape(dzx.shape)
    skip = _skip(name, skip, steps, samples)
    _GRU_GRAD(dzx.size, dh, packed, wide, wide_zh, h, grad_y, skip, dzx, dzh)
    return dzx.reshape(gates.shape), dzh.reshape(gates.shape), dh


def _packed(b: np.ndarray) -> np.ndarray:
    """B (inner, columns), contiguous by rows or by columns, in panels for the tile."""
    inner, columns = b.shape
    lanes = vector_bytes() // b.itemsize
    width = VECTORS * lanes
    packed = np.empty((-(-columns // width) * inner + lanes) * width, b.dtype)
    row, column = (stride // b.itemsize for stride in b.strides)
    _pack(b.ravel(order="K"), row, column, inner, columns, packed)
    return packed


def _skip(name: str, skip: np.ndarray | None, steps: int, samples: int) -> np.ndarray:
    """(T, N), or without rows if nothing is skipped: one type of argument compiles once."""
    if skip is None:
        return np.empty((0, samples), np.bool_)
    if skip.dtype != np.bool_:
        raise TypeError(f"{name}: skip must be bool, not {skip.dtype}")
    check_shape(name, "skip", skip, (steps, samples))
    return np.ascontiguousarray(skip)


def _grad_y(
    name: str, grad_y: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """(T, N, H), or without rows if there is none, as in `_skip`."""
    if grad_y is None:
        return np.empty((0, *shape[1:]), dtype)
    check_shape(name, "grad_y", grad_y, shape)
    return grad_y


def _check_overwritable(name: str, argument: str, z: np.ndarray) -> None:
    if not z.flags.c_contiguous or not z.flags.writeable:
        raise ValueError(
            f"{name}: {argument} must be contiguous and writeable: the gates are written into it"
        )


def _shape(
    name: str, gates: int, argument: str, wide: np.ndarray, u: np.ndarray, **states: np.ndarray
) -> tuple[int, int, int]:
    """(T, N, H), after a check of wide (T, N, gates * H), u (H, gates * H) and states (N, H)."""
    check_floats(name, **{argument: wide}, u=u, **states)
    if u.ndim != 2 or u.shape[0] == 0 or u.shape[1] != gates * u.shape[0]:
        raise ValueError(f"{name}: u must have shape (H, {gates}H) with H > 0, not {u.shape}")
    units = len(u)
    if wide.ndim != 3 or wide.shape[2] != gates * units:
        raise ValueError(
            f"{name}: {argument} must have shape (T, N, {gates * units}), not {wide.shape}"
        )
    steps, samples, _ = wide.shape
    for state_name, state in states.items():
        check_shape(name, state_name, state, (samples, units))
    return steps, samples, units
