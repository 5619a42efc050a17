"""What the tests of kernels share: comparison with the definitions, gradients, canaries."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

DTYPES = (np.float32, np.float64)
SEEDS = st.integers(0, 2**32 - 1)
CANARY = -1234.5


def few(examples: int = 15) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


def assert_close(got, want, factor: float = 8.0, scale: float = 1.0) -> None:
    """|got - want| <= factor * eps * (scale + |want|), eps that of got; NaN and infinities alike."""
    got, want = np.asarray(got), np.asarray(want, np.float64)
    assert got.shape == want.shape
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    infinite = ~finite & ~np.isnan(want)
    np.testing.assert_array_equal(got[infinite], want[infinite])
    error = np.abs(got[finite] - want[finite])
    allowed = factor * np.finfo(got.dtype).eps * (scale + np.abs(want[finite]))
    worst = np.max(error / allowed, initial=0.0)
    assert worst <= 1, f"error is {worst:.3g} times what is allowed"


def double(*values):
    """The same arguments with all arrays of floats in float64, for the definitions."""
    return [
        value.astype(np.float64)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        else value
        for value in values
    ]


def assert_gradient(function: Callable, gradient: Callable, x: np.ndarray, seed: int) -> None:
    """<gradient(cotangent), direction> equals the central difference of <cotangent, function(x)>.

    The cotangent and the direction are random: a plain sum would hide errors that cancel.
    """
    rng = np.random.default_rng(seed)
    cotangent = rng.standard_normal(function(x).shape)
    direction = rng.standard_normal(x.shape)
    step = 1e-5
    difference = (function(x + step * direction) - function(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(
        np.sum(gradient(cotangent) * direction),
        np.sum(cotangent * difference),
        rtol=1e-6,
        atol=1e-7,
    )


def amid_canaries(array: np.ndarray) -> tuple[np.ndarray, Callable[[], None]]:
    """A copy of the array amid canaries, and the check that they are all alive."""
    margin = 64
    buffer = np.full(array.size + 2 * margin, CANARY, array.dtype)
    inside = buffer[margin : margin + array.size].reshape(array.shape)
    inside[...] = array

    def check() -> None:
        assert (buffer[:margin] == CANARY).all(), "written before the array"
        assert (buffer[margin + array.size :] == CANARY).all(), "written behind the array"

    return inside, check


def for_each_thread_count(run: Callable):
    """The results of `run()` with one thread and with two, where the machine has two."""
    before = numba.get_num_threads()
    results = []
    try:
        for threads in {1, min(2, numba.config.NUMBA_NUM_THREADS)}:
            numba.set_num_threads(threads)
            results.append(run())
    finally:
        numba.set_num_threads(before)
    return results


def assert_same_for_each_thread_count(run: Callable) -> None:
    """The arrays that `run()` returns are equal to the last bit."""
    first, *others = for_each_thread_count(run)
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)
