"""MultiHeadAttention beside torch.nn.MultiheadAttention and scaled_dot_product_attention."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.peers.comparison import assert_close, compare, few_examples, same_numbers  # noqa: E402
from tinydl.layers import MultiHeadAttention  # noqa: E402

small = st.integers(1, 5)


@few_examples
@given(samples=small, steps=small, keys=small, heads=small, size=small, padded=st.booleans())
def test_multi_head_attention(samples, steps, keys, heads, size, padded):
    """With keys as wide as values and the model as wide as all heads, as PyTorch's module has it."""
    rng = same_numbers()
    width = heads * size
    layer = MultiHeadAttention(heads, size)
    layer.initialize([(steps, width), (keys, 3), (keys, 2)], rng, np.float32)
    peer = torch.nn.MultiheadAttention(width, heads, vdim=3, kdim=2, batch_first=True)
    ours = [layer.query, layer.key, layer.value]
    weights = [peer.q_proj_weight, peer.k_proj_weight, peer.v_proj_weight]
    with torch.no_grad():
        for p in layer.parameters():
            p.value += rng.normal(0.0, 0.3, size=p.shape).astype(np.float32)
        for (weight, _), theirs in zip(ours, weights, strict=True):
            theirs.copy_(torch.tensor(weight.value.T))
        peer.in_proj_bias.copy_(torch.tensor(np.concatenate([bias.value for _, bias in ours])))
        peer.out_proj.weight.copy_(torch.tensor(layer.output[0].value.T))
        peer.out_proj.bias.copy_(torch.tensor(layer.output[1].value))

    shapes = [(samples, steps, width), (samples, keys, 3), (samples, keys, 2)]
    x = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    keep = np.ones((samples, keys), bool)
    if padded:
        keep = rng.random((samples, keys)) < 0.6
        keep[:, 0] = True  # PyTorch gives NaN where there is no key at all
    y = layer.forward(x, mask=[None, keep, None])
    grad = rng.normal(size=y.shape).astype(np.float32)
    dx = layer.backward(grad)

    query, value, key = x_peer = [torch.tensor(array, requires_grad=True) for array in x]
    y_peer, attention = peer(
        query, key, value, key_padding_mask=torch.tensor(~keep), average_attn_weights=False
    )
    y_peer.backward(torch.tensor(grad))
    assert_close(y, y_peer, "outputs")
    assert_close(layer.attention, attention, "attention weights")
    for a, b in zip(dx, x_peer, strict=True):
        assert_close(a, b.grad, "input gradients")
    for (weight, _), theirs in zip(ours, weights, strict=True):
        assert_close(weight.grad, theirs.grad.T, f"gradients of {weight.name}")
    biases = np.concatenate([bias.grad for _, bias in ours])
    assert_close(biases, peer.in_proj_bias.grad, "gradients of the biases")
    assert_close(layer.output[0].grad, peer.out_proj.weight.grad.T, "gradients of output_weight")
    assert_close(layer.output[1].grad, peer.out_proj.bias.grad, "gradients of output_bias")


@few_examples
@given(
    samples=small, steps=small, heads=small, d=small, v=small, features=small, causal=st.booleans()
)
def test_scaled_dot_product_attention(samples, steps, heads, d, v, features, causal):
    """Sizes of keys and values apart, with the projections written out."""

    def peer(x, **p):
        def projected(name):
            y = x @ p[f"{name}_weight"] + p[f"{name}_bias"]
            return y.reshape(samples, steps, heads, -1).transpose(1, 2)

        heads_out = torch.nn.functional.scaled_dot_product_attention(
            projected("query"), projected("key"), projected("value"), is_causal=causal
        )
        joined = heads_out.transpose(1, 2).reshape(samples, steps, -1)
        return joined @ p["output_weight"] + p["output_bias"]

    x = same_numbers().normal(size=(samples, steps, features)).astype(np.float32)
    compare(MultiHeadAttention(heads, d, v, causal=causal), peer, x)
