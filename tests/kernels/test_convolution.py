"""The convolutions of the CPU equal their definitions, and the definitions equal plainer ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinydl_kernels import cpu, reference
from tinydl_kernels.windows import conv2d_output_shape, resolve_padding

from .comparison import (
    DTYPES,
    SEEDS,
    assert_gradient,
    assert_same_for_each_thread_count,
    double,
    few,
)

PASSES = ("conv2d", "conv2d_grad_input", "conv2d_grad_weight")


@st.composite
def geometries(draw, largest=9):
    """(input shape, kernel shape, keyword arguments) of a convolution that exists."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    kind = draw(st.sampled_from(["dense", "dense", "depthwise", "few filters"]))
    channels = groups * draw(st.sampled_from([1, 2, 3, 5, 8, 17]))
    filters = groups * draw(st.sampled_from([1, 4, 6, 16, 19, 33, 40]))
    if kind == "depthwise":
        groups = filters = channels = draw(st.sampled_from([2, 3, 16, 20, 33]))
    elif kind == "few filters":
        filters = groups * draw(st.integers(1, 3))
    size = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    strides = draw(st.sampled_from([1, 1, 2, 3, (1, 2), (4, 1)]))
    dilation = draw(st.sampled_from([1, 1, 2, (1, 3)]))
    pads = st.tuples(st.integers(0, 3), st.integers(0, 3))
    padding = draw(st.sampled_from(["valid", "same", 1, (0, 2)]) | st.tuples(pads, pads))
    shape = (draw(st.integers(1, 4)), *size, channels)
    kernel_shape = (*kernel, channels // groups, filters)
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    try:
        conv2d_output_shape(shape, kernel_shape, **options)
    except ValueError:  # the kernel does not fit
        options["padding"] = "same"
    return shape, kernel_shape, options | {"groups": groups}


def close(got, want, terms, dtype):
    """Sums of `terms` products of standard normal numbers, in another order."""
    assert got.dtype == dtype
    tolerance = 8 * np.finfo(dtype).eps * np.sqrt(terms) * max(1.0, np.log2(terms))
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


# --- the definitions ------------------------------------------------------------------------------


@few(25)
@given(geometries(5), SEEDS)
def test_the_definition_equals_the_equation(geometry, seed):
    """Number by number, as the equation is written."""
    shape, kernel_shape, options = geometry
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal(shape), rng.standard_normal(kernel_shape)
    got = reference.conv2d(x, w, **options)
    group_channels, group_filters = kernel_shape[2], kernel_shape[3] // options["groups"]
    strides, dilation = (
        (value, value) if isinstance(value, int) else value
        for value in (options["strides"], options["dilation"])
    )
    (top, _), (left, _) = resolve_padding(
        options["padding"], shape[1:3], kernel_shape[:2], strides, dilation
    )
    for n, i, j, k in rng.integers(0, got.shape, (20, 4)):
        total = 0.0
        for r, s, c in np.ndindex(*kernel_shape[:3]):
            h = i * strides[0] + r * dilation[0] - top
            v = j * strides[1] + s * dilation[1] - left
            if 0 <= h < shape[1] and 0 <= v < shape[2]:
                channel = k // group_filters * group_channels + c
                total += x[n, h, v, channel] * w[r, s, c, k]
        assert abs(got[n, i, j, k] - total) < 1e-10


@few(15)
@given(geometries(5), SEEDS)
def test_gradients_of_the_definition(geometry, seed):
    shape, kernel_shape, options = geometry
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal(shape), rng.standard_normal(kernel_shape)
    assert_gradient(
        lambda x: reference.conv2d(x, w, **options),
        lambda g: reference.conv2d_grad_input(g, w, shape, **options),
        x,
        seed,
    )
    assert_gradient(
        lambda w: reference.conv2d(x, w, **options),
        lambda g: reference.conv2d_grad_weight(x, g, kernel_shape, **options),
        w,
        seed,
    )


# --- the kernels ----------------------------------------------------------------------------------


@few(80)
@given(geometries(), SEEDS, st.sampled_from(DTYPES), st.sampled_from([None, "relu", "tanh"]))
def test_forward(geometry, seed, dtype, activation):
    shape, kernel_shape, options = geometry
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal(s).astype(dtype) for s in (shape, kernel_shape))
    bias = rng.standard_normal(kernel_shape[3]).astype(dtype)
    options |= {"bias": bias if seed % 2 else None, "activation": activation}
    want = reference.conv2d(*double(x, w), **dict(zip(options, double(*options.values()))))  # noqa: B905
    close(cpu.conv2d(x, w, **options), want, np.prod(kernel_shape[:3]), dtype)


