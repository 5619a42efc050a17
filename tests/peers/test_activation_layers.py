import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.peers.comparison import compare, few_examples, same_numbers  # noqa: E402
from tinydl.layers import Activation, LeakyReLU  # noqa: E402
from tinydl.layers.activations import NAMES  # noqa: E402

shapes = st.lists(st.integers(1, 7), min_size=2, max_size=4).map(tuple)

F = torch.nn.functional
PEERS = {
    "linear": lambda z: z * 1,
    "relu": F.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.2),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "softmax": lambda z: F.softmax(z, dim=-1),
}


def test_all_have_a_peer():
    assert sorted(PEERS) == sorted(NAMES)


@few_examples
@given(st.sampled_from(NAMES), shapes, st.sampled_from([0.1, 2.0, 20.0]))
def test_activation(name, shape, spread):
    compare(
        Activation(name),
        PEERS[name],
        same_numbers().normal(0, spread, size=shape).astype(np.float32),
    )


@few_examples
@given(shapes, st.sampled_from([0.01, 0.3, 1.5]))
def test_leaky_relu(shape, slope):
    x = same_numbers().normal(size=shape).astype(np.float32)
    compare(LeakyReLU(slope), lambda z: F.leaky_relu(z, slope), x)
