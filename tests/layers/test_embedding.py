import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers.contract import built, check_layer, few_examples, same_numbers
from tinydl.layers import Dense, Embedding

rng = np.random.default_rng(0)


@few_examples
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 9), st.integers(1, 4))
def test_contract(shape, symbols, features):
    check_layer(Embedding(symbols, features), same_numbers().integers(symbols, size=shape))


def test_is_dense_on_one_hot():
    x = rng.integers(6, size=(4, 5))
    one_hot = np.eye(6)[x]
    layer = built(Embedding(6, 3), x, np.float64)
    dense = built(Dense(3, use_bias=False), one_hot, np.float64)
    dense.weight.value[...] = layer.weight.value
    np.testing.assert_allclose(layer.forward(x), dense.forward(one_hot), rtol=1e-12)
    grad = rng.normal(size=(4, 5, 3))
    assert layer.backward(grad) is None
    dense.backward(grad)
    np.testing.assert_allclose(layer.weight.grad, dense.weight.grad, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32])
def test_whole_numbers_of_any_type(dtype):
    x = np.array([[0, 3], [2, 2]], dtype)
    layer = built(Embedding(4, 2), x)
    assert layer.forward(x)[0, 1].tolist() == layer.weight.value[3].tolist()


def test_mask_of_symbol_zero():
    x = np.array([[3, 1, 0], [0, 2, 0]])
    given_mask = np.ones((2, 3), bool)
    masked, plain = (built(Embedding(4, 2, mask_zero=flag), x) for flag in (True, False))
    assert masked.compute_mask(x, None).tolist() == [[True, True, False], [False, True, False]]
    assert plain.compute_mask(x, None) is None
    assert plain.compute_mask(x, given_mask) is given_mask


@pytest.mark.parametrize(
    ("x", "culprit"),
    [
        (np.array([[0, 1], [4, 2]]), r"got 4 at \(1, 0\)"),
        (np.array([[0, -1], [3, 2]]), r"got -1 at \(0, 1\)"),
        (np.array([[0, 1], [1, 2.5]]), r"got 2.5 at \(1, 1\)"),
        (np.array([[0, 1], [np.nan, 2]]), r"got nan at \(1, 0\)"),
    ],
)
def test_indices_out_of_range(x, culprit):
    layer = Embedding(4, 2, name="words")
    layer.initialize((2,), rng)
    with pytest.raises(ValueError, match=rf"'words' expected whole numbers from 0 to 3, {culprit}"):
        layer.forward(x)


def test_wrong_arguments_and_shapes():
    with pytest.raises(ValueError, match="Embedding: input_dim must be a whole number >= 1, got 0"):
        Embedding(0, 4)
    with pytest.raises(ValueError, match="Embedding: output_dim must be a whole number >= 1"):
        Embedding(4, 1.5)
    layer = Embedding(4, 2, name="words")
    layer.initialize((3,), rng)
    with pytest.raises(ValueError, match=r"'words' expected .* \(N, 3\), got \(2, 5\)"):
        layer.forward(np.zeros((2, 5), int))