@few(80)
@given(geometries(), SEEDS, st.sampled_from(DTYPES))
def test_grad_input(geometry, seed, dtype):
    shape, kernel_shape, options = geometry
    rng = np.random.default_rng(seed)
    grad_shape = conv2d_output_shape(
        shape, kernel_shape, options["strides"], options["padding"], options["dilation"]
    )
    grad, w = (rng.standard_normal(s).astype(dtype) for s in (grad_shape, kernel_shape))
    got = cpu.conv2d_grad_input(grad, w, shape, **options)
    want = reference.conv2d_grad_input(*double(grad, w), shape, **options)
    close(got, want, kernel_shape[0] * kernel_shape[1] * kernel_shape[3], dtype)
    before = rng.standard_normal(shape).astype(dtype)
    for module in (cpu, reference):
        dx, total = module.conv2d_grad_input(grad, w, shape, **options), before.copy()
        more = {"out": total, "accumulate": True, **options}
        assert module.conv2d_grad_input(grad, w, shape, **more) is total
        np.testing.assert_array_equal(total, before + dx)


@few(80)
@given(geometries(), SEEDS, st.sampled_from(DTYPES))
def test_grad_weight(geometry, seed, dtype):
    shape, kernel_shape, options = geometry
    rng = np.random.default_rng(seed)
    grad_shape = conv2d_output_shape(
        shape, kernel_shape, options["strides"], options["padding"], options["dilation"]
    )
    x, grad = (rng.standard_normal(s).astype(dtype) for s in (shape, grad_shape))
    bias_grad = rng.standard_normal(kernel_shape[3]).astype(dtype)
    out = rng.standard_normal(kernel_shape).astype(dtype)
    want_bias, want = double(bias_grad, out)
    options |= {"accumulate": bool(seed % 2)}
    got = cpu.conv2d_grad_weight(x, grad, kernel_shape, out=out, bias_grad=bias_grad, **options)
    reference.conv2d_grad_weight(
        *double(x, grad), kernel_shape, out=want, bias_grad=want_bias, **options
    )
    assert got is out
    terms = grad.size // grad.shape[3]
    close(got, want, terms, dtype)
    close(bias_grad, want_bias, terms, dtype)


