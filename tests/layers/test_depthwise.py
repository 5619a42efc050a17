import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers.contract import built, check_layer, few_examples, same_numbers
from tests.layers.test_conv2d import windows
from tinydl.layers import Conv2D, DepthwiseConv2D

rng = np.random.default_rng(0)


@few_examples
@given(
    windows(), st.integers(1, 3), st.integers(1, 5), st.integers(1, 3),
    st.sampled_from(["linear", "relu", "silu"]), st.booleans(),
)  # fmt: skip
def test_contract(window, batch, channels, multiplier, activation, use_bias):
    arguments, (height, width) = window
    layer = DepthwiseConv2D(
        depth_multiplier=multiplier, activation=activation, use_bias=use_bias, **arguments
    )
    check_layer(layer, same_numbers().normal(size=(batch, height, width, channels)))


def test_each_channel_by_itself():
    """Channel c gives outputs 2c and 2c + 1, convolved with filters 2c and 2c + 1 alone."""
    x = rng.normal(size=(2, 5, 6, 3))
    layer = built(DepthwiseConv2D(3, depth_multiplier=2), x, np.float64)
    y = layer.forward(x)
    for k in range(6):
        alone = Conv2D(1, 3, use_bias=False)
        alone.initialize((5, 6, 1), rng, np.float64)
        alone.weight.value[...] = layer.weight.value[..., k : k + 1]
        c = k // 2
        np.testing.assert_allclose(alone.forward(x[..., c : c + 1])[..., 0], y[..., k], rtol=1e-12)


def test_shapes():
    layer = DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=4)
    assert layer.compute_output_shape((9, 8, 3)) == (5, 4, 12)
    layer.initialize((9, 8, 3), rng)
    assert layer.weight.shape == (3, 3, 1, 12)
    assert (layer.groups, layer.filters) == (3, 12)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="depth_multiplier must be a whole number >= 1, got 0"):
        DepthwiseConv2D(3, depth_multiplier=0)
    with pytest.raises(ValueError, match="DepthwiseConv2D: strides must be"):
        DepthwiseConv2D(3, strides=-1)
