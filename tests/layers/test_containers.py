"""Chain, Residual and Concat: containers hand values, gradients, masks and signals through."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinydl as tl
from tinydl.layers import (
    GRU,
    BatchNorm,
    Chain,
    Concat,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Masking,
    ReLU,
    Residual,
)

from .contract import check_layer, few_examples

rng = np.random.default_rng(0)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


def built(layer, shape, dtype=np.float64):
    layer.initialize(shape, np.random.default_rng(1), dtype)
    return layer


# ---- values and gradients --------------------------------------------------------------------------------


@few_examples
@given(sizes=sizes)
def test_chain(sizes):
    rng = np.random.default_rng(0)
    samples, inputs, outputs = sizes
    x = rng.normal(size=(samples, inputs))
    a, b = Dense(3, activation="tanh"), Dense(outputs)
    chain = built(Chain([a, b]), (inputs,))
    np.testing.assert_array_equal(chain.forward(x), b.forward(a.forward(x)))
    tl.gradcheck(chain, x).assert_ok()


@few_examples
@given(sizes=sizes, activation=st.sampled_from([None, "relu", "tanh", "gelu", "leaky_relu"]))
def test_residual(sizes, activation):
    rng = np.random.default_rng(0)
    samples, features, outputs = sizes
    x = rng.normal(size=(samples, features))
    plain = Residual([Dense(3, activation="tanh"), Dense(features)], activation=activation)
    tl.gradcheck(plain, x).assert_ok()
    projected = Residual([Dense(outputs)], shortcut=[Dense(outputs)], activation=activation)
    tl.gradcheck(projected, x).assert_ok()


def test_residual_adds_its_input():
    body, shortcut = Dense(3), Dense(3)
    x = rng.normal(size=(2, 3))
    plain = built(Residual([body]), (3,))
    np.testing.assert_allclose(plain.forward(x), body.forward(x) + x)
    block = built(Residual([Dense(3)], [shortcut], activation="relu"), (3,))
    s = block.layers[0].forward(x) + shortcut.forward(x)
    np.testing.assert_allclose(block.forward(x), np.maximum(s, 0))


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("kinds", [[Conv2D], [ReLU, Conv2D]])
def test_residual_adds_what_comes_back_and_leaves_the_gradient_it_was_given(kinds, activation):
    """A convolution that comes first adds its part to the shortcut's itself, a ReLU does not."""
    body = [Conv2D(3, 3, padding="same") if kind is Conv2D else kind() for kind in kinds]
    x, grad = rng.normal(size=(2, 2, 4, 4, 3))
    layer = built(Residual(body, activation=activation), (4, 4, 3))
    y = layer.forward(x, training=True)
    ds = grad if activation is None else grad * (y > 0)
    through_body = ds
    for part in reversed(body):
        through_body = part.backward(through_body)
    before = grad.copy()
    np.testing.assert_array_equal(layer.backward(grad), through_body + ds)
    np.testing.assert_array_equal(grad, before)


@few_examples
@given(sizes=sizes)
def test_concat(sizes):
    rng = np.random.default_rng(0)
    samples, features, outputs = sizes
    x = rng.normal(size=(samples, features))
    layer = Concat([Dense(outputs), [Dense(2, activation="tanh"), Dense(1)], []])
    tl.gradcheck(layer, x).assert_ok()
    layer = built(layer, (features,))
    y = layer.forward(x)
    assert y.shape == (samples, outputs + 1 + features)
    np.testing.assert_array_equal(y[:, :outputs], layer.branches[0][0].forward(x))
    np.testing.assert_array_equal(y[:, outputs + 1 :], x)


def residual_of_images():
    body = [Conv2D(4, 3, padding="same", strides=2), BatchNorm(), ReLU(), Conv2D(4, 1)]
    return Residual(body, shortcut=[Conv2D(4, 1, strides=2), BatchNorm()], activation="relu")


def test_contract():
    images, rows = rng.normal(size=(2, 5, 4, 2)), rng.normal(size=(3, 4))
    check_layer(residual_of_images(), images)
    check_layer(Concat([Conv2D(2, 1), [Conv2D(1, 3, padding="same"), ReLU()]]), images)
    check_layer(Concat([[], Residual([Chain([Dense(4), Dropout(0.5)])])]), rows, training=False)
    check_layer(Chain([Residual([Dense(4)]), Concat([Dense(2), Dense(3)]), Dense(1)]), rows)


# ---- what containers pass on -----------------------------------------------------------------------------


def test_names_of_parameters_are_paths():
    model = tl.Sequential([residual_of_images(), Flatten(), Concat([Dense(1), Dense(2)])])
    model.build_model((4, 4, 2))
    names = [p.name for p in model.store]
    assert names[:2] == ["residual.conv2d.weight", "residual.conv2d.bias"]
    assert "residual.conv2d_2.weight" in names  # the shortcut's
    assert names[-2:] == ["concat.dense_1.weight", "concat.dense_1.bias"]


def test_after_backward_is_called_in_the_order_of_the_gradient_buffer():
    """When a layer is announced, its gradients and all in front of them in the buffer are final."""
    block = residual_of_images()
    model = tl.Sequential(
        [Conv2D(2, 1), block, Flatten(), Concat([Dense(1), [Dense(3), Dense(2)]])]
    )
    model.build_model((4, 4, 2))
    announced = []
    for layer in model.layers_in_order():
        layer.after_backward = lambda done: announced.extend(
            p.name for p in reversed(done.parameters()) if p.name not in announced
        )
    y = model.forward(rng.normal(size=(2, 4, 4, 2)).astype(np.float32), training=True)
    model.backward(np.ones_like(y))
    assert announced == [s.parameter.name for s in model.store.segments]


