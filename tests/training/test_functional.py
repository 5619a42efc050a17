"""Models made of symbolic tensors: the graph that is found, its values and gradients, and what is refused."""

import json

import numpy as np
import pytest

import tinydl as tl
from tinydl.layers import layer_config, layer_from_config

L = tl.layers
rng = np.random.default_rng(0)


def two_inputs_two_outputs(dtype="float64"):
    """A layer called twice, a tensor read three times, inputs of different shapes, two outputs."""
    a, b, c = tl.Input((5,)), tl.Input((5,), name="b"), tl.Input((2,))
    shared = L.Dense(4, activation="tanh")
    u, v = shared(a), shared(b)
    total = L.Add()([u, v, u])
    joined = L.Concatenate()([total, c, u])
    return tl.Model([a, b, c], [L.Dense(2)(total), L.Dense(3)(joined)], dtype=dtype)


def arrays(*shapes, samples=3):
    return [rng.normal(size=(samples, *shape)) for shape in shapes]


# ---- values and gradients --------------------------------------------------------------------------------


def test_a_chain_is_what_sequential_computes():
    layers = lambda: [L.Dense(4, activation="relu"), L.BatchNorm(), L.Dense(2)]  # noqa: E731
    sequential = tl.Sequential(layers(), seed=3)
    sequential.build_model((5,))
    x = y = tl.Input((5,))
    for layer in layers():
        y = layer(y)
    model = tl.Model(x, y, seed=3)
    array = rng.normal(size=(6, 5)).astype(np.float32)
    np.testing.assert_array_equal(model.predict(array), sequential.predict(array))
    assert [p.name for p in model.store] == [p.name for p in sequential.store]
    assert [s.start for s in model.store.segments] == [s.start for s in sequential.store.segments]


def test_values_written_out():
    model = two_inputs_two_outputs()
    a, b, c = x = arrays((5,), (5,), (2,))
    shared, small, large = (layer for layer in model.sublayers if isinstance(layer, L.Dense))
    if small.units == 3:
        small, large = large, small
    u, v = (np.tanh(i @ shared.weight.value + shared.bias.value) for i in (a, b))
    total = 2 * u + v
    joined = np.concatenate([total, c, u], axis=1)
    first, second = model.forward(x)
    np.testing.assert_allclose(first, total @ small.weight.value + small.bias.value)
    np.testing.assert_allclose(second, joined @ large.weight.value + large.bias.value)


def test_gradients_add_up_over_readers_and_calls():
    tl.gradcheck(two_inputs_two_outputs(), arrays((5,), (5,), (2,))).assert_ok()


def test_gradients_of_an_output_that_another_layer_reads_too():
    x = tl.Input((3,))
    y = L.Dense(3, activation="tanh")(x)
    model = tl.Model(x, [y, L.Dense(2)(y), x], dtype="float64")
    tl.gradcheck(model, arrays((3,))[0]).assert_ok()


def encoder_decoder():
    """One LSTM hands its states to another; its own output is not used."""
    source, target = tl.Input((None, 2)), tl.Input((None, 3))
    _, h, c = L.LSTM(4, return_state=True)(L.Masking()(source))
    y = L.LSTM(4, return_sequences=True)([target, h, c])
    y = L.MultiHeadAttention(2, 3)([y, source])
    return tl.Model([source, target], L.Dense(2)(y), dtype="float64")


def test_gradients_of_layers_with_several_outputs():
    model = encoder_decoder()
    x = arrays((4, 2), (3, 3))
    tl.gradcheck(model, x, max_elements=20).assert_ok()
    assert model.output_shape == (None, 2)
    # Padding behind the source does not change the states that the encoder hands over.
    padded = np.concatenate([x[0], np.zeros((3, 2, 2))], axis=1)
    model.forward(x)
    states = model.calls[1].y
    model.forward([padded, x[1]])
    np.testing.assert_allclose(model.calls[1].y[2], states[2])


def test_gradients_of_nested_models():
    x = tl.Input((3,))
    inner = tl.Model(x, [L.Dense(2)(x), L.Dense(4, activation="tanh")(x)], dtype="float64")
    a, b = tl.Input((3,)), tl.Input((3,))
    p, q = inner(a)
    r, s = inner(b)
    block = tl.Sequential([L.Dense(3), L.Residual([L.Dense(3)])], dtype="float64")
    outer = tl.Model(
        [a, b], L.Concatenate()([p, r, block(L.Concatenate()([q, s]))]), dtype="float64"
    )
    tl.gradcheck(outer, arrays((3,), (3,))).assert_ok()
    assert len(outer.parameters()) == 4 + 4  # the inner model's once, though it is called twice


