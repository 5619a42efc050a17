"""Penalties by hand, their gradients by central differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl.configs import as_config
from tinydl.regularizers import L1, L1L2, L2, get

W = np.array([[1.0, -2.0], [0.0, 3.0]])


def test_by_hand():
    assert L1(0.5).penalty(W) == 3.0
    assert L2(0.5).penalty(W) == 7.0
    assert L1L2(0.1, 0.2).penalty(W) == pytest.approx(0.6 + 2.8)
    np.testing.assert_array_equal(L1(0.5).gradient(W), [[0.5, -0.5], [0, 0.5]])
    np.testing.assert_array_equal(L2(0.5).gradient(W), W)


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 2), st.floats(0, 2), st.integers(0, 2**32))
def test_gradient_is_that_of_the_penalty(l1, l2, seed):
    rng = np.random.default_rng(seed)
    w = rng.choice([-1, 1], (3, 2)) * rng.uniform(0.1, 2, (3, 2))
    regularizer, h = L1L2(l1, l2), 1e-5
    gradient = regularizer.gradient(w)
    for i in np.ndindex(w.shape):
        up, down = w.copy(), w.copy()
        up[i] += h
        down[i] -= h
        numeric = (regularizer.penalty(up) - regularizer.penalty(down)) / (2 * h)
        assert gradient[i] == pytest.approx(numeric, rel=1e-6, abs=1e-9)


def test_float32_weights_are_summed_in_float64():
    w = np.full(1_000_003, 0.1, np.float32)
    assert L2(1.0).penalty(w) == pytest.approx(1_000_003 * float(np.float32(0.1)) ** 2, rel=1e-12)
    assert L2(1.0).gradient(w).dtype == np.float32


@pytest.mark.parametrize("regularizer", [L1(0.3), L2(0.4), L1L2(0.1, 0.2)])
def test_configs_lead_back(regularizer):
    again = get(as_config(regularizer))
    assert type(again) is type(regularizer)
    assert again.penalty(W) == regularizer.penalty(W)
    assert get(regularizer) is regularizer


def test_names():
    assert get(None) is None
    assert get("l2").config() == {"l2": 0.01}
    with pytest.raises(ValueError, match="unknown regularizer 'l3'"):
        get("l3")


@pytest.mark.parametrize("factor", [-1, np.nan, np.inf, "a", True])
def test_bad_factors_are_refused(factor):
    for make in (L1, L2):
        with pytest.raises(ValueError, match="must be a finite number >= 0"):
            make(factor)
