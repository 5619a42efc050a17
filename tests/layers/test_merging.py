import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinydl as tl
from tinydl.layers import Add, Concatenate, layer_config, layer_from_config

from .contract import few_examples

rng = np.random.default_rng(0)


def built(layer, shapes):
    layer.initialize(shapes, rng, np.float64)
    return layer


@few_examples
@given(count=st.integers(2, 4), shape=st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_add(count, shape):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(2, *shape)) for _ in range(count)]
    layer = built(Add(), [tuple(shape)] * count)
    before = [array.copy() for array in x]
    np.testing.assert_allclose(layer.forward(x), sum(x))
    np.testing.assert_array_equal(x, before)
    assert layer.output_shape == tuple(shape)
    tl.gradcheck(layer, x).assert_ok()


@few_examples
@given(
    lengths=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    data=st.data(),
)
def test_concatenate(lengths, shape, data):
    rng = np.random.default_rng(0)
    axis = data.draw(st.integers(0, len(shape) - 1))
    counted = data.draw(st.sampled_from([axis + 1, axis - len(shape)]))  # from the front or the end
    shapes = [(*shape[:axis], n, *shape[axis + 1 :]) for n in lengths]
    x = [rng.normal(size=(2, *s)) for s in shapes]
    layer = built(Concatenate(axis=counted), shapes)
    y = layer.forward(x)
    np.testing.assert_array_equal(y, np.concatenate(x, axis=axis + 1))
    assert y.shape[1:] == layer.output_shape
    tl.gradcheck(layer, x).assert_ok()


def test_skipping_the_input_gradient():
    for layer in (built(Add(), [(2,)] * 2), built(Concatenate(), [(2,)] * 2)):
        layer.set_needs_input_grad(False)
        y = layer.forward([np.ones((1, 2))] * 2)
        assert layer.backward(y) is None


def test_masks():
    a, b = np.array([[True, True, False]]), np.array([[True, False, True]])
    x = [np.zeros((1, 3, 2))] * 2
    add, features, time = Add(), Concatenate(), Concatenate(axis=1)
    for layer in (add, features):
        assert layer.compute_mask(x, None) is None
        np.testing.assert_array_equal(layer.compute_mask(x, [a, b]), a & b)
        np.testing.assert_array_equal(layer.compute_mask(x, [None, b]), b)
    assert time.compute_mask(x, None) is None
    expected = [[True, True, True, True, False, True]]
    np.testing.assert_array_equal(time.compute_mask(x, [None, b]), expected)


def test_lengths_that_vary():
    assert Concatenate(axis=1).compute_output_shape([(None, 2), (3, 2)]) == (None, 2)
    assert Concatenate().compute_output_shape([(None, 2), (None, 3)]) == (None, 5)
    layer = built(Add(), [(None, 2)] * 2)
    assert layer.forward([np.ones((2, 5, 2))] * 2).shape == (2, 5, 2)


def test_config():
    for layer in (Add(name="sum"), Concatenate(axis=-2)):
        assert layer_config(layer_from_config(layer_config(layer))) == layer_config(layer)


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (Add(), [(2,), (3,)], r"adds inputs of one shape, input 0 has \(2,\), input 1 has \(3,\)"),
        (Add(), (2,), "takes a list of 2 or more inputs"),
        (Add(), [(2,)], "takes a list of 2 or more inputs"),
        (Concatenate(), [(2, 3), (3, 3)], r"differ along axis -1 only, .* input 1 has \(3, 3\)"),
        (Concatenate(axis=3), [(2, 3), (2, 3)], r"cannot join inputs .* along axis 3"),
        (Concatenate(axis=-3), [(2, 3), (2, 3)], r"cannot join inputs .* along axis -3"),
    ],
)
def test_shapes_that_do_not_fit(layer, shapes, message):
    with pytest.raises(ValueError, match=message):
        layer.initialize(shapes, rng)


def test_bad_inputs():
    with pytest.raises(ValueError, match=r"other than 0 \(the batch\), got 0"):
        Concatenate(axis=0)
    layer = built(Add(), [(2,), (2,)])
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match="takes a list of 2 inputs, got 3"):
        layer.forward([x, x, x])
    with pytest.raises(ValueError, match=r"expected input 1 of shape \(3, 2\), got \(4, 2\)"):
        layer.forward([x, np.zeros((4, 2))])
    with pytest.raises(TypeError, match="computes in float64, got input 1 of float32"):
        layer.forward([x, x.astype(np.float32)])
