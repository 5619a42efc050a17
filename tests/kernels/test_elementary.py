"""exp, log, tanh, sigmoid, erf: accuracy in units in the last place, special values, vector code."""

import platform
import re

import numba
import numpy as np
import pytest

from tinydl_kernels import cpu
from tinydl_kernels.cpu import activations

# The largest error measured over ALL float32 arguments, rounded up.
BOUNDS = {"exp": 1.05, "log": 0.85, "tanh": 1.55, "sigmoid": 1.99, "erf": 1.75}
RANGES = {
    "exp": (-104, 89),
    "log": (0, 20),
    "tanh": (-10, 10),
    "sigmoid": (-104, 20),
    "erf": (-5, 5),
}
LONG = np.longdouble
has_long_double = np.finfo(LONG).nmant >= 63


def true_value(name, x):
    """In the precision of x, which is higher than that of what is tested."""
    if name == "sigmoid":
        e = np.exp(-np.abs(x))
        return np.where(x >= 0, 1, e) / (1 + e)
    if name == "erf":
        return erf(x)
    return getattr(np, name)(x)


def erf(x):
    """2 / sqrt(pi) e^(-x^2) sum_k 2^k x^(2k+1) / (1 3 5 ... (2k+1)): all terms have one sign."""
    pi = LONG("3.14159265358979323846264338327950288")
    term = x.copy()
    total = x.copy()
    for k in range(1, 220):
        term = term * (2 * x * x) / (2 * k + 1)
        total += term
    return 2 / np.sqrt(pi.astype(x.dtype)) * np.exp(-x * x) * total


def largest_error(name, x, higher):
    """In units in the last place of the true value."""
    with np.errstate(all="ignore"):
        want = true_value(name, x.astype(higher))
        rounded = want.astype(x.dtype)
    got = getattr(cpu, name)(x)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~finite], rounded[~finite])
    ulp = np.spacing(np.abs(rounded[finite])).astype(higher)
    return float(np.max(np.abs(got[finite].astype(higher) - want[finite]) / ulp))


@pytest.mark.parametrize("name", BOUNDS)
def test_float32_over_the_whole_range(name):
    low, high = (np.float32(bound) for bound in RANGES[name])
    rng = np.random.default_rng(0)
    # Equally spaced bit patterns are numbers of every magnitude, subnormal ones too.
    step = 4999 if name != "erf" else 99991
    positive = np.arange(0, high.view(np.int32), step, dtype=np.int32).view(np.float32)
    parts = [positive, rng.uniform(low, high, len(positive)).astype(np.float32)]
    if low < 0:
        parts.append(-np.arange(0, (-low).view(np.int32), step, dtype=np.int32).view(np.float32))
    assert largest_error(name, np.concatenate(parts), np.float64) <= BOUNDS[name]


@pytest.mark.skipif(not has_long_double, reason="no floating-point format beyond float64 here")
@pytest.mark.parametrize("name", BOUNDS)
def test_float64_within_two_ulp(name):
    low, high = RANGES[name]
    low, high = (low * 7.15, high * 7.9) if name in ("exp", "sigmoid") else (low, high)
    rng = np.random.default_rng(1)
    count = 100_000 if name != "erf" else 3_000
    x = rng.uniform(low, high, count)
    tiny = np.exp(rng.uniform(-700, 0, count)) * (1 if low == 0 else rng.choice([-1, 1], count))
    assert largest_error(name, np.concatenate([x, tiny]), LONG) <= 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(dtype):
    inf, nan = np.inf, np.nan
    x = np.array([0.0, -0.0, inf, -inf, nan, -1e30, 1e30], dtype)
    expected = {
        "exp": [1, 1, inf, 0, nan, 0, inf],
        "log": [-inf, -inf, inf, nan, nan, nan, np.log(dtype(1e30))],
        "tanh": [0.0, -0.0, 1, -1, nan, -1, 1],
        "sigmoid": [0.5, 0.5, 1, 0, nan, 0, 1],
        "erf": [0.0, -0.0, 1, -1, nan, -1, 1],
    }
    for name, values in expected.items():
        got = getattr(cpu, name)(np.tile(x, 9))  # long enough for vector code, with a remainder
        want = np.tile(np.array(values, dtype), 9)
        np.testing.assert_array_max_ulp(got[~np.isnan(want)], want[~np.isnan(want)], 1)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=name)
        zero = want == 0
        np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]), err_msg=name)


@pytest.mark.parametrize("name", BOUNDS)
def test_every_nan_goes_through(name):
    """NaN carries a payload in its low bits, which must not be taken for an exponent."""
    patterns = np.array([0x7FC00000, 0x7FC001FF, 0x7F800001, -0x400000, -1], np.int32)
    x = np.repeat(patterns, 13).view(np.float32)
    with np.errstate(invalid="ignore"):
        assert np.isnan(getattr(cpu, name)(x)).all()


def test_where_exp_begins_to_overflow_and_ends():
    x = np.float32([88.722831, 88.72284, -103.97, -103.98, -87.4])
    got = cpu.exp(x)
    assert np.isfinite(got[0]) and np.isinf(got[1])
    assert got[2] == np.float32(1e-45) and got[3] == 0
    assert 0 < got[4] < np.finfo(np.float32).tiny


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86 assembly")
@pytest.mark.parametrize(
    "loops", [activations._EXP, activations._ERF, activations._FORWARD["tanh"]]
)
def test_loops_are_vector_code(loops):
    """A single call or branch on an element would leave a scalar loop, ten times slower."""
    x = np.zeros(100, np.float32)
    loop = loops._in_place.serial.py_func
    fresh = numba.njit(loop, fastmath={"contract"}, error_model="numpy")
    fresh(x, np.float32(1))
    (assembly,) = fresh.inspect_asm().values()
    assert re.search(r"v?mulps", assembly), "no packed multiplication"
    assert not re.search(r"\b(exp|expf|tanh|tanhf|erf|erff|exp2)\b", assembly), "a library call"