@few(25)
@given(
    st.sampled_from(["valid", "same", 1, ((0, 1), (2, 0))]),
    st.sampled_from([1, 2, (1, 3)]),
    st.sampled_from([1, 2]),
    SEEDS,
)
def test_transposed(padding, strides, dilation, seed):
    """It is the gradient of the convolution that maps its output to its input."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((2, 4, 5, 6)), rng.standard_normal((3, 2, 5, 6))
    bias = rng.standard_normal(5)
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    more = options | {"bias": bias, "activation": "relu"}
    got = cpu.conv2d_transpose(x, w, **more)
    close(got, reference.conv2d_transpose(x, w, **more), 36, np.float64)
    linear = cpu.conv2d_transpose(x, w, **options)
    back = rng.standard_normal(linear.shape)
    np.testing.assert_allclose(
        np.sum(linear * back), np.sum(x * cpu.conv2d(back, w, **options)), rtol=1e-9, atol=1e-9
    )


@few(25)
@given(
    st.sampled_from(["valid", "same", "causal", 2, (3, 0)]),
    st.integers(1, 3),
    st.integers(1, 3),
    SEEDS,
)
def test_conv1d(padding, strides, dilation, seed):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((2, 11, 4)), rng.standard_normal((3, 2, 6))
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": 2}
    got = cpu.conv1d(x, w, **options)
    close(got, reference.conv1d(x, w, **options), 6, np.float64)
    out = np.empty_like(got)
    assert cpu.conv1d(x, w, out=out, **options) is out
    np.testing.assert_array_equal(out, got)


def test_causal_means_that_no_output_sees_the_future():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 9, 2)), rng.standard_normal((3, 2, 4))
    before = cpu.conv1d(x, w, padding="causal", dilation=2)
    x[0, 5:] = 7
    after = cpu.conv1d(x, w, padding="causal", dilation=2)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).all()


LARGE = [
    # Sizes at which blocks, panels and chunks are more than one: input, kernel, options.
    ((3, 33, 31, 40), (3, 3, 40, 70), {"padding": "same"}),
    ((40, 9, 9, 6), (5, 5, 6, 16), {}),
    ((35, 28, 28, 1), (5, 5, 1, 6), {"padding": "same"}),
    ((2, 70, 90, 3), (7, 7, 3, 24), {"strides": 2, "padding": 3}),
    ((1, 3, 2500, 4), (2, 3, 4, 5), {"padding": 1}),
    ((1, 4, 300, 130), (3, 3, 130, 9), {"padding": 1}),
    ((2, 4, 4, 600), (3, 3, 600, 140), {"padding": 1}),
    ((2, 40, 40, 48), (3, 3, 1, 48), {"padding": 1, "groups": 48}),
    ((2, 41, 40, 50), (3, 3, 1, 50), {"strides": 2, "padding": "same", "groups": 50}),
    ((3, 47, 41, 30), (1, 1, 30, 50), {}),  # no matrix product: see `convolution.SMALL_PRODUCT`
    ((1, 90, 85, 160), (1, 1, 160, 5), {}),
    # Together more than `conv_depthwise.NEAR_BYTES`, so that memory is asked for ahead.
    ((6, 64, 64, 96), (2, 2, 1, 96), {"padding": 1, "groups": 96}),
    # Depthwise: taps in several turns, pieces of rows, phases without taps, lists of runs that overflow.
    ((2, 23, 37, 33), (5, 4, 1, 33), {"padding": 3, "dilation": 2, "groups": 33}),
    ((1, 5, 3000, 24), (3, 3, 1, 24), {"padding": 1, "groups": 24}),
    ((3, 17, 41, 20), (2, 2, 1, 20), {"strides": 3, "padding": (0, 1), "groups": 20}),
    ((2, 9, 50, 16), (3, 30, 1, 16), {"padding": "same", "groups": 16}),
]


@pytest.mark.parametrize(("shape", "kernel_shape", "options"), LARGE)
def test_large(shape, kernel_shape, options):
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype("f4") for s in (shape, kernel_shape))
    y = cpu.conv2d(x, w, **options)
    close(y, reference.conv2d(*double(x, w), **options), np.prod(kernel_shape[:3]), np.float32)
    grad = rng.standard_normal(y.shape).astype("f4")
    close(
        cpu.conv2d_grad_input(grad, w, shape, **options),
        reference.conv2d_grad_input(*double(grad, w), shape, **options),
        np.prod(kernel_shape) / kernel_shape[2],
        np.float32,
    )
    close(
        cpu.conv2d_grad_weight(x, grad, kernel_shape, **options),
        reference.conv2d_grad_weight(*double(x, grad), kernel_shape, **options),
        y.size / y.shape[3],
        np.float32,
    )


@pytest.mark.parametrize(
    ("shape", "kernel_shape", "options"), LARGE[:3] + LARGE[6:10] + LARGE[11:14]
)
def test_the_number_of_threads_changes_no_bit(shape, kernel_shape, options):
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype("f4") for s in (shape, kernel_shape))
    grad = rng.standard_normal(reference.conv2d(x, w, **options).shape).astype("f4")

    def run():
        sums = np.zeros(kernel_shape[3], np.float32)
        return (
            cpu.conv2d(x, w, **options),
            cpu.conv2d_grad_input(grad, w, shape, **options),
            cpu.conv2d_grad_weight(x, grad, kernel_shape, bias_grad=sums, **options),
            sums,
        )

    assert_same_for_each_thread_count(run)


# --- what arrays may look like --------------------------------------------------------------------


def test_strided_read_only_and_misaligned_inputs():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 7, 8, 3)), rng.standard_normal((3, 3, 3, 5))
    bias, want = rng.standard_normal(5), reference.conv2d(x, w)
    shifted = np.zeros(x.nbytes + 4, np.uint8)[4:].view(np.float64)
    variants = {
        "columns first": x.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3),
        "reversed": x[:, ::-1].copy()[:, ::-1],
        "every second": np.repeat(x, 2, axis=2)[:, :, ::2],
        "misaligned": shifted.reshape(x.shape),
    }
    variants["misaligned"][...] = x
    assert not variants["misaligned"].flags.aligned
    for variant in variants.values():
        close(cpu.conv2d(variant, w), want, 27, np.float64)
    for array in (x, w, bias):
        array.flags.writeable = False
    close(
        cpu.conv2d(x, w[::-1, ::-1][::-1, ::-1], bias=bias[::-1]), want + bias[::-1], 27, np.float64
    )


def test_out_may_be_strided_and_may_overlap_an_input():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 6, 6, 4)), rng.standard_normal((3, 3, 4, 4))
    want = reference.conv2d(x, w, padding=1)
    out = np.zeros((2, 6, 12, 4))[:, :, ::2]
    assert cpu.conv2d(x, w, padding=1, out=out) is out
    close(out, want, 36, np.float64)
    same = x.copy()
    close(cpu.conv2d(same, w, padding=1, out=same), want, 36, np.float64)
    dw = np.ones((6, 3, 4, 4))[::2]
    cpu.conv2d_grad_weight(x, want, w.shape, padding=1, out=dw, accumulate=True)
    close(dw - 1, reference.conv2d_grad_weight(x, want, w.shape, padding=1), 300, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 4])
def test_nan_and_infinity_stay_where_they_belong(dtype, groups):
    """A NaN reaches exactly the outputs whose windows hold it, also through relu."""
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_normal((2, 7, 7, 4))).astype(dtype)
    w = np.abs(rng.standard_normal((3, 3, 4 // groups, 4))).astype(dtype)
    options = {"padding": 1, "groups": groups, "activation": "relu"}
    clean = cpu.conv2d(x, w, **options)
    for bad, answer in ((np.nan, np.nan), (np.inf, np.inf), (-np.inf, 0.0)):
        spoiled = x.copy()
        spoiled[1, 3, 3, 2] = bad
        touched = np.zeros(clean.shape, bool)
        touched[1, 2:5, 2:5, slice(None) if groups == 1 else 2] = True
        y = cpu.conv2d(spoiled, w, **options)
        np.testing.assert_array_equal(y[~touched], clean[~touched])
        np.testing.assert_array_equal(y[touched], np.full(touched.sum(), answer, dtype))


@pytest.mark.parametrize(
    ("shape", "kernel_shape"),
    [((0, 5, 5, 3), (3, 3, 3, 4)), ((2, 5, 5, 0), (3, 3, 0, 4)), ((2, 5, 5, 3), (3, 3, 3, 0))],
)
def test_empty(shape, kernel_shape):
    x, w = np.ones(shape), np.ones(kernel_shape)
    bias = np.arange(float(kernel_shape[3]))
    y = cpu.conv2d(x, w, bias=bias)
    np.testing.assert_array_equal(y, np.broadcast_to(bias, (shape[0], 3, 3, kernel_shape[3])))
    np.testing.assert_array_equal(cpu.conv2d_grad_input(y, w, shape), np.zeros(shape))
    dw = cpu.conv2d_grad_weight(x, y, kernel_shape, bias_grad=bias)
    np.testing.assert_array_equal(dw, np.zeros(kernel_shape))


def test_integers_of_numpy_will_do():
    x, w = np.ones((1, 5, 5, 2)), np.ones((3, 3, 2, 1))
    one, two = np.int64(1), np.array([2, 2])
    assert cpu.conv2d(x, w, strides=two, padding=one, dilation=[one, one]).shape == (1, 3, 3, 1)


# --- errors ---------------------------------------------------------------------------------------

X, W = np.ones((1, 5, 5, 4), np.float32), np.ones((3, 3, 4, 6), np.float32)


@pytest.mark.parametrize("kernels", [cpu, reference], ids=["cpu", "reference"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X[0]}, r"x must have shape \(N, H, W, C\)"),
        ({"w": W[0]}, r"w must have shape \(R, S, C // groups, K\)"),
        ({"w": W[:, :, :3]}, "w must have C // groups = 4 input channels"),
        ({"groups": 3}, "groups must divide the 4 channels of x, got 3"),
        ({"groups": 4, "w": W[:, :, :1]}, "groups must divide the 6 filters of w, got 4"),
        ({"groups": 0}, "groups must be an int >= 1, got 0"),
        ({"x": X[:, :2]}, "w does not fit into x along its height: the window covers 3"),
        ({"dilation": 3}, "w does not fit into x along its height: the window covers 7"),
        ({"strides": 0}, "strides must be an int or a pair of ints >= 1, got 0"),
        ({"strides": (1, 1, 1)}, "strides must be"),
        ({"padding": -1}, "padding must be 'valid', 'same'"),
        ({"padding": "full"}, "padding must be 'valid', 'same'"),
    ],
)
def test_impossible_geometries(kernels, arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.conv2d(**({"x": X, "w": W} | arguments))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": X.astype(int)}, TypeError, "x must be float32 or float64"),
        ({"w": W.astype(float)}, TypeError, "w is float64 but x is float32"),
        ({"x": X.tolist()}, TypeError, "x must be a NumPy array"),
        ({"bias": np.ones(5, np.float32)}, ValueError, r"bias must have shape \(6,\)"),
        ({"bias": np.ones(6)}, TypeError, "bias must be an array of float32"),
        ({"activation": "swish"}, ValueError, "activation 'swish' is not one of"),
        ({"out": np.ones((1, 3, 3, 6))}, TypeError, "out must be an array of float32"),
        ({"out": np.ones((1, 3, 6), np.float32)}, ValueError, "out must have shape"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        cpu.conv2d(**({"x": X, "w": W} | arguments))


def test_bad_arguments_of_gradients():
    grad, out = np.ones((1, 3, 3, 6), np.float32), np.ones(W.shape, np.float32)
    with pytest.raises(ValueError, match="grad must have shape"):
        cpu.conv2d_grad_input(grad[:, :2], W, X.shape)
    with pytest.raises(ValueError, match="accumulate=True needs an out to add to"):
        cpu.conv2d_grad_input(grad, W, X.shape, accumulate=True)
    with pytest.raises(ValueError, match="accumulate=True needs an out"):
        cpu.conv2d_grad_weight(X, grad, W.shape, accumulate=True)
    sums = np.ones(6, np.float32)
    for array, name in ((out, "out"), (sums, "bias_grad")):
        array.flags.writeable = False
        with pytest.raises(ValueError, match=f"{name} is read-only"):
            cpu.conv2d_grad_weight(X, grad, W.shape, **{name: array})
        array.flags.writeable = True
    with pytest.raises(ValueError, match="output_padding must be smaller than strides"):
        cpu.conv2d_transpose(grad, W, padding=0, strides=2, output_padding=2)
