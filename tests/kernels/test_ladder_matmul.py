"""Every rung of the ladder computes the same product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl_kernels.cpu.ladder.matmul import RUNGS

sizes = st.sampled_from([1, 2, 5, 6, 7, 12, 31, 33, 70, 130])
widths = st.sampled_from([1, 2, 5, 7, 33, 130, 1030])  # the last is wider than a block


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.__name__)
@settings(max_examples=12, deadline=None)
@given(m=sizes, k=sizes, n=widths)
def test_equals_numpy(rung, m, k, n):
    rng = np.random.default_rng(m + 100 * k + 10000 * n)
    a, b = (rng.standard_normal(shape).astype("f4") for shape in ((m, k), (k, n)))
    result = rung(a, b)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, a.astype(float) @ b, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(rung(a.T.copy().T, b), result)  # the layout does not matter


@pytest.mark.parametrize("rung", [RUNGS[0], RUNGS[-2]], ids=lambda rung: rung.__name__)
def test_float64(rung):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((31, 50)), rng.standard_normal((50, 45))
    np.testing.assert_allclose(rung(a, b), a @ b, atol=1e-13)


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.__name__)
def test_bad_input(rung):
    ones = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        rung(ones, ones)
    with pytest.raises(TypeError, match="b is float64"):
        rung(ones, ones.T.astype(float))


def test_each_rung_tells_its_lesson():
    for number, rung in enumerate(RUNGS, 1):
        assert rung.__doc__.startswith(f"Rung {number}: ")
