import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.layers.test_conv2d import windows  # noqa: E402
from tests.peers.comparison import (  # noqa: E402
    channels_first,
    channels_last,
    compare,
    few_examples,
    pads_for,
    same_numbers,
)
from tests.peers.test_activation_layers import PEERS  # noqa: E402
from tinydl.layers import Conv2D, DepthwiseConv2D  # noqa: E402

F = torch.nn.functional


def conv(layer, groups):
    def peer(x, weight, bias=None):
        z = F.conv2d(
            F.pad(channels_first(x), pads_for(layer, x)),
            weight.permute(3, 2, 0, 1),  # (R, S, C / G, K) -> (K, C / G, R, S)
            bias,
            stride=layer.strides,
            dilation=layer.dilation_rate,
            groups=groups,
        )
        return PEERS[layer.activation.name](channels_last(z))

    return peer


@few_examples
@given(
    windows(),
    st.integers(1, 5),
    st.sampled_from([(1, 1, 1), (3, 17, 1), (16, 32, 1), (4, 6, 2), (6, 6, 3)]),
    st.sampled_from(["linear", "relu", "gelu", "tanh"]),
    st.booleans(),
)
def test_conv2d(window, batch, sizes, activation, use_bias):
    arguments, (height, width) = window
    channels, filters, groups = sizes
    x = same_numbers().normal(size=(batch, height, width, channels)).astype(np.float32)
    layer = Conv2D(filters, groups=groups, activation=activation, use_bias=use_bias, **arguments)
    compare(layer, conv(layer, groups), x)


@few_examples
@given(windows(), st.integers(1, 5), st.sampled_from([1, 3, 8, 33]), st.integers(1, 3))
def test_depthwise_conv2d(window, batch, channels, multiplier):
    arguments, (height, width) = window
    x = same_numbers().normal(size=(batch, height, width, channels)).astype(np.float32)
    layer = DepthwiseConv2D(depth_multiplier=multiplier, **arguments)
    compare(layer, conv(layer, channels), x)


@pytest.mark.parametrize("strides", [1, 2])
def test_conv2d_as_networks_have_it(strides):
    x = same_numbers().normal(size=(8, 28, 28, 16)).astype(np.float32)
    layer = Conv2D(32, 3, strides, "same", activation="relu")
    compare(layer, conv(layer, 1), x)
