import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.peers.comparison import compare, few_examples, same_numbers  # noqa: E402
from tinydl.layers import Embedding  # noqa: E402


@few_examples
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 20), st.integers(1, 33))
def test_embedding(shape, symbols, features):
    x = same_numbers().integers(symbols, size=shape)
    compare(Embedding(symbols, features), torch.nn.functional.embedding, x)
