"""SimpleRNN, LSTM and GRU beside torch.nn.RNN, LSTM and GRU: outputs, states, and all gradients."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.peers.comparison import assert_close, few_examples, same_numbers  # noqa: E402
from tinydl.layers import GRU, LSTM, SimpleRNN  # noqa: E402

CASES = {
    "tanh": (lambda h, **a: SimpleRNN(h, **a), lambda d, h: torch.nn.RNN(d, h, batch_first=True)),
    "relu": (
        lambda h, **a: SimpleRNN(h, activation="relu", **a),
        lambda d, h: torch.nn.RNN(d, h, nonlinearity="relu", batch_first=True),
    ),
    "lstm": (lambda h, **a: LSTM(h, **a), lambda d, h: torch.nn.LSTM(d, h, batch_first=True)),
    "gru": (lambda h, **a: GRU(h, **a), lambda d, h: torch.nn.GRU(d, h, batch_first=True)),
}
sizes = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 6), st.integers(1, 12))


def in_their_order(layer, array):
    """Our columns as PyTorch's rows: transposed, and of a GRU the reset gate before the update gate."""
    array = array.T
    if isinstance(layer, GRU):
        z, r, n = np.split(array, 3)
        array = np.concatenate([r, z, n])
    return array


def parameters_of(layer):
    """PyTorch's name -> our parameter. PyTorch has a second bias where one is enough; it stays 0."""
    named = {
        "weight_ih_l0": layer.weight,
        "weight_hh_l0": layer.recurrent_weight,
        "bias_ih_l0": layer.bias,
    }
    if isinstance(layer, GRU):
        named["bias_hh_l0"] = layer.recurrent_bias
    return named


def pair(name, sizes, rng, **arguments):
    """Our layer and theirs with the same random parameters, and an input."""
    samples, steps, features, units = sizes
    ours, theirs = CASES[name]
    layer, peer = ours(units, **arguments), theirs(features, units)
    shape = (steps, features)
    if arguments.get("return_state"):
        layer.initialize([shape, *[(units,)] * layer.state_count], rng, np.float32)
    else:
        layer.initialize(shape, rng, np.float32)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.zero_()
        for peer_name, p in parameters_of(layer).items():
            p.value += rng.normal(0.0, 0.3, size=p.shape).astype(np.float32)
            getattr(peer, peer_name).copy_(torch.tensor(in_their_order(layer, p.value)))
    return layer, peer, rng.normal(size=(samples, steps, features)).astype(np.float32)


def assert_parameter_gradients(layer, peer):
    for peer_name, p in parameters_of(layer).items():
        assert_close(
            in_their_order(layer, p.grad), getattr(peer, peer_name).grad, f"gradients of {p.name}"
        )


@pytest.mark.parametrize("name", CASES)
@few_examples
@given(sizes=sizes)
def test_sequences_and_states(name, sizes):
    rng = same_numbers()
    layer, peer, x = pair(name, sizes, rng, return_sequences=True, return_state=True)
    samples, _, _, units = sizes
    states = [
        rng.normal(size=(samples, units)).astype(np.float32) for _ in range(layer.state_count)
    ]
    outputs = layer.forward([x, *states])
    grads = [rng.normal(size=y.shape).astype(np.float32) for y in outputs]
    dx, *dstates = layer.backward(grads)

    x_peer = torch.tensor(x, requires_grad=True)
    states_peer = [torch.tensor(s[None], requires_grad=True) for s in states]
    h = tuple(states_peer) if len(states) > 1 else states_peer[0]
    y, final = peer(x_peer, h)
    finals = [s[0] for s in final] if len(states) > 1 else [final[0]]
    torch.autograd.backward([y, *finals], [torch.tensor(g) for g in grads])

    for ours, theirs in zip(outputs, [y, *finals], strict=True):
        assert_close(ours, theirs, "outputs")
    assert_close(dx, x_peer.grad, "input gradients")
    for ours, theirs in zip(dstates, states_peer, strict=True):
        assert_close(ours, theirs.grad[0], "gradients of the initial state")
    assert_parameter_gradients(layer, peer)


@pytest.mark.parametrize("name", CASES)
@few_examples
@given(sizes=sizes)
def test_padded_sequences(name, sizes):
    """A mask of padding does what PyTorch's packed sequences do."""
    rng = same_numbers()
    layer, peer, x = pair(name, sizes, rng)
    lengths = rng.integers(1, x.shape[1] + 1, size=len(x))
    y = layer.forward(x, mask=np.arange(x.shape[1]) < lengths[:, None])
    grad = rng.normal(size=y.shape).astype(np.float32)
    dx = layer.backward(grad)

    x_peer = torch.tensor(x, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x_peer, torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    _, final = peer(packed)
    last = final[0][0] if isinstance(final, tuple) else final[0]
    last.backward(torch.tensor(grad))
    assert_close(y, last, "outputs")
    assert_close(dx, x_peer.grad, "input gradients")
    assert_parameter_gradients(layer, peer)
