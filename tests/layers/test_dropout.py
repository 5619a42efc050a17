import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers.contract import built, check_layer, few_examples, same_numbers
from tinydl.layers import Dropout

rng = np.random.default_rng(0)


@few_examples
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple),
    st.sampled_from([0.0, 0.3, 0.9]),
    st.booleans(),
)
def test_contract(shape, rate, training):
    check_layer(Dropout(rate), same_numbers().normal(size=shape), training=training)


def test_inference_changes_nothing():
    x = rng.normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(built(Dropout(0.5), x).forward(x), x)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_share_and_scale(rate):
    """Of n elements, n · rate are zero, give or take 5 standard deviations; the rest is scaled."""
    x = np.ones((200, 100), np.float32)
    y = built(Dropout(rate), x).forward(x, training=True)
    deviation = np.sqrt(rate * (1 - rate) / x.size)
    assert np.mean(y == 0) == pytest.approx(rate, abs=5 * deviation)
    np.testing.assert_array_equal(y[y != 0], np.float32(1 / (1 - rate)))


def test_gradient_goes_where_the_input_went():
    x = np.ones((20, 10), np.float32)
    layer = built(Dropout(0.5), x)
    y = layer.forward(x, training=True)
    np.testing.assert_array_equal(layer.backward(np.ones_like(x)), y)


def test_one_seed_one_mask_and_a_new_one_at_each_step():
    x = np.ones((20, 10), np.float32)
    a, b = built(Dropout(0.5), x, seed=1), built(Dropout(0.5), x, seed=1)
    first = a.forward(x, training=True)
    np.testing.assert_array_equal(first, b.forward(x, training=True))
    assert not np.array_equal(first, a.forward(x, training=True))


def test_twins_of_a_shared_layer_draw_different_masks():
    x = np.ones((20, 10), np.float32)
    layer = built(Dropout(0.5), x)
    twin = layer.share()
    masks = layer.forward(x, training=True), twin.forward(x, training=True)
    assert not np.array_equal(*masks)


def test_without_random_numbers():
    layer = Dropout(0.5, name="drop")
    layer.initialize((3,), rng)
    with pytest.raises(RuntimeError, match=r"'drop' has no random numbers .* set layer.rng"):
        layer.forward(np.ones((2, 3), np.float32), training=True)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_wrong_rate(rate):
    with pytest.raises(ValueError, match=r"Dropout: rate must lie in \[0, 1\), got"):
        Dropout(rate)
