"""The optimizers' passes over flat buffers against their equations."""

import math

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
    assert_same_for_each_thread_count,
    few,
    for_each_thread_count,
)

SIZES = st.one_of(st.integers(0, 100), st.sampled_from([8191, 8192, 8193, 20000]))

# name -> (kernel, slots given by position, other arguments, slots given by name)
STEPS = {
    "sgd": ("sgd_step", [], (0.1, 0.0), []),
    "sgd with decay": ("sgd_step", [], (0.1, 0.01), []),
    "momentum": ("momentum_step", ["slot"], (0.1, 0.9, False, 0.01), []),
    "nesterov": ("momentum_step", ["slot"], (0.1, 0.9, True, 0.01), []),
    "rmsprop": ("rmsprop_step", ["square"], (0.01, 0.9, 1e-3, 0.1), []),
    "rmsprop, momentum": ("rmsprop_step", ["square"], (0.01, 0.9, 1e-3, 0.0), ["velocity"]),
    "rmsprop, centered": ("rmsprop_step", ["square"], (0.01, 0.9, 1e-3, 0.0), ["average"]),
    "rmsprop, both": ("rmsprop_step", ["square"], (0.01, 0.9, 1e-3, 0.0), ["velocity", "average"]),
    "adam": ("adam_step", ["slot", "square"], (0.01, 0.9, 0.999, 1e-8, 1, 0.0), []),
    "adamw": ("adam_step", ["slot", "square"], (0.01, 0.8, 0.99, 1e-3, 7, 0.1), []),
    "nadam": (
        "nadam_step", ["slot", "square"], (0.01, 0.9, 0.999, 1e-8, 3, 0.1, 0.91, 0.92, 0.7), [],
    ),
}  # fmt: skip


def arrays_for(name, size, dtype, rng):
    """value, grad, then the slots; squares are large enough for the centered variance."""
    _, slots, _, named = STEPS[name]
    value, grad = (rng.standard_normal(size).astype(dtype) for _ in range(2))
    make = {
        "slot": lambda: rng.standard_normal(size).astype(dtype),
        "square": lambda: rng.uniform(1, 2, size).astype(dtype),
        "velocity": lambda: rng.standard_normal(size).astype(dtype),
        "average": lambda: rng.uniform(-0.5, 0.5, size).astype(dtype),
    }
    return [value, grad, *[make[slot]() for slot in slots]], {key: make[key]() for key in named}


def run_step(kernels, name, positional, named):
    kernel, _, scalars, _ = STEPS[name]
    options = {"momentum": 0.8} if "velocity" in named else {}
    getattr(kernels, kernel)(*positional, *scalars, **named, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STEPS)
@few(6)
@given(size=SIZES, seed=SEEDS)
def test_step_equals_its_equations(name, dtype, size, seed):
    positional, named = arrays_for(name, size, dtype, np.random.default_rng(seed))
    guards = [amid_canaries(array) for array in [*positional, *named.values()]]
    got = [array for array, _ in guards]
    count = len(positional)
    run_step(cpu, name, got[:count], dict(zip(named, got[count:], strict=True)))
    want = [array.astype(np.float64) for array in [*positional, *named.values()]]
    run_step(reference, name, want[:count], dict(zip(named, want[count:], strict=True)))
    np.testing.assert_array_equal(got[1], positional[1])  # the gradient is only read
    for (array, check), expected in zip(guards, want, strict=True):
        check()
        assert_close(array, expected)


@pytest.mark.parametrize("name", STEPS)
def test_steps_do_not_depend_on_threads(name):
    def run():
        positional, named = arrays_for(name, 100_003, np.float32, np.random.default_rng(0))
        run_step(cpu, name, positional, named)
        return [*positional, *named.values()]

    assert_same_for_each_thread_count(run)


@pytest.mark.parametrize("name", STEPS)
def test_nan_gradient_reaches_the_value(name):
    positional, named = arrays_for(name, 100, np.float32, np.random.default_rng(0))
    positional[1][17] = np.nan
    run_step(cpu, name, positional, named)
    np.testing.assert_array_equal(np.isnan(positional[0]), np.arange(100) == 17)


