"""SimpleRNN, LSTM and GRU against their equations, central differences, and each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinydl as tl
from tinydl.layers import GRU, LSTM, Dense, Embedding, SimpleRNN

from .contract import check_layer, few_examples

KINDS = (SimpleRNN, LSTM, GRU)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def step_by_step(layer, x, mask, states):
    """The equations of the docstrings, one sample and one step at a time: (outputs, final states)."""
    w, u = layer.weight.value, layer.recurrent_weight.value
    b = layer.bias.value
    outputs, finals = [], []
    for n, sample in enumerate(x):
        h, *c = (state[n] for state in states)
        steps = range(len(sample))
        outputs.append([])
        for t in reversed(steps) if layer.go_backwards else steps:
            if mask is None or mask[n, t]:
                if isinstance(layer, SimpleRNN):
                    h = np.tanh(sample[t] @ w + h @ u + b)
                elif isinstance(layer, LSTM):
                    i, f, g, o = np.split(sample[t] @ w + h @ u + b, 4)
                    c = [sigmoid(f) * c[0] + sigmoid(i) * np.tanh(g)]
                    h = sigmoid(o) * np.tanh(c[0])
                else:
                    a_z, a_r, a_n = np.split(sample[t] @ w + b, 3)
                    s_z, s_r, s_n = np.split(h @ u + layer.recurrent_bias.value, 3)
                    z = sigmoid(a_z + s_z)
                    h = z * h + (1 - z) * np.tanh(a_n + sigmoid(a_r + s_r) * s_n)
            outputs[-1].append(h)
        finals.append([h, *c])
    return np.array(outputs), [np.array(part) for part in zip(*finals, strict=True)]


def shake(layer, rng):
    """Biases of 0 would hide mistakes."""
    for p in layer.parameters():
        p.value += 0.3 * rng.normal(size=p.shape)
    return layer


def random_mask(rng, samples, steps, kind):
    """No mask, one with holes, or one that drops all of a sample's steps (or of all samples)."""
    if kind == "none":
        return None
    mask = rng.random((samples, steps)) < 0.6
    mask[0] = mask[0] & (kind != "empty sample")
    return mask & (kind != "all empty")


masks = st.sampled_from(["none", "holes", "empty sample", "all empty"])
sizes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(1, 5))


