"""Activations and softmax against their definitions; their gradients by central differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinydl_kernels import cpu, reference
from tinydl_kernels.reference.activations import ACTIVATIONS

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

SHAPES = st.one_of(
    st.tuples(st.integers(0, 70)),
    st.tuples(st.integers(1, 5), st.integers(1, 40)),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)),
)
MATRICES = st.tuples(st.integers(1, 40), st.integers(1, 70))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
@few(8)
@given(shape=SHAPES, seed=SEEDS)
def test_activation_equals_its_definition(name, dtype, shape, seed):
    rng = np.random.default_rng(seed)
    x = (4 * rng.standard_normal(shape)).astype(dtype)
    grad = rng.standard_normal(shape).astype(dtype)
    y, check_y = amid_canaries(np.zeros_like(x))
    dx, check_dx = amid_canaries(np.zeros_like(x))
    assert cpu.activation(name, x, out=y, alpha=0.1) is y
    assert cpu.activation_grad(name, grad, x, y, out=dx, alpha=0.1) is dx
    check_y()
    check_dx()
    assert_close(y, reference.activation(name, *double(x), alpha=0.1))
    assert_close(dx, reference.activation_grad(name, *double(grad, x, y), alpha=0.1), 32)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_of_a_sum(name):
    x, plus = np.random.default_rng(0).standard_normal((2, 3, 50)).astype(np.float32)
    y = cpu.activation(name, x + plus, alpha=0.1)
    np.testing.assert_array_equal(cpu.activation(name, x, alpha=0.1, plus=plus), y)
    wide_x, wide_plus = double(x, plus)
    assert_close(y, reference.activation(name, wide_x, alpha=0.1, plus=wide_plus), 32)
    for out in (x.copy(), np.zeros((6, 50), np.float32)[::2]):
        assert cpu.activation(name, x, out, alpha=0.1, plus=plus) is out
        np.testing.assert_array_equal(out, y)
    assert cpu.activation(name, x, plus, alpha=0.1, plus=plus) is plus
    np.testing.assert_array_equal(plus, y)


@pytest.mark.parametrize("name", ACTIVATIONS)
@few(10)
@given(shape=SHAPES, seed=SEEDS)
def test_gradients_of_the_definitions(name, shape, seed):
    x = np.random.default_rng(seed).standard_normal(shape)
    x[np.abs(x) < 1e-3] = 0.1  # away from the kinks
    y = reference.activation(name, x)
    assert_gradient(
        lambda x: reference.activation(name, x),
        lambda grad: reference.activation_grad(name, grad, x, y),
        x,
        seed,
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_in_place_strided_and_overlapping(name):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 50)).astype(np.float32)
    grad = rng.standard_normal((6, 50)).astype(np.float32)
    y = cpu.activation(name, x)
    dx = cpu.activation_grad(name, grad, x, y)

    same = x.copy()
    assert cpu.activation(name, same, out=same) is same
    np.testing.assert_array_equal(same, y)
    same = grad.copy()
    assert cpu.activation_grad(name, same, x, y, out=same) is same
    np.testing.assert_array_equal(same, dx)

    np.testing.assert_array_equal(cpu.activation(name, x[::-1, ::2]), y[::-1, ::2])
    out = np.zeros((12, 50), np.float32)
    cpu.activation(name, x, out=out[::2])
    np.testing.assert_array_equal(out[::2], y)
    assert not out[1::2].any()

    line = np.append(x.ravel(), np.float32(0))  # input and output one element apart
    cpu.activation(name, line[:-1], out=line[1:])
    np.testing.assert_array_equal(line[1:], y.ravel())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_goes_through(name):
    x = np.linspace(-2, 2, 41).astype(np.float32)
    x[::5] = np.nan
    grad = np.ones_like(x)
    y = cpu.activation(name, x)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    if name not in ("linear", "relu", "leaky_relu"):  # theirs is the slope on one side
        dx = cpu.activation_grad(name, grad, x, y)
        np.testing.assert_array_equal(np.isnan(dx), np.isnan(x))
    grad[3] = np.nan
    assert np.isnan(cpu.activation_grad(name, grad, np.abs(x) + 1, np.abs(x) + 1)[3])


@pytest.mark.parametrize("dtype", DTYPES)
@few()
@given(shape=MATRICES, seed=SEEDS, scale=st.sampled_from([1.0, 1e4]))
def test_softmax_equals_its_definition(dtype, shape, seed, scale):
    rng = np.random.default_rng(seed)
    x = (scale * rng.standard_normal(shape)).astype(dtype)
    grad = rng.standard_normal(shape).astype(dtype)
    out, check = amid_canaries(np.zeros_like(x))
    assert cpu.softmax(x, out) is out
    check()
    assert_close(out, reference.softmax(*double(x)), 16)
    assert_close(cpu.softmax_grad(grad, out), reference.softmax_grad(*double(grad, out)), 64)
    assert_close(cpu.log_softmax(x), reference.log_softmax(*double(x)), 16)


@few(10)
@given(shape=MATRICES, seed=SEEDS)
def test_softmax_gradient_of_the_definition(shape, seed):
    x = np.random.default_rng(seed).standard_normal(shape)
    y = reference.softmax(x)
    assert_gradient(reference.softmax, lambda grad: reference.softmax_grad(grad, y), x, seed)


def test_softmax_special_rows_and_axes():
    inf, nan = np.inf, np.nan
    x = np.float32([[0, -inf, 0], [inf, 0, 0], [-inf, -inf, -inf], [nan, 0, 1], [1, 2, -nan]])
    got = cpu.softmax(x)
    np.testing.assert_array_equal(got[0], [0.5, 0, 0.5])
    assert np.isnan(got[1:]).all()  # as inf - inf is
    assert cpu.log_softmax(x)[0, 1] == -inf
    deep = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    assert_close(cpu.softmax(deep), reference.softmax(deep))
    strided = deep.transpose(3, 0, 2, 1)
    assert_close(cpu.softmax(strided), reference.softmax(strided))
    assert cpu.softmax(np.zeros((0, 3), np.float32)).shape == (0, 3)
    cpu.softmax(deep, out=deep)
    np.testing.assert_allclose(deep.sum(-1), 1)


def test_results_do_not_depend_on_threads():
    rng = np.random.default_rng(0)
    x, grad = (rng.standard_normal((3001, 67)).astype(np.float32) for _ in range(2))

    def run():
        y = cpu.activation("gelu", x)
        z = cpu.activation("relu", x.copy())
        p = cpu.softmax(x)
        return [
            y, z, p, cpu.activation_grad("relu", grad, None, z), cpu.softmax_grad(grad, p),
            cpu.log_softmax(x), cpu.activation("relu", z, out=z),
        ]  # fmt: skip

    assert_same_for_each_thread_count(run)


def test_bad_input_is_named():
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="'rellu' is unknown; choose one of linear, relu, "):
        cpu.activation("rellu", x)
    with pytest.raises(TypeError, match="activation: x must be float32 or float64, not int64"):
        cpu.activation("relu", np.zeros(3, np.int64))
    with pytest.raises(TypeError, match="activation: x must be a NumPy array, not list"):
        cpu.activation("relu", [1.0])
    with pytest.raises(TypeError, match="y is float64 but grad is float32"):
        cpu.activation_grad("relu", x, None, x.astype(np.float64))
    with pytest.raises(ValueError, match=r"y must have shape \(2, 3\), not \(3, 2\)"):
        cpu.activation_grad("tanh", x, None, np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="gelu needs x, which is None"):
        cpu.activation_grad("gelu", x, None, x)
    with pytest.raises(TypeError, match="plus is float64 but x is float32"):
        cpu.activation("relu", x, plus=x.astype(np.float64))
    with pytest.raises(ValueError, match=r"plus must have shape \(2, 3\), not \(3,\)"):
        cpu.activation("relu", x, plus=x[0])
    with pytest.raises(TypeError, match="out must be an array of float32, not float64"):
        cpu.activation("relu", x, out=np.zeros((2, 3)), plus=x)
    with pytest.raises(ValueError, match="alpha must be positive"):
        cpu.activation("leaky_relu", x, alpha=0)
    with pytest.raises(TypeError, match="out must be an array of float32, not float64"):
        cpu.activation("relu", x, out=np.zeros((2, 3)))
    frozen = np.zeros((2, 3), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        cpu.activation("relu", x, out=frozen)
    np.testing.assert_array_equal(cpu.activation("relu", frozen), 0)  # as an input it is welcome
    with pytest.raises(ValueError, match="x needs a last axis that is not empty"):
        cpu.softmax(np.zeros((3, 0), np.float32))
