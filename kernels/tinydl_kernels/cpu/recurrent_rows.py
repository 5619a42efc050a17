"""One sample's step of an LSTM or a GRU, forward and backward: what `sequences` does between products.

A row holds the H units of one gate or state, and the gates of a sample lie one row after the other. Up
to a dozen rows take part in a step. The compiler does not know that they are not the same memory, so
before it works on whole vectors of a row it compares the ends of each with those of all others. Against
the exponential functions on the way forward that is little, and plain loops do. On the way back there
are two or three multiplications for each number, and the comparisons took most of the time: there the
vectors are written out.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from ._jit import jit
from .elementary import sigmoid, tanh
from .simd import I64, Emitter, advance, intrinsic


@jit(cache=False)
def lstm_row(units, z, c_prev, c, tanh_c, h):
    """z (4, H), the pre-activations i, f, g, o, become the gates."""
    z_f, z_g, z_o = advance(z, units), advance(z, 2 * units), advance(z, 3 * units)
    for j in range(units):
        i, f, o = sigmoid(z[j]), sigmoid(z_f[j]), sigmoid(z_o[j])
        g = tanh(z_g[j])
        state = f * c_prev[j] + i * g
        shown = tanh(state)
        z[j], z_f[j], z_g[j], z_o[j] = i, f, g, o
        c[j], tanh_c[j], h[j] = state, shown, o * shown


@jit(cache=False)
def gru_row(units, one, zx, zh, h_prev, h):
    """zx (3, H), what x brings to z, r, n, becomes the gates; `one` is 1 of their type."""
    zx_r, zx_n = advance(zx, units), advance(zx, 2 * units)
    zh_r, zh_n = advance(zh, units), advance(zh, 2 * units)
    for j in range(units):
        z, r = sigmoid(zx[j] + zh[j]), sigmoid(zx_r[j] + zh_r[j])
        n = tanh(zx_n[j] + r * zh_n[j])
        zx[j], zx_r[j], zx_n[j] = z, r, n
        h[j] = z * h_prev[j] + (one - z) * n


# --- backward -------------------------------------------------------------------------------------


class Lanes:
    """A vector register with Python's operators; each is one instruction, none are fused."""

    def __init__(self, e: Emitter, value: ir.Value) -> None:
        self.e, self.value = e, value

    def __add__(self, other: Lanes) -> Lanes:
        return Lanes(self.e, self.e.add(self.value, other.value))

    def __sub__(self, other: Lanes) -> Lanes:
        return Lanes(self.e, self.e.builder.fsub(self.value, other.value))

    def __mul__(self, other: Lanes) -> Lanes:
        return Lanes(self.e, self.e.mul(self.value, other.value))

    def __rsub__(self, number: float) -> Lanes:
        return Lanes(self.e, self.e.constant(number)) - self


def _for_each_vector(e: Emitter, units: ir.Value, step: Callable) -> None:
    """step(read, write) for the units, a vector of them at a time. `read(row, k)` gives that of the
    k-th of several rows; `write(value, row, k)` puts it there."""

    def at(j: ir.Value, mask: ir.Value | None) -> None:
        def address(row: ir.Value, k: int) -> ir.Value:
            return e.at(row, e.builder.add(j, e.builder.mul(units, I64(k))))

        def read(row: ir.Value, k: int = 0) -> Lanes:
            source = address(row, k)
            return Lanes(e, e.load(source) if mask is None else e.masked_load(source, mask))

        def write(value: Lanes, row: ir.Value, k: int = 0) -> None:
            if mask is None:
                e.store(value.value, address(row, k))
            else:
                e.masked_store(value.value, address(row, k), mask)

        step(read, write)

    def whole_vector(i: ir.Value, _: list) -> list:
        at(e.builder.mul(i, I64(e.lanes)), None)
        return []

    def rest_of_row(_: ir.Value, __: list) -> list:
        at(e.builder.sub(units, rest), e.mask(rest))
        return []

    rest = e.builder.srem(units, I64(e.lanes))
    e.loop(e.builder.sdiv(units, I64(e.lanes)), [], whole_vector)
    has_rest = e.builder.icmp_signed(">", rest, I64(0))
    e.loop(e.builder.zext(has_rest, I64), [], rest_of_row)


@intrinsic
def lstm_row_grad(
    e: Emitter,
    units: ir.Value,
    dh: ir.Value,
    dc: ir.Value,
    gates: ir.Value,
    c_prev: ir.Value,
    tanh_c: ir.Value,
    dz: ir.Value,
) -> None:
    """dc becomes that of the step before; dh becomes 0, to which the product with U's transpose is
    added."""

    def step(read: Callable, write: Callable) -> None:
        i, f, g, o = (read(gates, k) for k in range(4))
        shown, d_h = read(tanh_c), read(dh)
        d_c = read(dc) + d_h * o * (1 - shown * shown)
        write(d_c * g * i * (1 - i), dz, 0)
        write(d_c * read(c_prev) * f * (1 - f), dz, 1)
        write(d_c * i * (1 - g * g), dz, 2)
        write(d_h * shown * o * (1 - o), dz, 3)
        write(d_c * f, dc)
        write(Lanes(e, e.zero), dh)

    _for_each_vector(e, units, step)


@intrinsic
def gru_row_grad(
    e: Emitter,
    units: ir.Value,
    dh: ir.Value,
    gates: ir.Value,
    zh: ir.Value,
    h_prev: ir.Value,
    dzx: ir.Value,
    dzh: ir.Value,
) -> None:
    """dh becomes the direct part of that of the step before, to which the product with U's transpose
    is added."""

    def step(read: Callable, write: Callable) -> None:
        z, r, n = (read(gates, k) for k in range(3))
        d_h = read(dh)
        d_n = d_h * (1 - z) * (1 - n * n)
        d_z = d_h * (read(h_prev) - n) * z * (1 - z)
        d_r = d_n * read(zh, 2) * r * (1 - r)
        for k, (of_x, of_h) in enumerate(((d_z, d_z), (d_r, d_r), (d_n, d_n * r))):
            write(of_x, dzx, k)
            write(of_h, dzh, k)
        write(d_h * z, dh)

    _for_each_vector(e, units, step)
