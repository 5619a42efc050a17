"""Multi-head attention against its equations, central differences, and what must hold of any attention."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinydl as tl
from tinydl.layers import MultiHeadAttention

from .contract import check_layer, few_examples


def by_the_equations(layer, query, value, key, keep=None):
    """The docstring's equations with loops over samples and heads; ``keep`` (N, T, S) says which keys are seen."""
    d, v = layer.key_dim, layer.value_dim
    (w_q, b_q), (w_k, b_k), (w_v, b_v), (w_o, b_o) = (
        (weight.value, bias.value)
        for weight, bias in (layer.query, layer.key, layer.value, layer.output)
    )
    outputs = []
    for n in range(len(query)):
        heads = []
        for h in range(layer.num_heads):
            qk, vv = slice(h * d, (h + 1) * d), slice(h * v, (h + 1) * v)
            q = query[n] @ w_q[:, qk] + b_q[qk]
            k = key[n] @ w_k[:, qk] + b_k[qk]
            weights = np.exp(q @ k.T / np.sqrt(d))
            if keep is not None:
                weights = weights * keep[n]
            total = weights.sum(axis=1, keepdims=True)
            weights = weights / np.where(total == 0, 1, total)
            heads.append(weights @ (value[n] @ w_v[:, vv] + b_v[vv]))
        outputs.append(np.concatenate(heads, axis=1) @ w_o + b_o)
    return np.array(outputs)


def built(layer, shape, seed=0):
    rng = np.random.default_rng(seed)
    layer.initialize(shape, rng, np.float64)
    for p in layer.parameters():
        p.value += 0.3 * rng.normal(size=p.shape)
    return layer, rng


sizes = st.fixed_dictionaries(
    {
        name: st.integers(1, 4)
        for name in ("samples", "steps", "keys", "heads", "d", "v", "features")
    }
)


@few_examples
@given(sizes=sizes, seed=st.integers(0, 99), padded=st.booleans())
def test_equations_and_gradients_of_cross_attention(sizes, seed, padded):
    samples, steps, keys, features = (sizes[k] for k in ("samples", "steps", "keys", "features"))
    layer = MultiHeadAttention(sizes["heads"], sizes["d"], sizes["v"], output_dim=3)
    shapes = [(steps, features), (keys, 2), (keys, 3)]
    layer, rng = built(layer, shapes, seed)
    x = [rng.normal(size=(samples, *shape)) for shape in shapes]
    masks, keep = None, None
    if padded:
        masks = [None, rng.random((samples, keys)) < 0.7, rng.random((samples, keys)) < 0.7]
        masks[1][0] = False  # a sample without any key
        keep = np.broadcast_to((masks[1] & masks[2])[:, None, :], (samples, steps, keys))
    y = layer.forward(x, mask=masks)
    np.testing.assert_allclose(y, by_the_equations(layer, *x, keep), rtol=1e-10, atol=1e-12)
    tl.gradcheck(layer, x, mask=masks, max_elements=8).assert_ok()


@few_examples
@given(sizes=sizes, seed=st.integers(0, 99), causal=st.booleans(), padded=st.booleans())
def test_equations_and_gradients_of_self_attention(sizes, seed, causal, padded):
    samples, steps = sizes["samples"], sizes["steps"]
    layer = MultiHeadAttention(sizes["heads"], sizes["d"], causal=causal)
    layer, rng = built(layer, (steps, sizes["features"]), seed)
    x = rng.normal(size=(samples, steps, sizes["features"]))
    keep = np.ones((samples, steps, steps), bool)
    mask = None
    if causal:
        keep &= np.tril(np.ones((steps, steps), bool))
    if padded:
        mask = rng.random((samples, steps)) < 0.6
        keep &= mask[:, None, :]
    y = layer.forward(x, mask=mask)
    np.testing.assert_allclose(y, by_the_equations(layer, x, x, x, keep), rtol=1e-10, atol=1e-12)
    tl.gradcheck(layer, x, mask=mask, max_elements=8).assert_ok()


def test_contract():
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    check_layer(MultiHeadAttention(2, 3, causal=True, kernel_regularizer="l2"), x)
    check_layer(MultiHeadAttention(2, 3, 1, use_bias=False, output_dim=5), x)
    check_layer(MultiHeadAttention(3, 2, dropout=0.4), x)


def test_value_serves_as_key_unless_there_is_one():
    layer, rng = built(MultiHeadAttention(2, 3), [(3, 4), (5, 2)])
    query, value = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5, 2))
    np.testing.assert_allclose(
        layer.forward([query, value]), by_the_equations(layer, query, value, value), rtol=1e-10
    )
    tl.gradcheck(layer, [query, value]).assert_ok()


