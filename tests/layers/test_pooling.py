import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers.contract import built, check_layer, few_examples, same_numbers
from tinydl.layers import AvgPool2D, GlobalAvgPool2D, MaxPool2D

rng = np.random.default_rng(0)
images = st.tuples(st.integers(1, 3), st.integers(3, 7), st.integers(3, 7), st.integers(1, 4))


@pytest.mark.parametrize("kind", [MaxPool2D, AvgPool2D])
@few_examples
@given(
    shape=images,
    pool_size=st.sampled_from([1, 2, 3, (2, 3)]),
    strides=st.sampled_from([None, 1, 2, 4, (3, 1)]),
    padding=st.sampled_from(["valid", "same"]),
)
def test_contract(kind, shape, pool_size, strides, padding):
    check_layer(kind(pool_size, strides, padding), same_numbers().normal(size=shape))


@few_examples
@given(shape=st.tuples(*[st.integers(1, 5)] * 4), keepdims=st.booleans())
def test_global_contract(shape, keepdims):
    check_layer(GlobalAvgPool2D(keepdims), same_numbers().normal(size=shape))


def test_max_and_where_its_gradient_goes():
    x = np.array([[1.0, 5.0, 2.0], [3.0, 4.0, 6.0]]).reshape(1, 2, 3, 1)
    layer = built(MaxPool2D((2, 2), strides=1), x, np.float64)
    assert layer.forward(x).ravel().tolist() == [5.0, 6.0]
    dx = layer.backward(np.array([10.0, 20.0]).reshape(1, 1, 2, 1))
    assert dx.reshape(2, 3).tolist() == [[0.0, 10.0, 0.0], [0.0, 0.0, 20.0]]


def test_overlapping_windows_add_at_one_maximum():
    x = np.array([0.0, 7.0, 1.0]).reshape(1, 1, 3, 1)
    layer = built(MaxPool2D((1, 2), strides=1), x, np.float64)
    assert layer.forward(x).ravel().tolist() == [7.0, 7.0]
    assert layer.backward(np.ones((1, 1, 2, 1))).ravel().tolist() == [0.0, 2.0, 0.0]


def test_padding_is_no_maximum_and_does_not_count_in_means():
    x = np.full((1, 3, 3, 1), -4.0)
    for kind in (MaxPool2D, AvgPool2D):
        y = built(kind(2, padding="same"), x, np.float64).forward(x)
        np.testing.assert_array_equal(y, np.full((1, 2, 2, 1), -4.0))


def test_global_mean():
    x = rng.normal(size=(3, 4, 5, 2))
    y = built(GlobalAvgPool2D(), x, np.float64).forward(x)
    np.testing.assert_allclose(y, x.mean(axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize("kind", [MaxPool2D, AvgPool2D])
def test_wrong_arguments_and_shapes(kind):
    name = kind.__name__
    with pytest.raises(ValueError, match=f"{name}: pool_size must be an int or a pair"):
        kind(0)
    with pytest.raises(ValueError, match=f"{name}: strides must be an int or a pair"):
        kind(2, strides=(1, 0))
    with pytest.raises(ValueError, match=f"{name}: padding must be"):
        kind(2, padding="half")
    with pytest.raises(ValueError, match=r"'pool', input \(3, 9, 2\): .* along its height"):
        kind(4, name="pool").initialize((3, 9, 2), rng)
    with pytest.raises(ValueError, match=r"'pool' expected images .* got \(9,\)"):
        kind(4, name="pool").initialize((9,), rng)