@pytest.mark.parametrize("name", STEPS)
def test_strided_buffers(name):
    positional, named = arrays_for(name, 60, np.float64, np.random.default_rng(0))
    contiguous = [array[::3].copy() for array in [*positional, *named.values()]]
    strided = [array[::3] for array in [*positional, *named.values()]]
    for arrays in (contiguous, strided):
        split = len(positional)
        run_step(cpu, name, arrays[:split], dict(zip(named, arrays[split:], strict=True)))
    for a, b in zip(contiguous, strided, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
@few()
@given(size=SIZES, seed=SEEDS)
def test_squared_norm(dtype, size, seed):
    x = np.random.default_rng(seed).standard_normal(size).astype(dtype)
    want = math.fsum(float(value) ** 2 for value in x)
    got = cpu.squared_norm(x)
    assert isinstance(got, float) and math.isclose(got, want, rel_tol=1e-14, abs_tol=0)


def test_squared_norm_is_the_same_for_any_number_of_threads():
    x = np.random.default_rng(0).standard_normal(1_000_003).astype(np.float32)
    assert len(set(for_each_thread_count(lambda: cpu.squared_norm(x)))) == 1


def test_squared_norm_beyond_float32():
    x = np.float32([1e30, 1e-30])
    assert math.isclose(cpu.squared_norm(x), 1e60, rel_tol=1e-6)
    assert math.isclose(cpu.squared_norm(x[1:]), 1e-60, rel_tol=1e-6)
    assert cpu.squared_norm(np.float64([1e200])) == math.inf
    assert math.isnan(cpu.squared_norm(np.float32([1, np.nan])))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 100, 20000, 100_003])
def test_all_finite(dtype, size):
    def check(x, want):
        assert for_each_thread_count(lambda: cpu.all_finite(x)).count(want) >= 1
        assert cpu.all_finite(x) is want

    x = np.random.default_rng(size).standard_normal(size).astype(dtype)
    x[0] = np.finfo(dtype).max
    check(x, True)
    for place in {0, size // 2, size - 1}:
        for bad in (np.nan, -np.nan, np.inf, -np.inf):
            y = x.copy()
            y[place] = bad
            check(y, False)


def test_no_elements():
    nothing = np.zeros(0, np.float32)
    assert cpu.all_finite(nothing) is True and cpu.squared_norm(nothing) == 0
    assert cpu.scale_(nothing, 2).size == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_and_scale(dtype):
    x = (3 * np.random.default_rng(0).standard_normal((30, 7))).astype(dtype)
    x[0, :3] = np.nan, np.inf, -np.inf
    want = reference.clip_(x.copy(), 1.5)
    got, check = amid_canaries(x)
    assert cpu.clip_(got, 1.5) is got
    check()
    np.testing.assert_array_equal(got, want)
    assert cpu.scale_(got[:, ::2], 0.1) is not None
    np.testing.assert_array_equal(got[:, ::2], reference.scale_(want[:, ::2], dtype(0.1)))
    np.testing.assert_array_equal(got[:, 1::2], want[:, 1::2])
    for kernels in (cpu, reference):
        with pytest.raises(ValueError, match="limit must not be negative, but is -1"):
            kernels.clip_(got, -1)


def test_bad_input_is_named():
    x = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"adam_step: v must have shape \(4,\), not \(3,\)"):
        cpu.adam_step(x, x.copy(), x.copy(), x[:3], 0.1, 0.9, 0.999, 1e-8, 1, 0.0)
    with pytest.raises(ValueError, match="step counts from 1, but is 0"):
        cpu.adam_step(x, x, x, x, 0.1, 0.9, 0.999, 1e-8, 0, 0.0)
    with pytest.raises(TypeError, match="sgd_step: grad is float64 but value is float32"):
        cpu.sgd_step(x, np.zeros(4), 0.1)
    frozen = x.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="sgd_step: value is read-only"):
        cpu.sgd_step(frozen, x, 0.1)
    cpu.sgd_step(x, frozen, 0.1)  # a gradient is only read
