"""Standardization and rescaling against their equations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl.data import DataError, Rescale, Standardize


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    dtype=st.sampled_from(["uint8", "int64", "float32", "float64"]),
    per=st.sampled_from(["channel", "feature"]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_standardize_equals_its_equation(shape, dtype, per, seed):
    x = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    axes = 0 if per == "feature" or x.ndim == 1 else tuple(range(x.ndim - 1))
    mean, std = x.mean(axis=axes, dtype=np.float64), x.astype(np.float64).std(axis=axes)
    transform = Standardize.fit(x, per)
    np.testing.assert_allclose(transform.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(transform.std, std, rtol=1e-10, atol=1e-12)
    z = transform(x)
    assert z.dtype == (np.float64 if dtype == "float64" else np.float32)
    expected = (x - mean) / np.where(std == 0, 1, std)
    np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(transform.invert(z), x, rtol=1e-5, atol=1e-3)


def test_result_has_mean_0_and_variance_1_and_the_input_is_untouched():
    x = np.random.default_rng(0).normal(50, 7, (1000, 4, 4, 3)).astype(np.float32)
    before = x.copy()
    z = Standardize.fit(x)(x)
    np.testing.assert_allclose(z.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(axis=(0, 1, 2)), 1, atol=1e-4)
    np.testing.assert_array_equal(x, before)


def test_a_large_mean_does_not_cancel_the_variance():
    x = np.array([1e8, 1e8 + 1, 1e8 + 2])[:, None]
    np.testing.assert_allclose(Standardize.fit(x).std, [np.sqrt(2 / 3)], rtol=1e-6)


def test_many_pieces_give_the_same_statistics(monkeypatch):
    x = np.random.default_rng(0).normal(size=(50, 3, 2))
    whole = Standardize.fit(x)
    monkeypatch.setattr("tinydl.data.transforms.PIECE_BYTES", 100)
    pieces = Standardize.fit(x)
    np.testing.assert_allclose(pieces.mean, whole.mean, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(pieces.std, whole.std, rtol=1e-12)


def test_a_constant_feature_becomes_zero():
    z = Standardize.fit(np.full((5, 2), 3.0))(np.full((5, 2), 3.0))
    np.testing.assert_array_equal(z, 0)


def test_rescale():
    y = Rescale(1 / 255, -0.5)(np.array([0, 255], np.uint8))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, [-0.5, 0.5], atol=1e-7)
    assert Rescale(2)(np.zeros(1)).dtype == np.float64


def test_configuration_round_trip_through_json():
    transform = Standardize([1.5, 2], [3, 0.0])
    again = Standardize(**json.loads(json.dumps(transform.config())))
    x = np.random.default_rng(0).normal(size=(4, 2))
    np.testing.assert_array_equal(again(x), transform(x))


def test_bad_arguments():
    with pytest.raises(DataError, match="std must be >= 0"):
        Standardize(0, -1)
    with pytest.raises(DataError, match="mean must be finite"):
        Standardize(np.nan, 1)
    with pytest.raises(DataError, match="NaN or infinity"):
        Standardize.fit(np.array([[1.0], [np.inf]]))
    with pytest.raises(DataError, match="x must be a NumPy array, got list"):
        Standardize.fit([[1.0, 2.0]])
    with pytest.raises(DataError, match="at least one sample"):
        Standardize.fit(np.zeros((0, 3)))
    with pytest.raises(DataError, match=r"shape \(3,\) do not fit samples of shape \(28, 28, 1\)"):
        Standardize([0, 0, 0], [1, 1, 1])(np.zeros((2, 28, 28, 1)))
    with pytest.raises(ValueError, match="per must be"):
        Standardize.fit(np.zeros((2, 3)), per="pixel")
