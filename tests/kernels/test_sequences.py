"""Steps of LSTM and GRU in one call against the definitions; gradients by differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinydl_kernels import cpu, reference

from .comparison import (
    DTYPES,
    SEEDS,
    amid_canaries,
    assert_close,
    assert_gradient,
    assert_same_for_each_thread_count,
    double,
    few,
)

# (T, N, H): blocks of samples and panels of columns that are full and that are not
SIZES = st.tuples(st.integers(0, 5), st.integers(0, 19), st.integers(1, 37))


def sequence(rng, dtype, sizes, skips=False):
    """z, u, h0, c0, skip; u so small that errors do not grow from step to step."""
    steps, samples, units = sizes
    z = rng.standard_normal((steps, samples, 4 * units)).astype(dtype)
    u = (rng.standard_normal((units, 4 * units)) / (2 * units**0.5)).astype(dtype)
    h0, c0 = rng.standard_normal((2, samples, units)).astype(dtype)
    skip = rng.random((steps, samples)) < 0.3 if skips else None
    return z, u, h0, c0, skip


def gradients(rng, dtype, sizes):
    """grad_h, grad_c, grad_y."""
    steps, samples, units = sizes
    grad_h, grad_c = rng.standard_normal((2, samples, units)).astype(dtype)
    return grad_h, grad_c, rng.standard_normal((steps, samples, units)).astype(dtype)


def assert_grad_equals_its_definition(kernel, arguments, grad_y, skip):
    """In double precision; and the arguments stay as they are."""
    before = [array.copy() for array in arguments]
    result = getattr(cpu, kernel)(*arguments, grad_y=grad_y, skip=skip)
    for array, copy in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    want = getattr(reference, kernel)(
        *double(*arguments), grad_y=None if grad_y is None else double(grad_y)[0], skip=skip
    )
    for a, b in zip(result, want, strict=True):
        assert a.dtype == arguments[0].dtype
        assert_close(a, b, factor=64, scale=1 + np.max(np.abs(b), initial=0))


@pytest.mark.parametrize("dtype", DTYPES)
@few()
@given(sizes=SIZES, skips=st.booleans(), has_grad_y=st.booleans(), seed=SEEDS)
def test_lstm_equals_its_definition(dtype, sizes, skips, has_grad_y, seed):
    rng = np.random.default_rng(seed)
    z, u, h0, c0, skip = sequence(rng, dtype, sizes, skips)
    want = reference.lstm_sequence(*double(z, u, h0, c0), skip)
    z, check = amid_canaries(z)
    got = gates, c, tanh_c, _ = cpu.lstm_sequence(z, u, h0, c0, skip)
    check()
    assert gates is z
    taken = slice(None) if skip is None else ~skip  # gates and tanh_c of other steps mean nothing
    for a, b, at in zip(got, want, (taken, slice(None)) * 2, strict=True):
        assert a.dtype == dtype
        assert_close(a[at], b[at], factor=64)

    grad_h, grad_c, grad_y = gradients(rng, dtype, sizes)
    grad_y = grad_y if has_grad_y else None
    arguments = grad_h, grad_c, u, gates, c, tanh_c
    assert_grad_equals_its_definition("lstm_sequence_grad", arguments, grad_y, skip)


@few(10)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)),
    skips=st.booleans(),
    seed=SEEDS,
)
def test_lstm_gradients_of_the_definition(sizes, skips, seed):
    """By z, h0 and c0, of all steps' h and the last h and c: one after the other as one array."""
    rng = np.random.default_rng(seed)
    z, u, h0, c0, skip = sequence(rng, np.float64, sizes, skips)
    gates, c, tanh_c, _ = reference.lstm_sequence(z.copy(), u, h0, c0, skip)

    def outputs(z=z, h0=h0, c0=c0):
        _, c, _, h = reference.lstm_sequence(z.copy(), u, h0, c0, skip)
        return np.concatenate([h[1:], h[-1:], c[-1:]])

    def grads(grad):
        *grad_y, grad_h, grad_c = grad
        return reference.lstm_sequence_grad(
            grad_h, grad_c, u, gates, c, tanh_c, grad_y=np.array(grad_y), skip=skip
        )

    assert_gradient(lambda z: outputs(z=z), lambda grad: grads(grad)[0], z, seed)
    assert_gradient(lambda h0: outputs(h0=h0), lambda grad: grads(grad)[1], h0, seed)
    assert_gradient(lambda c0: outputs(c0=c0), lambda grad: grads(grad)[2], c0, seed)