def test_causal_steps_do_not_see_later_ones():
    layer, rng = built(MultiHeadAttention(2, 3, causal=True), (6, 4))
    x = rng.normal(size=(2, 6, 4))
    y = layer.forward(x)
    changed = x.copy()
    changed[:, 4:] += 1
    z = layer.forward(changed)
    np.testing.assert_array_equal(z[:, :4], y[:, :4])
    assert (z[:, 4:] != y[:, 4:]).any()


def test_padding_is_as_if_it_were_not_there():
    layer, rng = built(MultiHeadAttention(2, 3), (None, 4))
    x = rng.normal(size=(1, 6, 4))
    mask = np.arange(6)[None] < 4
    y = layer.forward(x, mask=mask)
    np.testing.assert_allclose(y[:, :4], layer.forward(x[:, :4]), rtol=1e-12)


def test_without_any_key_the_output_is_the_bias():
    layer, rng = built(MultiHeadAttention(2, 3), (5, 4))
    y = layer.forward(rng.normal(size=(2, 5, 4)), mask=np.zeros((2, 5), bool))
    np.testing.assert_array_equal(y, np.broadcast_to(layer.output[1].value, y.shape))
    assert not layer.attention.any()


def test_the_order_of_steps_does_not_matter_to_self_attention():
    layer, rng = built(MultiHeadAttention(2, 3), (5, 4))
    x, order = rng.normal(size=(2, 5, 4)), rng.permutation(5)
    np.testing.assert_allclose(layer.forward(x[:, order]), layer.forward(x)[:, order], rtol=1e-12)


def test_attention_weights_can_be_looked_at():
    layer, rng = built(MultiHeadAttention(2, 3, causal=True), (5, 4))
    layer.forward(rng.normal(size=(3, 5, 4)))
    assert layer.attention.shape == (3, 2, 5, 5)
    np.testing.assert_allclose(layer.attention.sum(axis=-1), 1)
    assert not np.triu(layer.attention, k=1).any()


def test_large_scores_stay_finite():
    layer, rng = built(MultiHeadAttention(1, 2), (4, 3))
    x = 1e3 * rng.normal(size=(2, 4, 3))
    y = layer.forward(x, mask=np.array([[True] * 4, [True, False, False, False]]))
    assert np.isfinite(y).all()
    assert np.isfinite(layer.backward(np.ones_like(y))).all()


def test_dropout_leaves_out_weights_in_training_only():
    layer, rng = built(MultiHeadAttention(4, 3, dropout=0.25), (20, 4))
    x = rng.normal(size=(8, 20, 4))
    with pytest.raises(RuntimeError, match="no random numbers to draw from"):
        layer.forward(x, training=True)
    np.testing.assert_array_equal(layer.forward(x), layer.forward(x))
    layer.rng = np.random.default_rng(0)
    layer.forward(x, training=True)
    left_out = (layer.k == 0).mean()
    assert abs(left_out - 0.25) < 0.02  # of 12,800 weights: the standard deviation is 0.004
    np.testing.assert_allclose(layer.k[layer.k != 0], 1 / 0.75)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_heads must be a whole number >= 1, got 0"):
        MultiHeadAttention(0, 3)
    with pytest.raises(ValueError, match="value_dim must be a whole number >= 1, got -1"):
        MultiHeadAttention(1, 3, -1)
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1"):
        MultiHeadAttention(1, 3, dropout=1)
    rng = np.random.default_rng(0)
    for shape in [(3,), [(3, 2)], [(3, 2), (4, 2), (5, 2)]]:
        with pytest.raises(ValueError, match="'multi_head_attention' takes one sequence"):
            MultiHeadAttention(1, 3).initialize(shape, rng)


def test_bad_inputs():
    layer, _ = built(MultiHeadAttention(1, 2), [(None, 2), (None, 3), (None, 3)])
    x = [np.zeros((2, 4, 2)), np.zeros((2, 5, 3)), np.zeros((2, 6, 3))]
    with pytest.raises(ValueError, match="as many values as keys"):
        layer.forward(x)
    with pytest.raises(ValueError, match="takes a list of 3 inputs, got one array"):
        layer.forward(x[0])
    with pytest.raises(
        ValueError, match=r"expected input 1 of shape \(2, any, 3\), got \(1, 5, 3\)"
    ):
        layer.forward([x[0], x[1][:1], x[1]])
    with pytest.raises(TypeError, match="got input 1 of float32"):
        layer.forward([x[0], x[1].astype(np.float32), x[1]])
