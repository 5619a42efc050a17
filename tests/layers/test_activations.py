import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinydl as tl
from tests.layers.contract import built, check_layer, few_examples, same_numbers
from tinydl.layers import (
    GELU,
    Activation,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from tinydl.layers.activations import NAMES

rng = np.random.default_rng(0)
NAMED = [ReLU, LeakyReLU, GELU, lambda: GELU(True), SiLU, Sigmoid, Tanh, Softmax]
LAYERS = [*NAMED, lambda: LeakyReLU(0.05), *(lambda n=n: Activation(n) for n in NAMES)]


@pytest.mark.parametrize("make", LAYERS, ids=lambda make: repr(make()))
def test_contract(make):
    for shape in ((1, 1), (3, 7), (2, 1, 3, 5)):
        check_layer(make(), same_numbers().normal(0.0, 2.0, size=shape))


@few_examples
@given(st.sampled_from(NAMES), st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple))
def test_gradients_on_any_shape(name, shape):
    tl.gradcheck(Activation(name), same_numbers().normal(0.0, 3.0, size=shape)).assert_ok()


X = 0.7
PHI = 0.5 * (1 + math.erf(X / math.sqrt(2)))
INNER = math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)


@pytest.mark.parametrize(
    ("layer", "positive", "negative"),
    [
        (ReLU(), X, 0.0),
        (LeakyReLU(), X, -0.3 * X),
        (LeakyReLU(0.01), X, -0.01 * X),
        (Activation("leaky_relu"), X, -0.2 * X),
        (Sigmoid(), 1 / (1 + math.exp(-X)), 1 / (1 + math.exp(X))),
        (Tanh(), math.tanh(X), -math.tanh(X)),
        (SiLU(), X / (1 + math.exp(-X)), -X / (1 + math.exp(X))),
        (GELU(), X * PHI, -X * (1 - PHI)),
        (GELU(approximate=True), X / 2 * (1 + math.tanh(INNER)), -X / 2 * (1 - math.tanh(INNER))),
        (Activation("linear"), X, -X),
    ],
    ids=repr,
)
def test_values(layer, positive, negative):
    x = np.array([[X, -X]])
    y = built(layer, x, np.float64).forward(x)
    np.testing.assert_allclose(y, [[positive, negative]], rtol=1e-14)


def test_softmax_is_along_the_last_axis_and_stable():
    x = np.array([[[1e4, 0.0, -1e4], [3.0, 3.0, 3.0]]])
    y = built(Softmax(), x, np.float64).forward(x)
    np.testing.assert_allclose(y, [[[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]])


@pytest.mark.parametrize("make", LAYERS, ids=lambda make: repr(make()))
def test_far_out_and_not_a_number(make):
    """No overflow far from zero, and a NaN goes through."""
    x = np.array([[1e4, -1e4], [np.nan, 1.0]], np.float32)
    layer = built(make(), x)
    y = layer.forward(x)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1, 0])
    assert np.isfinite(layer.backward(np.ones_like(x))[0]).all()


@pytest.mark.parametrize("name", NAMES)
def test_layers_with_an_activation_apply_the_same_function(name):
    """Dense fuses some of them into its product: with W = 1 and b = 0 it is the activation."""
    x = rng.normal(size=(5, 4))
    dense = tl.layers.Dense(4, name)
    dense.initialize((4,), rng, np.float64)
    dense.weight.value[...] = np.eye(4)
    alone = built(Activation(name), x, np.float64)
    np.testing.assert_allclose(dense.forward(x), alone.forward(x), rtol=1e-13)
    grad = rng.normal(size=(5, 4))
    np.testing.assert_allclose(dense.backward(grad), alone.backward(grad), rtol=1e-13)


def test_aliases():
    assert Activation("swish").activation.name == "silu"
    assert Activation(None).activation.name == "linear"


def test_wrong_arguments():
    for slope in (0, -0.1, float("inf"), float("nan"), "a", True):
        words = (
            f"LeakyReLU: negative_slope (ReLU's is 0) must be a finite number > 0, got {slope!r}"
        )
        with pytest.raises(ValueError, match=re.escape(words)):
            LeakyReLU(slope)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rleu", r"'rleu' \(did you mean 'relu'\?\): expected one of linear, relu"),
        ("ReLU", r"'ReLU' \(did you mean 'relu'\?\): expected one of"),
        ("xyz", "'xyz': expected one of linear, relu"),
        (["relu"], r"\['relu'\]: expected one of linear, relu"),
        (3.5, "3.5: expected one of linear, relu"),
        (ReLU(), "ReLU.*: expected one of linear, relu"),
    ],
)
def test_an_activation_that_is_none(name, words):
    with pytest.raises(ValueError, match=f"^unknown activation {words}"):
        Activation(name)