def test_a_layer_of_states_and_random_numbers_called_twice():
    """BatchNorm twins update one running mean; dropout twins draw different numbers."""
    a, b = tl.Input((4,)), tl.Input((4,))
    norm, dropout = L.BatchNorm(momentum=0.5), L.Dropout(0.5)
    model = tl.Model([a, b], L.Add()([dropout(norm(a)), dropout(norm(b))]), dtype="float64")
    tl.gradcheck(model, arrays((4,), (4,), samples=5)).assert_ok()
    x = np.ones((200, 4))
    model.forward([x, 3 * x], training=True)
    np.testing.assert_allclose(norm.state["running_mean"], 0.5 * (0.5 * 1) + 0.5 * 3)
    assert len(list(model.named_states())) == 2  # one running mean and one variance
    first, second = (call.layer.k for call in model.calls if isinstance(call.original, L.Dropout))
    assert (first != second).any()


def test_freezing_a_shared_layer_freezes_its_twins():
    a, b = tl.Input((2,)), tl.Input((2,))
    norm = L.BatchNorm()
    model = tl.Model([a, b], L.Add()([norm(a), norm(b)]), dtype="float64")
    norm.trainable = False
    before = norm.state["running_mean"].copy()
    model.forward(arrays((2,), (2,)), training=True)
    np.testing.assert_array_equal(norm.state["running_mean"], before)


# ---- masks, hooks, input gradients -----------------------------------------------------------------------


def test_masks_follow_the_graph():
    x = tl.Input((None,))
    embedded = L.Embedding(5, 3, mask_zero=True)(x)
    y = L.Concatenate()([embedded, L.GRU(2, return_sequences=True)(embedded)])
    model = tl.Model(x, [L.Dense(2)(y), L.GRU(2)(y)])
    indices = np.array([[1, 2, 0], [3, 0, 0]])
    model.forward(indices)
    mask, none = model.output_mask
    np.testing.assert_array_equal(mask, indices != 0)
    assert none is None


def test_layers_are_announced_in_the_order_of_the_gradient_buffer():
    model = two_inputs_two_outputs()
    uses = {id(p): 0 for p in model.store}
    for call in model.calls:
        for p in call.layer.parameters():
            uses[id(p)] += 1
    final = []

    def announce(layer):
        for p in reversed(layer.parameters()):
            uses[id(p)] -= 1
            if uses[id(p)] == 0:  # a shared parameter is final when the last of its layers is done
                final.append(p.name)

    model.after_backward = announce
    y = model.forward(arrays((5,), (5,), (2,)))
    model.backward([np.ones_like(array) for array in y])
    assert final == [s.parameter.name for s in model.store.segments]


def test_only_gradients_that_somebody_reads_are_computed():
    a, b = tl.Input((3,)), tl.Input((3,))
    before, behind = L.Dense(3), L.Dense(2)
    model = tl.Model([a, b], behind(L.Add()([before(a), L.Tanh()(L.ReLU()(b))])), dtype="float64")
    x = arrays((3,), (3,))
    model.set_needs_input_grad(False)
    needed = {call.layer.name: call.layer.needs_input_grad for call in model.calls}
    assert needed == {"dense": False, "relu": False, "tanh": False, "add": True, "dense_1": True}
    y = model.forward(x)
    assert model.backward(np.ones_like(y)) is None
    without = model.store.grads.copy()
    model.store.zero_grad()
    model.set_needs_input_grad(True)
    model.forward(x)
    assert [g.shape for g in model.backward(np.ones_like(y))] == [(3, 3), (3, 3)]
    np.testing.assert_array_equal(model.store.grads, without)


# ---- training, saving ------------------------------------------------------------------------------------


def test_fit_evaluate_predict_with_several_inputs_and_outputs():
    a, b = (array.astype(np.float32) for array in arrays((3,), (4,), samples=120))
    label, value = (a[:, 0] > b[:, 0]).astype(int), a[:, :1] + b[:, :1]
    x, z = tl.Input((3,)), tl.Input((4,))
    hidden = L.Dense(16, activation="tanh")(L.Concatenate()([x, z]))
    model = tl.Model([x, z], [L.Dense(2)(hidden), L.Dense(1)(hidden)])
    model.compile(tl.optimizers.Adam(0.02), ["sparse_categorical_crossentropy", "mse"])
    history = model.fit([a, b], [label, value], epochs=20, verbose=0)
    assert history.history["loss"][-1] < 0.15 * history.history["loss"][0]
    logits, values = model.predict([a, b])
    assert (logits.argmax(axis=1) == label).mean() > 0.95
    assert values.shape == (120, 1)


