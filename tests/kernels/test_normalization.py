"""Batch and layer normalization against their definitions; gradients by central differences."""

import math

import numpy as np
import pytest
from hypothesis import example, given
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

# Few and many channels, fewer and more rows than a block has.
CHANNELS = st.sampled_from([1, 2, 3, 8, 16, 31, 64, 100, 256, 257])
SHAPES = st.tuples(st.integers(1, 200), CHANNELS)  # (M, C)
EPS = 1e-3


def problem(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    columns = shape[1]
    x, grad = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    x += rng.uniform(-2, 2, columns).astype(dtype)
    gamma, beta, mean = (rng.standard_normal(columns).astype(dtype) for _ in range(3))
    inv_std = rng.uniform(0.5, 2, columns).astype(dtype)
    return x, grad, gamma, beta, mean, inv_std


@pytest.mark.parametrize("dtype", DTYPES)
@few(20)
@given(shape=SHAPES, seed=SEEDS)
@example(shape=(3001, 37), seed=0)  # several blocks and a rest
def test_batch_norm_equals_its_definition(dtype, shape, seed):
    x, grad, gamma, beta, mean, inv_std = problem(shape, dtype, seed)
    for a, b in zip(cpu.column_moments(x), reference.column_moments(*double(x)), strict=True):
        assert a.dtype == dtype
        # The definition itself adds row to row, in float64.
        assert_close(a, b, 8 if dtype == np.float32 else 8 * np.sqrt(len(x)))

    out, check = amid_canaries(np.zeros_like(x))
    arguments = x, mean, inv_std, gamma, beta
    assert cpu.batch_norm_apply(*arguments, out=out) is out
    check()
    assert_close(out, reference.batch_norm_apply(*double(*arguments)), 16)

    sums = cpu.batch_norm_grad_sums(grad, x, mean, inv_std)
    want = reference.batch_norm_grad_sums(*double(grad, x, mean, inv_std))
    for a, b in zip(sums, want, strict=True):
        assert_close(a, b, 32, scale=np.sqrt(len(x)))
    totals = gamma.copy(), beta.copy()
    again = cpu.batch_norm_grad_sums(grad, x, mean, inv_std, *totals)
    np.testing.assert_array_equal(again, sums)
    np.testing.assert_array_equal(totals, (gamma + sums[0], beta + sums[1]))

    out, check = amid_canaries(np.zeros_like(x))
    arguments = grad, x, gamma, mean, inv_std, *sums, 2 * len(x)
    assert cpu.batch_norm_grad_input(*arguments, out=out) is out
    check()
    assert_close(out, reference.batch_norm_grad_input(*double(*arguments)), 64)


@pytest.mark.parametrize("name", [None, "relu", "leaky_relu", "sigmoid", "tanh"])
def test_batch_norm_is_made_of_its_parts(name):
    x, grad, gamma, beta, mean, inv_std = problem((50, 3), np.float32, 4)
    for module in (cpu, reference):
        running, expected = (mean.copy(), inv_std.copy()), (mean.copy(), inv_std.copy())
        y, *moments = module.batch_norm(x, gamma, beta, *running, 0.9, EPS, activation=name)
        np.testing.assert_array_equal(moments, module.batch_moments(x, *expected, 0.9, EPS))
        np.testing.assert_array_equal(running, expected)
        z = module.batch_norm_apply(x, *moments, gamma, beta)
        np.testing.assert_array_equal(y, module.activation(name, z) if name else z)
        totals, of_parts = (gamma.copy(), beta.copy()), (gamma.copy(), beta.copy())
        given = {"activation": name, "y": y}
        dx = module.batch_norm_grad(grad, x, gamma, *moments, *totals, **given)
        dz = module.activation_grad(name, grad, None, y) if name else grad
        sums = module.batch_norm_grad_sums(dz, x, *moments, *of_parts)
        np.testing.assert_array_equal(totals, of_parts)
        want = module.batch_norm_grad_input(dz, x, gamma, *moments, *sums, 50)
        np.testing.assert_array_equal(dx, want)


def test_rows_may_be_several_axes():
    x, grad, gamma, beta, mean, inv_std = problem((30, 3), np.float32, 3)
    running = mean.copy(), inv_std.copy()

    def results(module, x, grad):
        moving = [m.copy() for m in running]
        y, *moments = module.batch_norm(x, gamma, beta, *moving, 0.9, EPS, activation="relu")
        totals = [np.zeros_like(gamma) for _ in range(2)]
        given = {"activation": "relu", "y": y}
        dx = module.batch_norm_grad(grad, x, gamma, *moments, *totals, **given)
        return y, dx, *moments, *moving, *totals

    images = x.reshape(2, 5, 3, 3), grad.reshape(2, 5, 3, 3)
    for module in (cpu, reference):
        for one, other in zip(results(module, *images), results(module, x, grad), strict=True):
            np.testing.assert_array_equal(one, other.reshape(one.shape))


def test_moments_of_a_batch_move_the_running_ones():
    x, _, mean, *_, var = problem((50, 3), np.float32, 1)
    running, expected = (mean.copy(), var.copy()), (mean.copy(), var.copy())
    found = cpu.batch_moments(x, *running, 0.9, EPS)
    own = cpu.column_moments(x)
    inv_std = cpu.running_moments(*own, *expected, 0.9, EPS)
    np.testing.assert_array_equal(found, (own[0], inv_std))
    np.testing.assert_array_equal(running, expected)
    np.testing.assert_allclose(running[0], 0.9 * mean + 0.1 * x.mean(axis=0), rtol=1e-5)


@few(10)
@given(shape=st.tuples(st.integers(2, 20), st.integers(1, 5)), seed=SEEDS)
def test_batch_norm_gradients_of_the_definitions(shape, seed):
    x, _, gamma, beta, *_ = problem(shape, np.float64, seed)

    def forward(x, gamma=gamma, beta=beta):
        mean, var = reference.column_moments(x)
        return reference.batch_norm_apply(x, mean, 1 / np.sqrt(var + EPS), gamma, beta)

    mean, var = reference.column_moments(x)
    inv_std = 1 / np.sqrt(var + EPS)

    def sums(grad):
        return reference.batch_norm_grad_sums(grad, x, mean, inv_std)

    def dx(grad):
        return reference.batch_norm_grad_input(grad, x, gamma, mean, inv_std, *sums(grad), len(x))

    assert_gradient(forward, dx, x, seed)
    assert_gradient(lambda gamma: forward(x, gamma), lambda grad: sums(grad)[0], gamma, seed)
    assert_gradient(lambda beta: forward(x, gamma, beta), lambda grad: sums(grad)[1], beta, seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [7, 1000, 20011])
def test_moments_beside_a_large_mean(dtype, rows):
    """Var 1 beside mean 3000: sum x^2 / M - mean^2 would lose all digits in float32."""
    rng = np.random.default_rng(rows)
    x = (3000 + rng.standard_normal((rows, 5))).astype(dtype)
    x[:, 4] = 3000  # no variance at all
    mean, var = cpu.column_moments(x)
    eps = np.finfo(dtype).eps
    for column in (0, 4):
        numbers = [float(value) for value in x[:, column]]
        want_mean = math.fsum(numbers) / rows
        want_var = math.fsum((value - want_mean) ** 2 for value in numbers) / rows
        np.testing.assert_allclose(mean[column], want_mean, rtol=eps)
        np.testing.assert_allclose(var[column], want_var, rtol=50 * eps, atol=0)
    assert var[4] == 0


def test_moments_of_a_column_that_jumps():
    """The first rows say nothing about the others."""
    x = np.full((50_000, 3), 1e4, np.float32)
    x[:20] = 0
    mean, var = cpu.column_moments(x)
    want = reference.column_moments(x.astype(np.float64))
    np.testing.assert_allclose(mean, want[0], rtol=1e-6)
    np.testing.assert_allclose(var, want[1], rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@few(20)
@given(shape=SHAPES, seed=SEEDS)
def test_layer_norm_equals_its_definition(dtype, shape, seed):
    x, grad, gamma, beta, *_ = problem(shape, dtype, seed)
    got = cpu.layer_norm(x, gamma, beta, EPS)
    want = reference.layer_norm(*double(x, gamma, beta), EPS)
    # A row of few or near features: the error of x - mean is scaled by 1 / std <= 32.
    assert_close(got[0], want[0], 64, scale=4)
    assert_close(got[1], want[1])
    assert_close(got[2], want[2], 64)
    _, mean, inv_std = got
    got = cpu.layer_norm_grad(grad, x, gamma, mean, inv_std)
    want = reference.layer_norm_grad(*double(grad, x, gamma, mean, inv_std))
    for a, b, scale in zip(got, want, (40, len(x) ** 0.5, len(x) ** 0.5), strict=True):
        assert_close(a, b, 64, scale=scale)


@few(10)
@given(shape=st.tuples(st.integers(1, 9), st.integers(2, 9)), seed=SEEDS)
def test_layer_norm_gradients_of_the_definitions(shape, seed):
    x, _, gamma, beta, *_ = problem(shape, np.float64, seed)
    _, mean, inv_std = reference.layer_norm(x, gamma, beta, EPS)

    def gradients(grad):
        return reference.layer_norm_grad(grad, x, gamma, mean, inv_std)

    def y(x, gamma=gamma, beta=beta):
        return reference.layer_norm(x, gamma, beta, EPS)[0]

    assert_gradient(y, lambda grad: gradients(grad)[0], x, seed)
    assert_gradient(lambda gamma: y(x, gamma), lambda grad: gradients(grad)[1], gamma, seed)
    assert_gradient(lambda beta: y(x, gamma, beta), lambda grad: gradients(grad)[2], beta, seed)


def test_nan_strides_and_outputs():
    x, grad, gamma, beta, mean, inv_std = problem((300, 24), np.float32, 0)
    x[77, 5] = np.nan
    moments = np.array(cpu.column_moments(x))
    np.testing.assert_array_equal(np.isnan(moments).any(0), np.arange(24) == 5)
    y, row_mean, row_inv_std = cpu.layer_norm(x, gamma, beta, EPS)
    np.testing.assert_array_equal(np.isnan(y).any(1), np.arange(300) == 77)
    dx, *_ = cpu.layer_norm_grad(grad, x, gamma, row_mean, row_inv_std)
    np.testing.assert_array_equal(np.isnan(dx).any(1), np.arange(300) == 77)

    x[77, 5] = 0
    strided, wanted = x[::-3, ::2], np.ascontiguousarray(x[::-3, ::2])
    vectors = mean[::2], inv_std[::2], gamma[::2], beta[::2]
    want = cpu.batch_norm_apply(wanted, *[np.ascontiguousarray(v) for v in vectors])
    np.testing.assert_array_equal(cpu.batch_norm_apply(strided, *vectors), want)
    np.testing.assert_array_equal(cpu.column_moments(strided), cpu.column_moments(wanted))
    np.testing.assert_array_equal(
        cpu.layer_norm(strided, *vectors[2:], EPS)[0], cpu.layer_norm(wanted, *vectors[2:], EPS)[0]
    )
    y = cpu.batch_norm_apply(x, mean, inv_std, gamma, beta)
    assert cpu.batch_norm_apply(x, mean, inv_std, gamma, beta, out=x) is x
    np.testing.assert_array_equal(x, y)


def test_results_do_not_depend_on_threads():
    x, grad, gamma, beta, mean, inv_std = problem((5003, 17), np.float32, 0)

    def run():
        y, row_mean, row_inv_std = cpu.layer_norm(x, gamma, beta, EPS)
        sums = cpu.batch_norm_grad_sums(grad, x, mean, inv_std)
        return [
            *cpu.column_moments(x),
            cpu.batch_norm_apply(x, mean, inv_std, gamma, beta),
            *sums,
            cpu.batch_norm_grad_input(grad, x, gamma, mean, inv_std, *sums, len(x)),
            y,
            *cpu.layer_norm_grad(grad, x, gamma, row_mean, row_inv_std),
        ]

    assert_same_for_each_thread_count(run)


def test_bad_input_is_named():
    x, grad, gamma, beta, mean, inv_std = problem((4, 3), np.float32, 0)
    with pytest.raises(ValueError, match="x has no rows"):
        cpu.column_moments(x[:0])
    with pytest.raises(ValueError, match=r"x must have shape \(M, ..., C\), not \(3,\)"):
        cpu.column_moments(x[0])
    with pytest.raises(ValueError, match=r"gamma must have shape \(3,\), not \(2,\)"):
        cpu.batch_norm_apply(x, mean, inv_std, gamma[:2], beta)
    with pytest.raises(TypeError, match="inv_std is float64 but x is float32"):
        cpu.batch_norm_apply(x, mean, inv_std.astype(np.float64), gamma, beta)
    with pytest.raises(ValueError, match=r"grad must have shape \(4, 3\), not \(3, 3\)"):
        cpu.batch_norm_grad_sums(grad[:3], x, mean, inv_std)
    with pytest.raises(ValueError, match=r"mean must have shape \(4,\)"):
        cpu.layer_norm_grad(grad, x, gamma, mean, inv_std)
    with pytest.raises(ValueError, match=r"x must have shape \(M, C\) with C > 0"):
        cpu.layer_norm(x[:, :0], gamma[:0], beta[:0], EPS)