@pytest.mark.parametrize(
    ("make", "skipping"),
    [
        (lambda: Residual([ReLU(), Dense(3), Dense(3)]), [True, True, False]),
        (lambda: Residual([Dense(3)], shortcut=[ReLU(), Dense(3)]), [True, True, True]),
        (lambda: Concat([[ReLU(), Dense(3), Dense(2)], Dense(1), []]), [True, True, False, True]),
    ],
)
def test_layers_up_to_the_first_parameters_skip_the_input_gradient(make, skipping):
    """In every branch, for every branch begins at the input."""
    x = rng.normal(size=(2, 3))
    layer = built(make(), (3,))
    layer.set_needs_input_grad(False)
    assert [not sub.needs_input_grad for sub in layer.sublayers] == skipping
    y = layer.forward(x)
    assert layer.backward(y) is None
    without = [p.grad.copy() for p in layer.parameters()]
    for p in layer.parameters():
        p.grad[...] = 0
    layer.set_needs_input_grad(True)
    layer.forward(x)
    assert layer.backward(y).shape == (2, 3)
    for p, grad in zip(layer.parameters(), without, strict=True):
        np.testing.assert_array_equal(p.grad, grad)


@pytest.mark.parametrize(
    "make",
    [
        lambda gru: Chain([Dense(2), gru]),
        lambda gru: Residual([Dense(2), gru]),
        lambda gru: Concat([[Dense(2), gru], Dense(1)]),
    ],
)
def test_masks_go_through_containers(make):
    """A recurrent layer inside sees the mask, and so do the layers behind the container."""
    x = rng.normal(size=(2, 4, 2))
    x[0, 2:] = 0
    mask = x.any(axis=-1)
    gru = GRU(2, return_sequences=True)
    container = make(gru)
    chain = built(Chain([Masking(), container]), (4, 2))
    chain.forward(x)
    np.testing.assert_array_equal(gru.h[4, 0], gru.h[2, 0])  # its state stood still
    assert (gru.h[4, 1] != gru.h[2, 1]).all()
    np.testing.assert_array_equal(chain.output_mask, mask)
    container.forward(x)
    assert (gru.h[4, 0] != gru.h[2, 0]).all()
    assert container.compute_mask(x, None) is None


@pytest.mark.parametrize(
    "make", [residual_of_images, lambda: Concat([Conv2D(1, 1), [Conv2D(2, 1), BatchNorm()]])]
)
def test_a_twin_shares_weights_and_nothing_else(make):
    layer, alone = built(make(), (4, 4, 2)), built(make(), (4, 4, 2))
    twin = layer.share()
    assert all(a is b for a, b in zip(layer.parameters(), twin.parameters(), strict=True))
    x, other = rng.normal(size=(2, 2, 4, 4, 2))
    grad = rng.normal(size=alone.forward(x, training=True).shape)
    layer.forward(x, training=True)
    twin.forward(other, training=True)  # leaves what the first call keeps for backward alone
    np.testing.assert_array_equal(layer.backward(grad), alone.backward(grad))
    for ours, theirs in zip(layer.parameters(), alone.parameters(), strict=True):
        np.testing.assert_array_equal(ours.grad, theirs.grad)


def test_training_a_model_of_blocks():
    x = rng.normal(size=(64, 6)).astype(np.float32)
    y = (np.abs(x).sum(axis=1) > 4.5).astype(int)
    model = tl.Sequential(
        [Dense(16, activation="relu"), Residual([Dense(16, activation="relu"), Dense(16)]),
         Concat([Dense(8, activation="relu"), []]), Dense(2)]
    )  # fmt: skip
    model.compile(tl.optimizers.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    history = model.fit(x, y, epochs=40, verbose=0)
    assert history.history["accuracy"][-1] > 0.95


def test_embedding_inside_a_branch():
    layer = built(Concat([[Embedding(5, 2), Flatten()], [Embedding(5, 3), Flatten()]]), (4,))
    x = rng.integers(0, 5, size=(3, 4))
    y = layer.forward(x)
    assert y.shape == (3, 20)
    assert layer.backward(np.ones_like(y)) is None
    assert layer.parameters()[0].grad.sum() == pytest.approx(3 * 4 * 2)


# ---- bad arguments ---------------------------------------------------------------------------------------


def test_a_layer_stands_in_one_place_only():
    dense = Dense(3)
    for make in (Chain, Residual, Concat):
        with pytest.raises(
            ValueError, match=r"one and the same layer 'dense'.*call it twice in a tl\.Model"
        ):
            make([dense, dense])
    with pytest.raises(ValueError, match="one and the same layer"):
        Residual([dense], shortcut=[dense])


def test_bad_arguments():
    with pytest.raises(TypeError, match="item 1 of chain is not a layer: 'relu'"):
        Chain([Dense(1), "relu"])
    with pytest.raises(ValueError, match="Residual needs at least one layer"):
        Residual([])
    with pytest.raises(ValueError, match="two or more branches"):
        Concat([Dense(1)])
    with pytest.raises(
        ValueError, match=r"of shape \(4,\), to its shortcut's, of shape \(3,\).*give layers"
    ):
        built(Residual([Dense(4)]), (3,))
    with pytest.raises(
        ValueError,
        match=r"of shape \(4,\), to its shortcut's, of shape \(5,\): they must be alike$",
    ):
        built(Residual([Dense(4)], [Dense(5)]), (3,))
    with pytest.raises(
        ValueError, match="'concat' joins inputs whose shapes differ along axis -1 only"
    ):
        built(Concat([Conv2D(1, 1), Conv2D(1, 2)]), (3, 3, 1))
