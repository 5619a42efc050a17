import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.peers.comparison import (  # noqa: E402
    channels_first,
    channels_last,
    compare,
    few_examples,
    pads_for,
    same_numbers,
)
from tinydl.layers import AvgPool2D, GlobalAvgPool2D, MaxPool2D  # noqa: E402

F = torch.nn.functional
images = st.tuples(st.integers(1, 4), st.integers(3, 9), st.integers(3, 9), st.integers(1, 20))
arguments = (
    images,
    st.sampled_from([1, 2, 3, (2, 3)]),
    st.sampled_from([None, 1, 2, 4, (3, 1)]),
    st.sampled_from(["valid", "same"]),
)


@few_examples
@given(*arguments)
def test_max_pool2d(shape, pool_size, strides, padding):
    layer = MaxPool2D(pool_size, strides, padding)

    def peer(x):
        padded = F.pad(channels_first(x), pads_for(layer, x), value=-torch.inf)
        return channels_last(F.max_pool2d(padded, layer.pool_size, layer.strides))

    compare(layer, peer, same_numbers().normal(size=shape).astype(np.float32))


@few_examples
@given(*arguments)
def test_avg_pool2d(shape, pool_size, strides, padding):
    layer = AvgPool2D(pool_size, strides, padding)

    def mean(x):
        padded = F.pad(x, pads_for(layer, channels_last(x)))
        return F.avg_pool2d(padded, layer.pool_size, layer.strides)

    def peer(x):
        x = channels_first(x)
        real = mean(torch.ones_like(x))  # the share of each window that is not padding
        return channels_last(mean(x) / real)

    compare(layer, peer, same_numbers().normal(size=shape).astype(np.float32))


@few_examples
@given(images, st.booleans())
def test_global_avg_pool2d(shape, keepdims):
    x = same_numbers().normal(size=shape).astype(np.float32)
    compare(GlobalAvgPool2D(keepdims), lambda x: x.mean(dim=(1, 2), keepdim=keepdims), x)
