"""Each instruction of the emitter does what its name says, for both element types."""

from __future__ import annotations

import numpy as np
import pytest

from tinydl_kernels.cpu import describe_target, simd, warmup
from tinydl_kernels.cpu._jit import jit
from tinydl_kernels.cpu.matmul_packing import transposed_block
from tinydl_kernels.cpu.target import vector_bytes

pytestmark = pytest.mark.parametrize("dtype", ["float32", "float64"])


def lanes_of(dtype: str) -> int:
    return vector_bytes() // np.dtype(dtype).itemsize


@simd.intrinsic
def _arithmetic(e, x, y, n, out):
    """Rows of `out`: x y + 3, x + y, x y, sqrt(|x|), x where x > y else y, all in n lanes only."""
    mask = e.mask(n)
    a, b = e.masked_load(x, mask), e.masked_load(y, mask)
    larger = e.select(e.builder.fcmp_ordered(">", a, b), a, b)
    root = e.call("sqrt", e.call("fabs", a))
    results = [e.fma(a, b, e.constant(3)), e.add(a, b), e.mul(a, b), root, larger]
    for row, result in enumerate(results):
        e.masked_store(result, e.at(out, row * e.lanes), mask)


@jit
def arithmetic(x, y, n, out):
    _arithmetic(x, y, n, out)


def test_arithmetic_on_the_first_lanes(dtype):
    lanes = lanes_of(dtype)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, lanes)).astype(dtype)
    for n in (-1, 0, 1, lanes - 1, lanes, lanes + 1):
        out = np.full((5, lanes), np.nan, dtype)
        arithmetic(x, y, n, out)
        expected = np.full((5, lanes), np.nan)
        used = slice(0, max(n, 0))
        rows = (x * y + 3, x + y, x * y, np.sqrt(abs(x)), np.maximum(x, y))
        for row, values in zip(expected, rows, strict=True):
            row[used] = values[used]
        np.testing.assert_allclose(out, expected, rtol=4 * np.finfo(dtype).eps)


@simd.intrinsic(returns="element")
def _sum_of_products(e, count, x, y):
    def body(i, carried):
        at = e.builder.mul(i, simd.I64(e.lanes))
        e.prefetch(e.at(x, at))
        return [e.fma(e.load(e.at(x, at)), e.load(e.at(y, at)), carried[0])]

    (total,) = e.loop(count, [e.zero], body)
    return e.sum_lanes(total)


@jit
def sum_of_products(count, x, y):
    return _sum_of_products(count, x, y)


def test_loops_carry_values_and_may_run_no_round(dtype):
    x = np.arange(8 * lanes_of(dtype), dtype=dtype)
    for rounds in (-3, 0, 1, 8):
        n = max(rounds, 0) * lanes_of(dtype)
        assert sum_of_products(rounds, x, x) == (x[:n].astype(float) ** 2).sum()


@simd.intrinsic
def _broadcast(e, number, x, out):
    e.store(e.splat(number), out)
    e.store(e.splat(e.load_scalar(e.at(x, 1))), e.at(out, e.lanes))
    values = e.load(x)
    e.store(e.shuffle(values, values, list(range(e.lanes))[::-1]), e.at(out, 2 * e.lanes))


@jit
def broadcast(number, x, out):
    _broadcast(number, x, out)


def test_broadcasts_and_shuffles(dtype):
    x = np.arange(lanes_of(dtype), dtype=dtype)
    out = np.zeros((3, lanes_of(dtype)), dtype)
    broadcast(7.0, x, out)
    np.testing.assert_array_equal(out, [np.full_like(x, 7), np.full_like(x, 1), x[::-1]])


@simd.intrinsic
def _transpose(e, x, out):
    rows = [e.load(e.at(x, i * e.lanes)) for i in range(e.lanes)]
    for i, column in enumerate(transposed_block(e, rows)):
        e.store(column, e.at(out, i * e.lanes))


@jit
def transpose(x, out):
    _transpose(x, out)


def test_transposed_block(dtype):
    lanes = lanes_of(dtype)
    x = np.arange(lanes * lanes, dtype=dtype).reshape(lanes, lanes)
    out = np.zeros_like(x)
    transpose(x, out)
    np.testing.assert_array_equal(out, x.T)


@jit
def through_pointers(x, address, i):
    start = simd.pointer(x, address)
    return simd.advance(start, i)[0], simd.lanes(x), simd.itemsize(x)


def test_pointers(dtype):
    x = np.arange(10, dtype=dtype)
    expected = (4, lanes_of(dtype), x.itemsize)
    assert through_pointers(x, x.ctypes.data, 4) == expected
    assert through_pointers(x, x[6:].ctypes.data, -2) == expected


@jit
def record_fields(fields, array, number):
    simd.record(fields, 1, array)
    simd.record(fields, 6, number)
    simd.record(fields, 7, -3)
    return simd.recorded(fields, 2), simd.is_writeable(array)


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x.T, lambda x: x[::-1, ::2]])
def test_records_of_arrays(dtype, make):
    array, fields = make(np.zeros((6, 8), dtype)), np.zeros(9, np.int64)
    for writeable in (True, False):
        array.flags.writeable = writeable
        assert record_fields(fields.ctypes.data, array, 2.5) == (len(array), writeable)
        expected = [0, array.ctypes.data, *array.shape, *array.strides]
        assert fields[:6].tolist() == expected
        assert fields.view(float)[6] == 2.5
        assert fields[7:].tolist() == [-3, 0]


def test_description_of_the_target(dtype):
    target = describe_target()
    assert target["vector_bytes"] in (16, 32, 64)
    rows, columns = target["matmul"][dtype]["tile"]
    assert columns % lanes_of(dtype) == 0
    registers = rows * columns // lanes_of(dtype)
    assert registers < target["vector_registers"]  # some are left for A and B


def test_warmup_compiles_ahead(dtype):
    assert "linear" in warmup(["linear"], dtype)