def gru_sequence_inputs(rng, dtype, sizes, skips=False):
    """zx, u, bias, h0, skip."""
    z, u, h0, _, skip = sequence(rng, dtype, sizes, skips)
    units = sizes[2]
    bias = rng.standard_normal(3 * units).astype(dtype)
    return z[..., : 3 * units].copy(), u[:, : 3 * units], bias, h0, skip


@pytest.mark.parametrize("dtype", DTYPES)
@few()
@given(
    sizes=SIZES, skips=st.booleans(), use_bias=st.booleans(), has_grad_y=st.booleans(), seed=SEEDS
)
def test_gru_equals_its_definition(dtype, sizes, skips, use_bias, has_grad_y, seed):
    rng = np.random.default_rng(seed)
    zx, u, bias, h0, skip = gru_sequence_inputs(rng, dtype, sizes, skips)
    bias = bias if use_bias else None
    want = reference.gru_sequence(*double(zx, u, bias, h0), skip)
    zx, check = amid_canaries(zx)
    got = gates, zh, h = cpu.gru_sequence(zx, u, bias, h0, skip)
    check()
    assert gates is zx
    taken = slice(None) if skip is None else ~skip  # gates and zh of other steps mean nothing
    for a, b, at in zip(got, want, (taken, taken, slice(None)), strict=True):
        assert a.dtype == dtype
        assert_close(a[at], b[at], factor=64)

    grad_h, _, grad_y = gradients(rng, dtype, sizes)
    grad_y = grad_y if has_grad_y else None
    arguments = grad_h, u, gates, zh, h
    assert_grad_equals_its_definition("gru_sequence_grad", arguments, grad_y, skip)


@few(10)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)),
    skips=st.booleans(),
    seed=SEEDS,
)
def test_gru_gradients_of_the_definition(sizes, skips, seed):
    """The bias moves zh in all steps and for all samples: its gradient is the sum of dzh."""
    rng = np.random.default_rng(seed)
    zx, u, bias, h0, skip = gru_sequence_inputs(rng, np.float64, sizes, skips)
    gates, zh, h = reference.gru_sequence(zx.copy(), u, bias, h0, skip)

    def outputs(zx=zx, bias=bias, h0=h0):
        _, _, h = reference.gru_sequence(zx.copy(), u, bias, h0, skip)
        return np.concatenate([h[1:], h[-1:]])

    def grads(grad):
        return reference.gru_sequence_grad(grad[-1], u, gates, zh, h, grad_y=grad[:-1], skip=skip)

    assert_gradient(lambda zx: outputs(zx=zx), lambda grad: grads(grad)[0], zx, seed)
    assert_gradient(
        lambda bias: outputs(bias=bias), lambda grad: grads(grad)[1].sum(axis=(0, 1)), bias, seed
    )
    assert_gradient(lambda h0: outputs(h0=h0), lambda grad: grads(grad)[2], h0, seed)


def test_strided_inputs():
    rng = np.random.default_rng(0)
    sizes = (3, 11, 20)
    z, u, h0, c0, skip = sequence(rng, np.float32, sizes, skips=True)
    gates, c, tanh_c, _ = want = cpu.lstm_sequence(z.copy(), u, h0, c0, skip)
    by_columns, late = np.asfortranarray, skip[::-1].copy()[::-1]
    got = cpu.lstm_sequence(z.copy(), by_columns(u), by_columns(h0), by_columns(c0), late)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    grad_h, grad_c, grad_y = gradients(rng, np.float32, sizes)
    arguments = grad_h, grad_c, u, gates, c, tanh_c
    want = cpu.lstm_sequence_grad(*arguments, grad_y=grad_y, skip=skip)
    strided = map(by_columns, arguments)
    got = cpu.lstm_sequence_grad(*strided, grad_y=by_columns(grad_y), skip=late)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nan_stays_in_its_sample_and_after_its_step():
    rng = np.random.default_rng(0)
    z, u, h0, c0, _ = sequence(rng, np.float32, (4, 9, 20))
    z[1, 2, 21] = np.nan  # the forget gate of unit 1
    gates, c, tanh_c, h = cpu.lstm_sequence(z, u, h0, c0)
    is_nan = np.isnan(h)
    assert is_nan[2, 2].sum() == 1 and is_nan[2, 2, 1]
    assert is_nan[3:, 2].all() and is_nan.sum() == 1 + 2 * 20
    grad_h, grad_c, _ = gradients(rng, np.float32, (4, 9, 20))
    dz, dh0, dc0 = cpu.lstm_sequence_grad(grad_h, grad_c, u, gates, c, tanh_c)
    assert np.isnan(dz[:, 2]).any(axis=1).all() and np.isnan(dh0[2]).all()
    others = np.arange(9) != 2
    assert np.isfinite(dz[:, others]).all() and np.isfinite(dc0[others]).all()


