"""Convolutions on the CPU equal their definition, over geometries that hypothesis draws."""

import itertools

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tinydl_kernels import cpu, reference

ARGUMENTS = ("strides", "padding", "dilation", "groups")


@st.composite
def convolutions(draw):
    """(x, w, arguments): odd sizes, size-1 axes, strides beyond the kernel, dilation, groups, depthwise."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels = groups * draw(st.sampled_from([1, 2, 3, 5, 16, 17]))
    if draw(st.integers(0, 4)) == 0:
        groups = channels  # depthwise
    filters = groups * draw(st.sampled_from([1, 2, 6, 16, 33]))
    taps = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = draw(st.sampled_from([1, 1, 2, (1, 3)]))
    strides = draw(st.sampled_from([1, 1, 2, 3, (1, 2), (4, 1)]))
    padding = draw(st.sampled_from(["valid", "same", 1, (2, 0), ((0, 1), (3, 0))]))
    spans = [(t - 1) * d + 1 for t, d in zip(taps, np.broadcast_to(dilation, 2), strict=True)]
    sizes = [s + draw(st.integers(0, 9)) for s in spans]
    batch = draw(st.integers(1, 3))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((batch, *map(int, sizes), channels)).astype(dtype)
    w = rng.standard_normal((*taps, channels // groups, filters)).astype(dtype)
    return x, w, dict(zip(ARGUMENTS, (strides, padding, dilation, groups), strict=True))


def close(got, want, dtype):
    scale = max(1.0, float(np.abs(want).max(initial=0.0)))
    assert got.dtype == dtype
    assert_allclose(got, want, rtol=0, atol=scale * (2e-5 if dtype == np.float32 else 1e-12))


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.sampled_from([None, "relu", "leaky_relu", "sigmoid", "tanh"]))
def test_forward(case, activation):
    x, w, arguments = case
    bias = np.random.default_rng(0).standard_normal(w.shape[-1]).astype(x.dtype)
    got = cpu.conv2d(x, w, bias=bias, activation=activation, **arguments)
    double = [a.astype(np.float64) for a in (x, w, bias)]
    want = reference.conv2d(*double[:2], bias=double[2], activation=activation, **arguments)
    close(got, want, x.dtype)


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_gradients(case):
    x, w, arguments = case
    shape = reference.conv2d(x, w, **arguments).shape
    rng = np.random.default_rng(1)
    grad = rng.standard_normal(shape).astype(x.dtype)
    start, bias_grad = (rng.standard_normal(s).astype(x.dtype) for s in (w.shape, shape[-1:]))
    x64, w64, grad64 = (a.astype(np.float64) for a in (x, w, grad))

    dx = cpu.conv2d_grad_input(grad, w, x.shape, **arguments)
    close(dx, reference.conv2d_grad_input(grad64, w64, x.shape, **arguments), x.dtype)

    dw, db = start.copy(), bias_grad.copy()
    cpu.conv2d_grad_weight(x, grad, w.shape, out=dw, accumulate=True, bias_grad=db, **arguments)
    want = reference.conv2d_grad_weight(x64, grad64, w.shape, **arguments)
    close(dw, start + want, x.dtype)
    close(db, bias_grad + grad64.sum(axis=(0, 1, 2)), x.dtype)


def test_arrays_that_are_not_contiguous():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 9, 2, 12))[::-1].transpose(2, 0, 1, 3)[..., ::2]
    w = rng.standard_normal((16, 6, 3, 3)).transpose(2, 3, 1, 0)
    close(cpu.conv2d(x, w), reference.conv2d(x, w), np.float64)
    grad = rng.standard_normal((16, 2, 5, 7)).transpose(1, 2, 3, 0)
    close(cpu.conv2d_grad_input(grad, w, x.shape, strides=1, padding="valid", dilation=1, groups=1),
          reference.conv2d_grad_input(grad, w, x.shape), np.float64)  # fmt: skip


def test_nan_and_infinity_reach_what_they_touch_and_nothing_else():
    x = np.ones((1, 6, 6, 3), np.float32)
    w = np.ones((3, 3, 3, 16), np.float32)
    x[0, 0, 0, 1], x[0, 5, 5, 2] = np.nan, np.inf
    y = cpu.conv2d(x, w, activation="relu")
    want = np.full((1, 4, 4, 16), 27.0, np.float32)
    want[0, 0, 0], want[0, 3, 3] = np.nan, np.inf
    assert_array_equal(y, want)


@pytest.mark.parametrize("geometry", [(3, 16, 16, 1), (3, 5, 33, 2), (1, 8, 24, 1), (5, 1, 6, 1)])
def test_threads_change_little(geometry):
    """Outputs have one thread each; sums over images may be cut into more parts."""
    taps, channels, filters, strides = geometry
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 20, 20, channels)).astype(np.float32)
    w = rng.standard_normal((taps, taps, channels, filters)).astype(np.float32)
    arguments = {"strides": strides, "padding": "same", "dilation": 1, "groups": 1}
    results = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        y = cpu.conv2d(x, w, **arguments)
        results.append(
            [
                y,
                cpu.conv2d_grad_input(y, w, x.shape, **arguments),
                cpu.conv2d_grad_weight(x, y, w.shape, **arguments),
            ]
        )
    for one, many in zip(*results, strict=True):
        assert_allclose(one, many, rtol=1e-4, atol=1e-4 * np.abs(one).max())


def test_sizes_of_zero():
    x, w = np.zeros((0, 5, 5, 3), np.float32), np.ones((3, 3, 3, 4), np.float32)
    assert cpu.conv2d(x, w).shape == (0, 3, 3, 4)
    arguments = {"strides": 1, "padding": "valid", "dilation": 1, "groups": 1}
    grad = np.zeros((0, 3, 3, 4), np.float32)
    assert cpu.conv2d_grad_input(grad, w, x.shape, **arguments).shape == x.shape
    assert_array_equal(cpu.conv2d_grad_weight(x, grad, w.shape, **arguments), np.zeros_like(w))


def test_transposed_convolution_reverses_shapes():
    rng = np.random.default_rng(0)
    for strides, padding in itertools.product((1, 2, 3), ("valid", "same")):
        x, w = rng.standard_normal((2, 5, 4, 3)), rng.standard_normal((3, 3, 6, 3))
        got = cpu.conv2d_transpose(x, w, strides=strides, padding=padding)
        close(got, reference.conv2d_transpose(x, w, strides=strides, padding=padding), np.float64)


@pytest.mark.parametrize(
    ("x", "w", "arguments", "words"),
    [
        ((1, 5, 5, 3), (3, 3, 2, 4), {}, "groups"),
        ((1, 5, 5, 4), (3, 3, 4, 4), {"groups": 3}, "divide"),
        ((1, 2, 5, 3), (3, 3, 3, 4), {}, "does not fit"),
        ((5, 5, 3), (3, 3, 3, 4), {}, r"\(N, H, W, C\)"),
        ((1, 5, 5, 3), (3, 3, 3, 4), {"strides": 0}, "strides"),
        ((1, 5, 5, 3), (3, 3, 3, 4), {"padding": "sane"}, "'same'"),
    ],
)
def test_what_does_not_fit_is_refused(x, w, arguments, words):
    with pytest.raises(ValueError, match=words):
        cpu.conv2d(np.zeros(x), np.zeros(w), **arguments)


def test_unequal_and_unsupported_types_are_refused():
    x, w = np.zeros((1, 5, 5, 3), np.float32), np.zeros((3, 3, 3, 4))
    with pytest.raises(TypeError, match="float32"):
        cpu.conv2d(x, w)
    with pytest.raises(TypeError, match="float16"):
        cpu.conv2d(x.astype(np.float16), w.astype(np.float16))
