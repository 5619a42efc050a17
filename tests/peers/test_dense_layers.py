import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.peers.comparison import compare, few_examples, same_numbers  # noqa: E402
from tests.peers.test_activation_layers import PEERS  # noqa: E402
from tinydl.layers import Dense  # noqa: E402


@few_examples
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(sorted(PEERS)),
    st.booleans(),
)
def test_dense(batch, features, units, activation, use_bias):
    def peer(x, weight, bias=None):
        z = torch.nn.functional.linear(x, weight.T, bias)
        return PEERS[activation](z)

    x = same_numbers().normal(size=(*batch, features)).astype(np.float32)
    compare(Dense(units, activation, use_bias), peer, x)
