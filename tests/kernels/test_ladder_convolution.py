"""Every rung of the ladder computes the same convolution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl_kernels import reference
from tinydl_kernels.cpu.ladder.convolution import RUNGS

taps = st.integers(1, 4)


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.__name__)
@settings(max_examples=10, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 2), taps, taps, st.integers(1, 3)),
    more=st.tuples(st.integers(0, 3), st.integers(0, 14)),
    filters=st.sampled_from([1, 3, 16, 32, 37, 70]),
)
def test_equals_the_definition(rung, sizes, more, filters):
    batch, rows, columns, channels = sizes
    rng = np.random.default_rng(filters)
    x = rng.standard_normal((batch, rows + more[0], columns + more[1], channels)).astype("f4")
    w = rng.standard_normal((rows, columns, channels, filters)).astype("f4")
    result = rung(x, w)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, reference.conv2d(x.astype(float), w), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(rung(x.T.copy().T, w), result)  # the layout does not matter


@pytest.mark.parametrize("rung", [RUNGS[0], RUNGS[-2]], ids=lambda rung: rung.__name__)
def test_float64(rung):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 5, 9, 3)), rng.standard_normal((3, 2, 3, 19))
    np.testing.assert_allclose(rung(x, w), reference.conv2d(x, w), atol=1e-13)


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.__name__)
def test_bad_input(rung):
    x, w = np.ones((1, 4, 4, 2), np.float32), np.ones((3, 3, 2, 5), np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        rung(x, w[:, :, :1])
    with pytest.raises(ValueError, match="too large"):
        rung(x[:, :2], w)
    with pytest.raises(TypeError, match="w is float64"):
        rung(x, w.astype(float))


def test_each_rung_tells_its_lesson():
    for number, rung in enumerate(RUNGS, 1):
        assert rung.__doc__.startswith(f"Rung {number}: ")