@pytest.mark.parametrize("make", [two_inputs_two_outputs, encoder_decoder])
def test_config_and_files(make, tmp_path):
    model = make()
    shapes = [tuple(3 if n is None else n for n in shape) for shape in model.input_shape]
    x = arrays(*shapes)
    config = layer_config(model)
    again = layer_from_config(json.loads(json.dumps(config)))
    assert layer_config(again) == config
    assert [p.name for p in again.store] == [p.name for p in model.store]
    model.save(tmp_path / "model.safetensors")
    loaded = tl.load(tmp_path / "model.safetensors")
    for ours, theirs in zip(model.predict(x), loaded.predict(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_part_of_a_trained_model_is_a_model():
    """tl.Model(inputs, hidden) shows what a layer inside computes; both can go on training."""
    x = tl.Input((4,))
    hidden = L.Dense(3, activation="tanh")(x)
    model = tl.Model(x, L.Dense(2)(hidden))
    model.compile(tl.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    (a,) = (array.astype(np.float32) for array in arrays((4,), samples=64))
    label = (a[:, 0] > 0).astype(int)
    model.fit(a, label, epochs=2, verbose=0)
    part = tl.Model(x, hidden)
    first = model.sublayers[0]
    expected = np.tanh(a @ first.weight.value + first.bias.value)
    np.testing.assert_allclose(part.predict(a), expected, rtol=1e-5, atol=1e-6)
    part.compile("sgd", "mse")
    for one, target in ((model, label), (part, a[:, :3]), (model, label)):
        before = first.weight.value.copy()
        one.fit(a, target, epochs=1, verbose=0)
        assert (first.weight.value != before).all()


def test_a_deep_graph():
    """Neither building nor copying climbs the graph by recursion."""
    x = y = tl.Input((2,))
    for _ in range(600):
        y = L.Add()([y, L.ReLU()(y)])
    model = tl.Model(x, y, dtype="float64")
    twin = model.share()
    array = np.full((1, 2), -1.0)
    np.testing.assert_array_equal(twin.forward(array), model.forward(array))
    np.testing.assert_array_equal(model.backward(np.ones((1, 2))), np.ones((1, 2)))


def test_output_layers_end_in_softmax():
    x = tl.Input((3,))
    model = tl.Model(x, [L.Dense(2)(x), L.Dense(2, activation="softmax")(x)])
    with pytest.raises(ValueError, match="ends in a softmax"):
        model.compile("adam", ["mse", "sparse_categorical_crossentropy"])


# ---- what is refused -------------------------------------------------------------------------------------


def test_graphs_that_are_not_connected():
    a, b = tl.Input((3,), name="left"), tl.Input((3,), name="right")
    with pytest.raises(ValueError, match="need the input 'right', which is not among the inputs"):
        tl.Model(a, L.Add()([a, b]))
    with pytest.raises(ValueError, match="no output depends on the input 'right'"):
        tl.Model([a, b], L.Dense(1)(a))
    with pytest.raises(ValueError, match="no layer between"):
        tl.Model(a, a)
    with pytest.raises(ValueError, match="'left' stands twice"):
        tl.Model([a, a], L.Dense(1)(a))
    hidden = L.Dense(2)(a)
    with pytest.raises(ValueError, match=r"input 0 is SymbolicTensor.*must come from tl\.Input"):
        tl.Model(hidden, L.Dense(1)(hidden))


def test_things_that_are_not_symbolic():
    a = tl.Input((3,))
    y = L.Dense(1)(a)
    with pytest.raises(TypeError, match=r"inputs must be symbolic tensors .* got tuple"):
        tl.Model([(3,)], y)
    with pytest.raises(TypeError, match=r"outputs must be symbolic tensors .* got Dense"):
        tl.Model(a, L.Dense(1))
    with pytest.raises(ValueError, match="outputs is empty"):
        tl.Model(a, [])
    with pytest.raises(TypeError, match="stands for an array that does not exist yet"):
        np.asarray(y)
    with pytest.raises(ValueError, match="'add' was called on an empty list"):
        L.Add()([])
    for shape in (3, (0,), (2.0,), (-1, 3)):
        with pytest.raises(ValueError, match="Input: shape is a tuple of positive integers"):
            tl.Input(shape)


def test_shapes_that_do_not_fit_are_refused_where_the_layer_is_called():
    with pytest.raises(ValueError, match="adds inputs of one shape"):
        L.Add()([tl.Input((3,)), tl.Input((4,))])
    shared = L.Dense(2)
    a, b = tl.Input((3,)), tl.Input((4,))
    with pytest.raises(ValueError, match=r"'dense' was built for inputs of shape \(3,\)"):
        tl.Model([a, b], L.Add()([shared(a), shared(b)]))
    inner = tl.Sequential([L.Dense(2)])
    functional = tl.Model(a, inner(a), name="inner")
    with pytest.raises(
        ValueError, match=r"'inner' takes inputs of shape \[\(3,\)\], got \[\(4,\)\]"
    ):
        functional(b)


def test_wrong_arrays():
    model = two_inputs_two_outputs()
    x = arrays((5,), (5,), (2,))
    with pytest.raises(ValueError, match="'model' takes a list of 3 inputs, got 2"):
        model.forward(x[:2])
    with pytest.raises(ValueError, match=r"expected input 2 of shape \(3, 2\), got \(3, 5\)"):
        model.forward([x[0], x[1], x[1]])
    with pytest.raises(ValueError, match="has 3 inputs, got 2"):
        model.predict(x[:2])