@pytest.mark.parametrize("cls", KINDS)
@few_examples
@given(sizes=sizes, mask_kind=masks, backwards=st.booleans(), seed=st.integers(0, 99))
def test_equations(cls, sizes, mask_kind, backwards, seed):
    samples, steps, features, units = sizes
    rng = np.random.default_rng(seed)
    layer = cls(units, return_sequences=True, return_state=True, go_backwards=backwards)
    count = layer.state_count
    layer.initialize([(steps, features), *[(units,)] * count], rng, np.float64)
    shake(layer, rng)
    x = rng.normal(size=(samples, steps, features))
    states = [rng.normal(size=(samples, units)) for _ in range(count)]
    mask = random_mask(rng, samples, steps, mask_kind)
    y, *finals = layer.forward([x, *states], mask=None if mask is None else [mask, *[None] * count])
    expected, expected_finals = step_by_step(layer, x, mask, states)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)
    for final, wanted in zip(finals, expected_finals, strict=True):
        np.testing.assert_allclose(final, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("cls", KINDS)
@few_examples
@given(
    sizes=sizes,
    mask_kind=masks,
    sequences=st.booleans(),
    backwards=st.booleans(),
    use_bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_gradients(cls, sizes, mask_kind, sequences, backwards, use_bias, seed):
    samples, steps, features, units = sizes
    rng = np.random.default_rng(seed)
    layer = cls(units, return_sequences=sequences, go_backwards=backwards, use_bias=use_bias)
    x = rng.normal(size=(samples, steps, features))
    mask = random_mask(rng, samples, steps, mask_kind)
    tl.gradcheck(layer, x, mask=mask, max_elements=12).assert_ok()


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("cls", KINDS)
def test_gradients_of_states(cls, sequences):
    rng = np.random.default_rng(1)
    layer = cls(3, return_sequences=sequences, return_state=True)
    x = [rng.normal(size=(2, 4, 2)), *(rng.normal(size=(2, 3)) for _ in range(layer.state_count))]
    mask = [np.array([[True, True, False, False], [False] * 4]), *[None] * layer.state_count]
    tl.gradcheck(layer, x, mask=mask).assert_ok()
    tl.gradcheck(layer, x).assert_ok()


@pytest.mark.parametrize("cls", KINDS)
def test_contract(cls):
    x = np.random.default_rng(0).normal(size=(3, 4, 2))
    check_layer(cls(3, kernel_regularizer="l2", recurrent_initializer="glorot_normal"), x)
    check_layer(cls(2, return_sequences=True, go_backwards=True, use_bias=False), x)


@pytest.mark.parametrize("activation", ["linear", "relu", "leaky_relu", "sigmoid", "gelu", "silu"])
def test_simple_rnn_with_other_activations(activation):
    x = np.random.default_rng(0).normal(size=(2, 3, 2))
    check_layer(SimpleRNN(3, activation=activation, return_sequences=True), x)


def fresh(cls, shape, **arguments):
    rng = np.random.default_rng(3)
    layer = cls(4, **arguments)
    layer.initialize(shape, rng, np.float64)
    return shake(layer, rng), rng


@pytest.mark.parametrize("cls", KINDS)
def test_padding_under_a_mask_is_as_if_it_were_not_there(cls):
    layer, rng = fresh(cls, (None, 2))
    x = rng.normal(size=(3, 6, 2))
    lengths = np.array([6, 2, 4])
    mask = np.arange(6) < lengths[:, None]
    x[~mask] = np.nan  # nobody looks at it
    y = layer.forward(x, mask=mask)
    for n, length in enumerate(lengths):
        alone = layer.forward(x[n : n + 1, :length])
        np.testing.assert_allclose(y[n : n + 1], alone, rtol=1e-12)


@pytest.mark.parametrize("cls", KINDS)
def test_a_sequence_without_steps_gives_the_initial_state(cls):
    layer, rng = fresh(cls, (None, 2))
    y = layer.forward(rng.normal(size=(2, 3, 2)), mask=np.zeros((2, 3), bool))
    np.testing.assert_array_equal(y, np.zeros((2, 4)))
    dx = layer.backward(np.ones_like(y))
    np.testing.assert_array_equal(dx, np.zeros((2, 3, 2)))
    assert all(not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("cls", KINDS)
def test_two_halves_joined_by_the_state_are_the_whole(cls):
    arguments = {"return_sequences": True, "return_state": True}
    count = cls.state_count
    layer, rng = fresh(cls, [(None, 2), *[(4,)] * count], **arguments)
    x = rng.normal(size=(3, 7, 2))
    zeros = [np.zeros((3, 4))] * count
    y, *finals = layer.forward([x, *zeros])
    first, *middle = layer.forward([x[:, :3], *zeros])
    second, *last = layer.forward([x[:, 3:], *middle])
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), y, rtol=1e-12)
    for a, b in zip(last, finals, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("cls", KINDS)
def test_going_backwards_is_going_forwards_through_the_reverse(cls):
    forwards, rng = fresh(cls, (5, 2), return_sequences=True)
    backwards, _ = fresh(cls, (5, 2), return_sequences=True, go_backwards=True)
    x = rng.normal(size=(2, 5, 2))
    mask = rng.random((2, 5)) < 0.5
    y = backwards.forward(x, mask=mask)
    np.testing.assert_array_equal(y, forwards.forward(x[:, ::-1], mask=mask[:, ::-1]))
    np.testing.assert_array_equal(backwards.compute_mask(x, mask), mask[:, ::-1])


def test_masks_that_are_passed_on():
    x, mask = np.zeros((2, 3, 1)), np.ones((2, 3), bool)
    for arguments, expected in (
        ({}, None),
        ({"return_sequences": True}, mask),
        ({"return_state": True}, [None, None, None]),
        ({"return_sequences": True, "return_state": True}, [mask, None, None]),
    ):
        layer = LSTM(2, **arguments)
        layer.initialize((3, 1), np.random.default_rng(0), np.float64)
        layer.forward(x, mask=mask)
        assert layer.compute_mask(x, mask) is expected or layer.compute_mask(x, mask) == expected


def test_forget_gate_starts_open():
    for flag, value in ((True, 1), (False, 0)):
        layer = LSTM(3, unit_forget_bias=flag)
        layer.initialize((2, 2), np.random.default_rng(0))
        np.testing.assert_array_equal(layer.bias.value, [0] * 3 + [value] * 3 + [0] * 6)


def test_recurrent_weights_start_orthogonal():
    layer = GRU(5)
    layer.initialize((2, 3), np.random.default_rng(0), np.float64)
    u = layer.recurrent_weight.value
    np.testing.assert_allclose(u @ u.T, np.eye(5), atol=1e-12)


def test_lstm_learns_what_happened_long_ago():
    """The class is told by the first of 12 steps; noise follows, then padding."""
    rng = np.random.default_rng(0)
    symbols = rng.integers(3, 6, size=(256, 12))
    labels = rng.integers(0, 2, size=256)
    symbols[:, 0] = 1 + labels
    symbols[np.arange(12) >= rng.integers(4, 13, size=256)[:, None]] = 0
    model = tl.Sequential([Embedding(6, 8, mask_zero=True), LSTM(16), Dense(2)], seed=0)
    model.compile(tl.optimizers.Adam(0.02), "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(symbols[:192], labels[:192], epochs=12, verbose=0)
    assert model.evaluate(symbols[192:], labels[192:])["accuracy"] == 1


@pytest.mark.parametrize("cls", KINDS)
def test_shapes_of_outputs(cls):
    states = [(3,)] * cls.state_count
    assert cls(3).compute_output_shape((None, 2)) == (3,)
    assert cls(3, return_sequences=True).compute_output_shape((None, 2)) == (None, 3)
    assert cls(3, return_state=True).compute_output_shape((4, 2)) == [(3,), *states]


def test_bad_arguments():
    with pytest.raises(ValueError, match="LSTM: units must be a whole number >= 1, got 0"):
        LSTM(0)
    with pytest.raises(ValueError, match="softmax does not"):
        SimpleRNN(2, activation="softmax")
    with pytest.raises(ValueError, match=r"'gru' takes sequences .* got samples of shape \(3,\)"):
        GRU(2).initialize((3,), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"2 initial state\(s\) of shape \(4,\)"):
        LSTM(4).initialize([(3, 2), (4,)], np.random.default_rng(0))


def test_bad_inputs():
    layer = GRU(2)
    layer.initialize((None, 3), np.random.default_rng(0))
    with pytest.raises(
        ValueError, match=r"expected an input of shape \(N, any, 3\), got \(1, 2, 4\)"
    ):
        layer.forward(np.zeros((1, 2, 4), np.float32))
    with pytest.raises(ValueError, match=r"a mask of shape \(1, 2\), got \(1, 3\)"):
        layer.forward(np.zeros((1, 2, 3), np.float32), mask=np.ones((1, 3), bool))
    with pytest.raises(TypeError, match="computes in float32, got an input of float64"):
        layer.forward(np.zeros((1, 2, 3)))
