"""Initial values: shapes, variances, limits, orthogonality, repeatability."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl.configs import as_config
from tinydl.initializers import (
    INITIALIZERS,
    Constant,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    VarianceScaling,
    fans,
    get,
)


def draw(name, shape, seed=0):
    return get(name)(shape, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), (1, 1)),
        ((7,), (7, 7)),
        ((5, 3), (5, 3)),
        ((3, 2, 5, 4), (30, 24)),
        ((3, 5, 4), (15, 12)),
    ],
)
def test_fans_of_dense_and_convolution_weights(shape, expected):
    assert fans(shape) == expected


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("glorot_uniform", 2 / (200 + 300)),
        ("glorot_normal", 2 / (200 + 300)),
        ("he_uniform", 2 / 200),
        ("he_normal", 2 / 200),
        ("lecun_uniform", 1 / 200),
        ("lecun_normal", 1 / 200),
    ],
)
def test_scaled_ones_have_their_variance(name, variance):
    w = draw(name, (200, 300))
    assert w.var() == pytest.approx(variance, rel=0.03)  # 60,000 draws: five standard errors
    assert abs(w.mean()) < 5 * math.sqrt(variance / w.size)
    if name.endswith("uniform"):
        assert np.abs(w).max() == pytest.approx(math.sqrt(3 * variance), rel=0.01)
        assert np.abs(w).max() <= math.sqrt(3 * variance)
    else:
        assert np.abs(w).max() > math.sqrt(3 * variance)


def test_he_keeps_the_size_of_activations_through_relu_layers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 256))
    for k in range(10):
        x = np.maximum(x @ draw("he_normal", (256, 256), k), 0)
    assert 0.3 < np.mean(x**2) < 3


def test_fan_out_is_for_the_way_back():
    w = VarianceScaling(1.0, "fan_out", "normal")((100, 400), np.random.default_rng(0))
    assert w.var() == pytest.approx(1 / 400, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.integers(0, 2**32))
def test_orthogonal_rows_or_columns(shape, seed):
    w = Orthogonal(gain=3.0)(tuple(shape), np.random.default_rng(seed))
    assert w.shape == tuple(shape)
    matrix = w.reshape(-1, shape[-1])
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(gram, 9 * np.eye(len(gram)), atol=1e-12)


def test_orthogonal_needs_a_matrix():
    with pytest.raises(ValueError, match="two or more dimensions"):
        draw("orthogonal", (5,))


def test_plain_ones():
    assert not draw("zeros", (2, 3)).any()
    assert (draw("ones", (4,)) == 1).all()
    assert (Constant(2.5)((2, 2), None) == 2.5).all()
    w = RandomNormal(3.0, 0.5)((40_000,), np.random.default_rng(0))
    assert (w.mean(), w.std()) == (pytest.approx(3.0, abs=0.02), pytest.approx(0.5, rel=0.02))
    w = RandomUniform(-1, 3)((40_000,), np.random.default_rng(0))
    assert -1 <= w.min() < -0.99 and 2.99 < w.max() <= 3


@pytest.mark.parametrize("name", INITIALIZERS)
def test_repeatable_in_float64_and_led_back_by_config(name):
    first = draw(name, (4, 6), seed=5)
    assert first.shape == (4, 6)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, draw(name, (4, 6), seed=5))
    again = get(as_config(get(name)))
    assert type(again) is INITIALIZERS[name]
    np.testing.assert_array_equal(again((4, 6), np.random.default_rng(5)), first)
    if name not in ("zeros", "ones", "constant"):
        assert not np.array_equal(first, draw(name, (4, 6), seed=6))


def test_config_keeps_arguments():
    initializer = VarianceScaling(2.5, "fan_avg", "normal")
    again = get(as_config(initializer))
    assert again.config() == {"scale": 2.5, "mode": "fan_avg", "distribution": "normal"}
    assert get(initializer) is initializer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VarianceScaling(scale=0), "scale must be a finite number > 0, got 0"),
        (lambda: VarianceScaling(mode="fan"), "mode must be fan_in, fan_out or fan_avg"),
        (lambda: VarianceScaling(distribution="cauchy"), "distribution must be normal or uniform"),
        (lambda: RandomUniform(1, -1), "maxval must be a finite number >= 1.0, got -1"),
        (lambda: RandomUniform("a", 1), "RandomUniform: minval must be a finite number, got 'a'"),
        (lambda: get("he_norml"), "did you mean 'he_normal'"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
