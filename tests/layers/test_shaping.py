import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers.contract import built, check_layer, few_examples, same_numbers
from tinydl.layers import Flatten, Reshape

rng = np.random.default_rng(0)


@few_examples
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple))
def test_flatten_contract(shape):
    check_layer(Flatten(), same_numbers().normal(size=shape))


@few_examples
@given(st.permutations([2, 3, 1, 4]), st.integers(0, 4), st.integers(1, 3))
def test_reshape_contract(sizes, unknown, batch):
    target = [-1 if i == unknown else n for i, n in enumerate(sizes)]
    check_layer(Reshape(target), same_numbers().normal(size=(batch, 4, 6)))


def test_order_of_elements():
    x = rng.normal(size=(2, 3, 4))
    assert built(Flatten(), x, np.float64).forward(x)[1].tolist() == x[1].ravel().tolist()
    assert built(Reshape((6, -1)), x, np.float64).forward(x)[1, 5].tolist() == x[1, 2, 2:].tolist()


def test_mask_ends_here():
    x = rng.normal(size=(2, 3, 4))
    for layer in (Flatten(), Reshape((4, 3))):
        assert built(layer, x).compute_mask(x, np.ones((2, 3), bool)) is None


@pytest.mark.parametrize("target", [(0, 3), (2.5,), (-1, -1), (-2, 3), "ab", None])
def test_wrong_target(target):
    with pytest.raises(ValueError, match="Reshape: target_shape must hold positive integers"):
        Reshape(target)


@pytest.mark.parametrize("target", [(5, 5), (7, -1)])
def test_target_that_does_not_fit(target):
    with pytest.raises(ValueError, match=r"'fold' cannot reshape \(3, 4\) \(12 elements\) to"):
        Reshape(target, name="fold").initialize((3, 4), rng)


def test_unknown_size():
    for layer in (Flatten(name="fold"), Reshape((3, 4), name="fold")):
        with pytest.raises(ValueError, match=r"'fold' needs an input whose shape is known"):
            layer.initialize((None, 4), rng)
