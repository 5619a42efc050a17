"""LSTM and GRU cells against their definitions; gradients by central differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinydl_kernels import cpu, reference

from .comparison import (
    DTYPES,
    SEEDS,
    assert_close,
    assert_gradient,
    assert_same_for_each_thread_count,
    double,
    few,
)

SHAPES = st.tuples(st.integers(0, 9), st.integers(1, 70))  # (N, H)


def states(rng, dtype, shape, *widths):
    """One array (N, width * H) per width."""
    rows, units = shape
    return [rng.standard_normal((rows, width * units)).astype(dtype) for width in widths]


@pytest.mark.parametrize("dtype", DTYPES)
@few()
@given(shape=SHAPES, seed=SEEDS)
def test_lstm_equals_its_definition(dtype, shape, seed):
    rng = np.random.default_rng(seed)
    z, c_prev, grad_h, grad_c = states(rng, dtype, shape, 4, 1, 1, 1)
    got = cpu.lstm_cell(z, c_prev)
    for a, b in zip(got, reference.lstm_cell(*double(z, c_prev)), strict=True):
        assert a.dtype == dtype
        assert_close(a, b)
    gates, _, tanh_c, _ = got
    arguments = grad_h, grad_c, gates, c_prev, tanh_c
    want = reference.lstm_cell_grad(*double(*arguments))
    for a, b in zip(cpu.lstm_cell_grad(*arguments), want, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@few()
@given(shape=SHAPES, seed=SEEDS)
def test_gru_equals_its_definition(dtype, shape, seed):
    rng = np.random.default_rng(seed)
    zx, zh, h_prev, grad_h = states(rng, dtype, shape, 3, 3, 1, 1)
    got = cpu.gru_cell(zx, zh, h_prev)
    for a, b in zip(got, reference.gru_cell(*double(zx, zh, h_prev)), strict=True):
        assert a.dtype == dtype
        assert_close(a, b)
    arguments = grad_h, got[0], zh, h_prev
    want = reference.gru_cell_grad(*double(*arguments))
    for a, b in zip(cpu.gru_cell_grad(*arguments), want, strict=True):
        assert_close(a, b)


@few(10)
@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 5)), seed=SEEDS)
def test_lstm_gradients_of_the_definition(shape, seed):
    """Both outputs, c and h, at once: side by side as one array."""
    units = shape[1]
    z, c_prev = states(np.random.default_rng(seed), np.float64, shape, 4, 1)
    gates, _, tanh_c, _ = reference.lstm_cell(z, c_prev)

    def outputs(z, c_prev):
        _, c, _, h = reference.lstm_cell(z, c_prev)
        return np.concatenate([c, h], axis=1)

    def gradients(grad):
        return reference.lstm_cell_grad(grad[:, units:], grad[:, :units], gates, c_prev, tanh_c)

    assert_gradient(lambda z: outputs(z, c_prev), lambda grad: gradients(grad)[0], z, seed)
    assert_gradient(lambda c: outputs(z, c), lambda grad: gradients(grad)[1], c_prev, seed)


@few(10)
@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 5)), seed=SEEDS)
def test_gru_gradients_of_the_definition(shape, seed):
    zx, zh, h_prev = states(np.random.default_rng(seed), np.float64, shape, 3, 3, 1)
    gates, _ = reference.gru_cell(zx, zh, h_prev)

    def h(zx=zx, zh=zh, h_prev=h_prev):
        return reference.gru_cell(zx, zh, h_prev)[1]

    def gradients(grad):
        return reference.gru_cell_grad(grad, gates, zh, h_prev)

    assert_gradient(lambda zx: h(zx=zx), lambda grad: gradients(grad)[0], zx, seed)
    assert_gradient(lambda zh: h(zh=zh), lambda grad: gradients(grad)[1], zh, seed)
    assert_gradient(lambda h_prev: h(h_prev=h_prev), lambda grad: gradients(grad)[2], h_prev, seed)


def test_strided_inputs_and_nan():
    rng = np.random.default_rng(0)
    z, c_prev = states(rng, np.float32, (6, 40), 4, 1)
    z[2, 41] = np.nan  # the forget gate of unit 1
    _, c, _, h = cpu.lstm_cell(z, c_prev)
    assert np.isnan(h[2, 1]) and np.isnan(c[2, 1]) and np.isnan(h).sum() == 1
    long = rng.standard_normal((6, 3, 160)).astype(np.float32)  # (N, T, 4H), one step of a sequence
    for a, b in zip(
        cpu.lstm_cell(long[:, 1], c_prev[:, ::-1]),
        cpu.lstm_cell(long[:, 1].copy(), c_prev[:, ::-1].copy()),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_results_do_not_depend_on_threads():
    rng = np.random.default_rng(0)
    z, c_prev, grad_h, grad_c = states(rng, np.float32, (301, 65), 4, 1, 1, 1)
    zx, zh = states(rng, np.float32, (401, 65), 3, 3)
    h_prev, grad_n = states(rng, np.float32, (401, 65), 1, 1)

    def run():
        lstm, gru = cpu.lstm_cell(z, c_prev), cpu.gru_cell(zx, zh, h_prev)
        return [
            *lstm,
            *cpu.lstm_cell_grad(grad_h, grad_c, lstm[0], c_prev, lstm[2]),
            *gru,
            *cpu.gru_cell_grad(grad_n, gru[0], zh, h_prev),
        ]

    assert_same_for_each_thread_count(run)


def test_bad_input_is_named():
    z, c_prev = np.zeros((2, 12), np.float32), np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"lstm_cell: z must have shape \(2, 12\), not \(2, 9\)"):
        cpu.lstm_cell(z[:, :9], c_prev)
    with pytest.raises(TypeError, match="lstm_cell: c_prev is float64 but z is float32"):
        cpu.lstm_cell(z, c_prev.astype(np.float64))
    with pytest.raises(ValueError, match=r"gru_cell: zh must have shape \(2, 9\), not \(2, 12\)"):
        cpu.gru_cell(z[:, :9], z, c_prev)
    with pytest.raises(ValueError, match=r"c_prev must have shape \(N, H\) with H > 0, not \(3,\)"):
        cpu.lstm_cell(z, c_prev[0])
    with pytest.raises(ValueError, match="with H > 0"):
        cpu.lstm_cell(z[:, :0], c_prev[:, :0])
    with pytest.raises(ValueError, match=r"grad_c must have shape \(2, 3\)"):
        cpu.lstm_cell_grad(c_prev, c_prev[:1], z, c_prev, c_prev)
