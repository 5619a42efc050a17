"""MSE, MAE and Huber: values by hand, gradients from central differences, shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tinydl.configs import as_config
from tinydl.losses import (
    LOSSES,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SparseCategoricalCrossentropy,
    get,
)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([MeanSquaredError(), MeanAbsoluteError(), Huber(), Huber(0.3)]),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_gradient_is_that_of_the_value(loss, shape, weighted, seed):
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=shape)
    # Residuals keep clear of the kinks at 0 and ±δ, where a slope is one-sided.
    residual = rng.choice([-1, 1], shape) * rng.choice([0.1, 0.7, 2.0], shape)
    p = targets + residual
    weight = rng.random(shape[0]) if weighted else None
    loss.forward(p, targets, weight)
    analytic, h = loss.backward(), 1e-4
    for i in np.ndindex(*shape):
        up, down = p.copy(), p.copy()
        up[i] += h
        down[i] -= h
        numeric = (loss.forward(up, targets, weight) - loss.forward(down, targets, weight)) / (
            2 * h
        )
        assert analytic[i] == pytest.approx(numeric, rel=1e-7, abs=1e-10)


@pytest.mark.parametrize(
    ("loss", "expected", "gradient"),
    [
        (MeanSquaredError(), [(0.25 + 9) / 2, 0], [[0.5, -3], [0, 0]]),
        (MeanAbsoluteError(), [(0.5 + 3) / 2, 0], [[0.5, -0.5], [0, 0]]),
        (Huber(), [(0.125 + 2.5) / 2, 0], [[0.25, -0.5], [0, 0]]),
        (Huber(delta=4), [(0.125 + 4.5) / 2, 0], [[0.25, -1.5], [0, 0]]),
    ],
)
def test_values_by_hand(loss, expected, gradient):
    predictions, targets = np.array([[1.5, 0], [2, 2]]), np.array([[1, 3], [2, 2]])
    assert loss.forward(predictions, targets) == pytest.approx(sum(expected) / 2)
    assert_allclose(loss.backward(), np.array(gradient) / 2)
    assert loss.forward(predictions, targets, [3, 1]) == pytest.approx(3 * expected[0] / 2)
    assert loss.forward(predictions, targets, mask=np.array([True, False])) == expected[0]


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "binary_crossentropy"])
def test_a_column_of_one_takes_targets_without_it(loss):
    """(N, 1) against (N,) would broadcast to (N, N) if it were merely subtracted."""
    loss = get(loss)
    p, t = np.array([0.3, -1.0, 2.0]), np.array([1, 0, 1])
    flat = loss.forward(p, t)
    gradient = loss.backward()
    assert gradient.shape == (3,)
    assert loss.forward(p[:, None], t) == flat
    assert_array_equal(loss.backward(), gradient[:, None])
    with pytest.raises(ValueError, match=r"predictions' shape \(3,\), got \(3, 1\)"):
        loss.forward(p, t[:, None])


def test_masked_steps_do_not_count():
    p, t = np.ones((2, 2, 3)), np.zeros((2, 2, 3))
    t[1, 1] = np.nan  # padding
    mask = np.array([[True, True], [True, False]])
    loss = MeanSquaredError()
    assert loss.forward(p, t, mask=mask) == 1.0
    assert loss.count == 3
    assert_array_equal(loss.backward()[1, 1], 0)
    assert_allclose(loss.backward()[0], 2 / 9)


def test_large_float32_residuals_do_not_overflow():
    loss = MeanSquaredError()
    assert loss.forward(np.full((2, 1), 1e30, np.float32), [0, 0]) == pytest.approx(1e60, rel=1e-6)


@pytest.mark.parametrize("delta", [0, -1, np.inf, np.nan])
def test_bad_delta_is_refused(delta):
    with pytest.raises(ValueError, match="delta must be a finite number > 0"):
        Huber(delta)


@pytest.mark.parametrize("name", LOSSES)
def test_names_and_configs_lead_back(name):
    loss = get(name)
    again = get(as_config(loss))
    assert type(again) is type(loss)
    assert again.config() == loss.config()
    assert get(loss) is loss


def test_config_keeps_arguments():
    loss = get(as_config(SparseCategoricalCrossentropy(from_logits=False, label_smoothing=0.2)))
    assert (loss.from_logits, loss.label_smoothing) == (False, 0.2)
    assert get(as_config(Huber(2.0))).delta == 2.0


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'huber'"):
        get("hubert")
