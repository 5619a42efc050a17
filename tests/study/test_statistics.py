"""Statistics against their definitions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinydl.study.statistics import expected_best, geometric_mean, mean, window

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=5)


def test_interval_of_five_by_the_table():
    """t(0.975, 4 degrees of freedom) = 2.776."""
    m = mean([1.0, 2.0, 3.0, 4.0, 5.0])
    assert m.value == 3 and m.n == 5
    assert m.half_width == pytest.approx(2.776 * math.sqrt(2.5) / math.sqrt(5), rel=1e-3)
    assert m.text() == "3.0 ± 2.0" and mean([2.0]).text(2) == "2.00"
    assert mean([2.0]).half_width is None


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(2000, 5))
    means = [mean(row) for row in draws]
    share = np.mean([abs(m.value) <= m.half_width for m in means])
    assert 0.935 < share < 0.965


@given(values=VALUES, budget=st.integers(1, 4), higher=st.booleans())
def test_expected_best_is_the_mean_over_all_draws(values, budget, higher):
    best = max if higher else min
    every = [best(draw) for draw in itertools.product(values, repeat=budget)]
    assert expected_best(values, budget, higher) == pytest.approx(np.mean(every), abs=1e-9)


@given(values=VALUES)
def test_a_larger_budget_is_never_worse(values):
    expected = [expected_best(values, k) for k in range(1, 6)]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(expected))
    assert expected_best(values, 10_000) == pytest.approx(max(values), abs=0.1)


@pytest.mark.parametrize(
    ("by_rate", "decades"),
    [
        ({1e-3: 90, 1e-2: 91, 1e-1: 92, 1.0: 50}, 2),
        ({1e-3: 91, 1e-2: 50, 1e-1: 92, 1.0: 91}, 1),  # what a gap parts is not one window
        ({1e-3: 92, 1e-2: 50}, 0),
        ({1e-3: 90.0, 1e-2: 92.0}, 1),  # exactly two points
    ],
)
def test_window(by_rate, decades):
    assert window(by_rate, 2.0) == pytest.approx(decades)
    losses = {rate: -value for rate, value in by_rate.items()}
    assert window(losses, 2.0, higher_is_better=False) == pytest.approx(decades)


def test_geometric_mean():
    assert geometric_mean([2, 0.5]) == pytest.approx(1)
    for bad in ([], [1, 0]):
        with pytest.raises(ValueError, match="positive"):
            geometric_mean(bad)


def test_nothing_to_average():
    for call in (lambda: mean([]), lambda: expected_best([], 1), lambda: expected_best([1], 0)):
        with pytest.raises(ValueError, match="at least one"):
            call()
