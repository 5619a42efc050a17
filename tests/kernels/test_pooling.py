"""Pooling on the CPU equals its definition, for every geometry, NaN included, with any number of threads."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tinydl_kernels as kernels
from tinydl_kernels import cpu, reference


@st.composite
def poolings(draw):
    """(x, arguments): odd sizes, size-1 axes, strides larger than the window, asymmetric padding."""
    taps = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    pads = [[draw(st.integers(0, t - 1)) for _ in range(2)] for t in taps]
    padding = draw(st.sampled_from(["valid", "same", tuple(map(tuple, pads))]))
    shape = (
        draw(st.integers(0, 3)),
        *(draw(st.integers(t, t + 6)) for t in taps),
        draw(st.integers(1, 19)),
    )
    strides = draw(st.none() | st.integers(1, 5) | st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.integers(-3, 4, shape).astype(dtype)  # small whole numbers: many ties
    x[rng.random(shape) < 0.1] = -np.inf  # what no element is, too, where a maximum begins
    x[rng.random(shape) < 0.05] = np.nan
    return x, {"pool_size": taps, "strides": strides, "padding": padding}


@settings(max_examples=60, deadline=None)
@given(poolings())
def test_maximum_and_its_place_equal_the_definition(case):
    x, arguments = case
    y, argmax = cpu.max_pool2d(x, **arguments)
    y_expected, argmax_expected = reference.max_pool2d(x, **arguments)
    assert_array_equal(y, y_expected)
    assert_array_equal(argmax, argmax_expected)
    assert y.dtype == x.dtype and argmax.dtype == np.int32
    grad = np.random.default_rng(1).normal(size=y.shape).astype(x.dtype)
    assert_allclose(
        cpu.max_pool2d_grad(grad, argmax, x.shape),
        reference.max_pool2d_grad(grad, argmax, x.shape),
        rtol=1e-5,
        atol=1e-6,
    )


@settings(max_examples=60, deadline=None)
@given(poolings())
def test_mean_and_its_gradient_equal_the_definition(case):
    x, arguments = case
    y = cpu.avg_pool2d(x, **arguments)
    assert_allclose(y, reference.avg_pool2d(x, **arguments), rtol=1e-5, atol=1e-6)
    grad = np.random.default_rng(1).normal(size=y.shape).astype(x.dtype)
    assert_allclose(
        cpu.avg_pool2d_grad(grad, x.shape, **arguments),
        reference.avg_pool2d_grad(grad, x.shape, **arguments),
        rtol=1e-5,
        atol=1e-6,
    )


def test_inputs_that_are_not_contiguous_and_out():
    x = np.random.default_rng(0).normal(size=(6, 5, 8, 7)).transpose(1, 2, 0, 3)[:, ::-1]
    y, argmax = cpu.max_pool2d(x, 2)
    assert_array_equal(y, reference.max_pool2d(x, 2)[0])
    out = np.full(x.shape, np.nan)
    assert cpu.max_pool2d_grad(y, argmax, x.shape, out=out) is out
    assert_array_equal(out, reference.max_pool2d_grad(y, argmax, x.shape))


def test_threads_change_no_bit():
    x = np.random.default_rng(0).normal(size=(8, 33, 31, 20)).astype(np.float32)
    grad = np.ones_like(cpu.avg_pool2d(x, 3, strides=2))
    results = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        y, argmax = cpu.max_pool2d(x, 3, strides=2)
        results.append(
            [
                y,
                argmax,
                cpu.max_pool2d_grad(y, argmax, x.shape),
                cpu.avg_pool2d(x, 3, strides=2),
                cpu.avg_pool2d_grad(grad, x.shape, 3, strides=2),
            ]
        )
    for one, many in zip(*results, strict=True):
        assert_array_equal(one, many)


def test_refused():
    x = np.zeros((1, 4, 4, 2), np.float32)
    y, argmax = kernels.max_pool2d(x, 2)
    with pytest.raises(ValueError, match="does not fit"):
        kernels.max_pool2d(x, 5)
    with pytest.raises(TypeError, match="int32"):
        kernels.max_pool2d_grad(y, argmax.astype(np.int64), x.shape)
    with pytest.raises(ValueError, match=r"\[0, 16\)"):
        kernels.max_pool2d_grad(y, argmax + 16, x.shape)
    with pytest.raises(ValueError, match="does not fit an input"):
        kernels.max_pool2d_grad(y, argmax, (2, 4, 4, 2))
    with pytest.raises(TypeError, match="float16"):
        kernels.avg_pool2d(x.astype(np.float16), 2)
