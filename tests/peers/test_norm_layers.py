import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.peers.comparison import assert_close, compare, few_examples, same_numbers  # noqa: E402
from tinydl.layers import BatchNorm, LayerNorm  # noqa: E402

F = torch.nn.functional
shapes = st.tuples(st.integers(4, 9), st.integers(1, 5), st.integers(1, 5), st.integers(1, 20))


def draw(shape):
    return same_numbers().normal(1.0, 2.0, size=shape).astype(np.float32)


@few_examples
@given(shapes, st.booleans(), st.booleans(), st.booleans())
def test_batch_norm(shape, center, scale, training):
    momentum, channels, rows = 0.9, shape[-1], int(np.prod(shape[:-1]))
    running_mean, running_var = torch.zeros(channels), torch.ones(channels)

    def peer(x, gamma=None, beta=None):
        y = F.batch_norm(
            x.reshape(rows, channels), running_mean, running_var, gamma, beta,
            training=training, momentum=1 - momentum, eps=1e-3,
        )  # fmt: skip
        return y.reshape(shape)

    layer = compare(
        BatchNorm(momentum, center=center, scale=scale), peer, draw(shape), training=training
    )
    assert_close(layer.state["running_mean"], running_mean, "running means")
    if training:  # PyTorch's running variance is that of a sample: divided by rows - 1
        running_var = momentum + (running_var - momentum) * (rows - 1) / rows
    assert_close(layer.state["running_var"], running_var, "running variances")


@few_examples
@given(shapes, st.booleans(), st.booleans())
def test_layer_norm(shape, center, scale):
    def peer(x, gamma=None, beta=None):
        return F.layer_norm(x, shape[-1:], gamma, beta, eps=1e-3)

    # Where a row's variance is about zero, 1/σ is up to 1/√ε and multiplies what PyTorch rounds in x - μ.
    compare(LayerNorm(center=center, scale=scale), peer, draw(shape), tolerance=1e-4)
