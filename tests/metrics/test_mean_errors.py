"""Mean errors of regressions against scikit-learn, with weights, masks and time axes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error

from tinydl import metrics

PAIRS = [("mae", mean_absolute_error), ("mse", mean_squared_error)]


@pytest.mark.parametrize(("name", "expected"), PAIRS)
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 2**32), st.booleans())
def test_errors_are_those_of_scikit_learn(name, expected, samples, values, seed, weighted):
    rng = np.random.default_rng(seed)
    p, t = rng.normal(size=(2, samples, values))
    weight = rng.random(samples) + 0.1 if weighted else None
    metric, cut = metrics.get(name), samples // 2
    for part in (slice(cut), slice(cut, None)):
        metric.update(p[part], t[part], None if weight is None else weight[part])
    assert metric.result() == pytest.approx(expected(t, p, sample_weight=weight))
    assert metric.name == name


@pytest.mark.parametrize(("name", "expected"), PAIRS)
def test_a_column_takes_flat_targets_and_a_mask_drops_steps(name, expected):
    rng = np.random.default_rng(0)
    p, t = rng.normal(size=(2, 5, 3))
    metric = metrics.get(name)
    metric.update(p.reshape(-1, 1), t.ravel())
    assert metric.result() == pytest.approx(expected(t.ravel(), p.ravel()))
    mask = rng.random((5, 3)) < 0.5
    dropped = np.where(mask, t, np.nan)
    metric.reset()
    metric.update(p[..., None], dropped[..., None], mask=mask)
    assert metric.result() == pytest.approx(expected(t[mask], p[mask]))


def test_targets_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(4, 1\), got \(3,\)"):
        metrics.get("mae").update(np.zeros((4, 1)), np.zeros(3))
    with pytest.raises(ValueError, match=r"shape \(4, 3\), got \(3, 4\)"):
        metrics.get("mse").update(np.zeros((4, 3)), np.zeros((3, 4)))
