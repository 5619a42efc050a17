import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers.contract import check_layer, few_examples, same_numbers
from tinydl.layers import Dense
from tinydl.layers.activations import NAMES

rng = np.random.default_rng(0)
small = st.integers(1, 6)


@few_examples
@given(st.lists(small, min_size=1, max_size=3), small, small, st.sampled_from(NAMES), st.booleans())
def test_contract(batch, features, units, activation, use_bias):
    layer = Dense(units, activation, use_bias, kernel_initializer="he_normal")
    check_layer(layer, same_numbers().normal(size=(*batch, features)))


def test_equation():
    x = rng.normal(size=(2, 3, 4))
    layer = Dense(5, bias_initializer="normal")
    layer.initialize((3, 4), rng, np.float64)
    expected = x @ layer.weight.value + layer.bias.value
    np.testing.assert_allclose(layer.forward(x), expected, rtol=1e-12)


def test_biases_do_not_decay():
    layer = Dense(5, kernel_regularizer="l2")
    layer.initialize((4,), rng)
    assert layer.weight.decay and layer.weight.regularizer is not None
    assert not layer.bias.decay and layer.bias.regularizer is None


@pytest.mark.parametrize("units", [0, -1, 2.5, "ten"])
def test_wrong_units(units):
    with pytest.raises(ValueError, match=r"Dense: units must be a whole number >= 1, got"):
        Dense(units)


def test_unknown_activation():
    with pytest.raises(
        ValueError,
        match=r"unknown activation 'rulu' \(did you mean 'relu'\?\): expected one of linear, relu",
    ):
        Dense(3, "rulu")


def test_wrong_shape_names_layer_and_both_shapes():
    layer = Dense(3, name="head")
    layer.initialize((7,), rng)
    with pytest.raises(ValueError, match=r"'head' expected .* \(N, 7\), got \(2, 8\)"):
        layer.forward(np.zeros((2, 8), np.float32))


def test_wrong_dtype_names_layer_and_both_types():
    layer = Dense(3, name="head")
    layer.initialize((7,), rng)
    with pytest.raises(TypeError, match=r"'head' computes in float32, got an input of float64"):
        layer.forward(np.zeros((2, 7)))
