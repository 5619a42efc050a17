import numpy as np
import pytest

import tinydl as tl
from tinydl.layers import Dense, Masking

from .contract import check_layer


def masked_input():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 2))
    x[0, 2:] = 7
    x[1] = 7
    x[2, 0, 0] = 7  # one feature alone does not make padding
    return x, np.array([[True, True, False, False], [False] * 4, [True] * 4])


def test_steps_that_hold_the_mask_value_are_masked_and_become_zero():
    x, expected = masked_input()
    layer = Masking(mask_value=7)
    layer.initialize((4, 2), None, np.float64)
    np.testing.assert_array_equal(layer.compute_mask(x, None), expected)
    np.testing.assert_array_equal(layer.forward(x), np.where(expected[..., None], x, 0))
    earlier = np.array([[True, False, True, True]] * 3)
    np.testing.assert_array_equal(layer.compute_mask(x, earlier), expected & earlier)


def test_gradient_stops_at_masked_steps():
    x, mask = masked_input()
    layer = Masking(mask_value=7)
    layer.initialize((4, 2), None, np.float64)
    layer.forward(x)
    grad = np.random.default_rng(1).normal(size=x.shape)
    np.testing.assert_array_equal(layer.backward(grad), np.where(mask[..., None], grad, 0))


def test_contract():
    check_layer(Masking(-1.0), np.random.default_rng(0).normal(size=(2, 3, 2)))


def test_a_loss_leaves_masked_steps_out():
    """The mask goes through the layers to the loss: padding changes neither loss nor gradient."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1, 5, 2)), rng.integers(0, 3, size=(1, 5))
    x[:, 3:], y[:, 3:] = 0, -1  # -1 is no class: nobody may look at it
    model = tl.Sequential([Masking(), Dense(3)], dtype="float64")
    model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    model.build_model((None, 2))
    whole = model.evaluate(x, y)
    assert whole == model.evaluate(x[:, :3], y[:, :3])


def test_needs_sequences():
    with pytest.raises(ValueError, match=r"'masking' takes sequences .* shape \(3,\)"):
        Masking().initialize((3,), None)