def test_a_step_passed_over_may_hold_nan():
    rng = np.random.default_rng(0)
    z, u, h0, c0, _ = sequence(rng, np.float32, (2, 9, 20))
    skip = np.zeros((2, 9), bool)
    skip[0, 3] = True
    z[0, 3] = np.nan
    gates, c, tanh_c, h = cpu.lstm_sequence(z, u, h0, c0, skip)
    assert np.isfinite(h).all() and np.isfinite(c).all()
    grad_h, grad_c, _ = gradients(rng, np.float32, (2, 9, 20))
    for grad in cpu.lstm_sequence_grad(grad_h, grad_c, u, gates, c, tanh_c, skip=skip):
        assert np.isfinite(grad).all()


def test_results_do_not_depend_on_threads():
    rng = np.random.default_rng(0)
    sizes = (20, 21, 65)
    gru_z, gru_u, bias, *_ = gru_sequence_inputs(rng, np.float32, sizes)
    z, u, h0, c0, skip = sequence(rng, np.float32, sizes, skips=True)
    grad_h, grad_c, grad_y = gradients(rng, np.float32, sizes)

    def run():
        gates, c, tanh_c, h = cpu.lstm_sequence(z.copy(), u, h0, c0, skip)
        back = cpu.lstm_sequence_grad(grad_h, grad_c, u, gates, c, tanh_c, grad_y=grad_y, skip=skip)
        zx, zh, hidden = cpu.gru_sequence(gru_z.copy(), gru_u, bias, h0, skip)
        gru_back = cpu.gru_sequence_grad(grad_h, gru_u, zx, zh, hidden, grad_y=grad_y, skip=skip)
        return [gates, c, tanh_c, h, *back, zx, zh, hidden, *gru_back]

    assert_same_for_each_thread_count(run)


def test_bad_input_is_named():
    z, u, h0, c0, _ = sequence(np.random.default_rng(0), np.float32, (2, 3, 5))
    with pytest.raises(ValueError, match=r"lstm_sequence: u must have shape \(H, 4H\) with H > 0"):
        cpu.lstm_sequence(z, u.T, h0, c0)
    with pytest.raises(ValueError, match=r"z must have shape \(T, N, 20\), not \(2, 3, 19\)"):
        cpu.lstm_sequence(z[..., 1:], u, h0, c0)
    with pytest.raises(ValueError, match=r"c0 must have shape \(3, 5\), not \(2, 5\)"):
        cpu.lstm_sequence(z, u, h0, c0[:2])
    with pytest.raises(ValueError, match="z must be contiguous and writeable"):
        cpu.lstm_sequence(z[:, ::-1], u, h0, c0)
    with pytest.raises(TypeError, match="lstm_sequence: u is float64 but z is float32"):
        cpu.lstm_sequence(z, u.astype(np.float64), h0, c0)
    with pytest.raises(TypeError, match="skip must be bool, not float32"):
        cpu.lstm_sequence(z, u, h0, c0, z[..., 0])
    gates, c, tanh_c, _ = cpu.lstm_sequence(z, u, h0, c0)
    with pytest.raises(ValueError, match=r"lstm_sequence_grad: c must have shape \(3, 3, 5\)"):
        cpu.lstm_sequence_grad(h0, c0, u, gates, c[1:], tanh_c)
    with pytest.raises(ValueError, match=r"grad_y must have shape \(2, 3, 5\), not \(3, 5\)"):
        cpu.lstm_sequence_grad(h0, c0, u, gates, c, tanh_c, grad_y=h0)
    zx = np.zeros((2, 3, 15), np.float32)
    with pytest.raises(ValueError, match=r"gru_sequence: u must have shape \(H, 3H\) with H > 0"):
        cpu.gru_sequence(zx, u, None, h0)
    with pytest.raises(ValueError, match=r"bias must have shape \(15,\), not \(5,\)"):
        cpu.gru_sequence(zx, u[:, :15], u[0, :5], h0)
    with pytest.raises(ValueError, match=r"gru_sequence_grad: zh must have shape \(2, 3, 15\)"):
        cpu.gru_sequence_grad(h0, u[:, :15], zx, z, c)
