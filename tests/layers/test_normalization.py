import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinydl as tl
import tinydl_kernels as kernels
from tests.layers.contract import built, check_layer, few_examples, same_numbers
from tinydl.layers import BatchNorm, LayerNorm

rng = np.random.default_rng(0)
shapes = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)


@few_examples
@given(shapes, st.booleans(), st.booleans(), st.booleans())
def test_batch_norm_contract(shape, center, scale, training):
    layer = BatchNorm(0.9, 1e-2, center=center, scale=scale)
    check_layer(layer, same_numbers().normal(2.0, 3.0, size=shape), training=training)


@few_examples
@given(shapes, st.booleans(), st.booleans())
def test_layer_norm_contract(shape, center, scale):
    layer = LayerNorm(1e-2, center=center, scale=scale)
    check_layer(layer, same_numbers().normal(2.0, 3.0, size=shape))


@few_examples
@given(shapes, st.sampled_from(["sigmoid", "tanh", "silu", "softmax"]), st.booleans())
def test_batch_norm_with_an_activation_contract(shape, activation, training):
    layer = BatchNorm(0.9, 1e-2, activation=activation)
    check_layer(layer, same_numbers().normal(2.0, 3.0, size=shape), training=training)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu"])
def test_batch_norm_with_an_activation_is_both_layers(name):
    x, grad = (rng.normal(size=(8, 5, 5, 3)).astype(np.float32) for _ in range(2))
    layers = [
        [BatchNorm(activation=name)],
        [BatchNorm(), tl.layers.Activation(name)],
    ]
    results = []
    for part in layers:
        chain = built(tl.layers.Chain(part), x)
        y = chain.forward(x, training=True)
        results.append([y, chain.backward(grad), *(p.grad for p in chain.parameters())])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_batch_norm_with_moved_statistics():
    """Inference after training, where the running moments are neither 0 nor 1."""
    x = rng.normal(2.0, 3.0, size=(8, 3))
    layer = built(BatchNorm(0.5), x, np.float64)
    for _ in range(3):
        layer.forward(x, training=True)
    tl.gradcheck(layer, x, training=False).assert_ok()


def test_batch_norm_normalizes_each_channel():
    x = rng.normal(5.0, 2.0, size=(16, 4, 4, 3)).astype(np.float32)
    y = built(BatchNorm(epsilon=1e-6), x).forward(x, training=True)
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, atol=1e-5)


def test_running_moments_move_in_place_by_momentum():
    x = rng.normal(5.0, 2.0, size=(64, 3))
    layer = built(BatchNorm(momentum=0.75), x, np.float64)
    mean, var = layer.state["running_mean"], layer.state["running_var"]
    layer.forward(x, training=True)
    np.testing.assert_allclose(mean, 0.25 * x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(var, 0.75 + 0.25 * x.var(axis=0), rtol=1e-12)
    assert layer.state["running_mean"] is mean and layer.state["running_var"] is var


def test_inference_uses_and_keeps_running_moments():
    x = rng.normal(5.0, 2.0, size=(4, 3))
    layer = built(BatchNorm(epsilon=0.5), x, np.float64)
    layer.state["running_mean"][...] = [1.0, 2.0, 3.0]
    layer.state["running_var"][...] = [3.5, 0.5, 15.5]
    y = layer.forward(x)
    np.testing.assert_allclose(y, (x - [1.0, 2.0, 3.0]) / [2.0, 1.0, 4.0], rtol=1e-12)
    assert layer.state["running_mean"].tolist() == [1.0, 2.0, 3.0]


def test_one_sample_does_not_depend_on_the_others_in_inference():
    x = rng.normal(size=(4, 3))
    layer = built(BatchNorm(), x, np.float64)
    np.testing.assert_array_equal(layer.forward(x)[:1], layer.forward(x[:1]))


def test_frozen_batch_norm_infers_even_in_training():
    x = rng.normal(5.0, 2.0, size=(4, 3))
    layer = built(BatchNorm(), x, np.float64)
    layer.trainable = False
    np.testing.assert_array_equal(layer.forward(x, training=True), layer.forward(x))
    assert layer.state["running_mean"].tolist() == [0.0, 0.0, 0.0]
    assert not any(p.trainable for p in layer.parameters())
    tl.gradcheck(layer, x, training=True).assert_ok()  # dL/dx has no terms through the moments


def test_constant_channel_gives_the_shift():
    x = np.full((5, 2), 3.0)
    layer = built(BatchNorm(beta_initializer="ones"), x, np.float64)
    np.testing.assert_array_equal(layer.forward(x, training=True), np.ones((5, 2)))


def test_small_variance_about_a_large_mean():
    """In float32, E[x²] - E[x]² would lose it all."""
    x = (1000 + rng.normal(0.0, 0.1, size=(512, 2))).astype(np.float32)
    layer = built(BatchNorm(epsilon=1e-9), x)
    np.testing.assert_allclose(layer.forward(x, training=True).std(axis=0), 1, rtol=1e-3)


def test_moments_and_sums_can_be_shared_between_processes():
    """Two halves, each with the moments and sums of the whole, give what the whole gives."""

    class Synchronized(BatchNorm):
        def normalize(self, x, gamma, beta):
            moments = self.whole.mean, self.whole.inv_std
            return kernels.batch_norm_apply(x, *moments, gamma, beta, activation="tanh")

        def differentiate(self, grad_output, gamma):
            dz, moments = self.activation.backward(grad_output), (whole.mean, whole.inv_std)
            sums = self.whole.gamma.grad, self.whole.beta.grad
            return kernels.batch_norm_grad_input(dz, self.x, gamma, *moments, *sums, 8)

    x, dy = rng.normal(size=(2, 8, 3))
    whole = built(BatchNorm(activation="tanh"), x, np.float64)
    y = whole.forward(x, training=True)
    dx = whole.backward(dy)
    for rows in (slice(0, 3), slice(3, 8)):
        half = Synchronized(activation="tanh")
        half.initialize((3,), rng, np.float64)
        half.whole = whole
        np.testing.assert_allclose(half.forward(x[rows], training=True), y[rows], rtol=1e-12)
        np.testing.assert_allclose(half.backward(dy[rows]), dx[rows], rtol=1e-10)


def test_layer_norm_normalizes_each_row():
    x = rng.normal(5.0, 2.0, size=(4, 3, 16)).astype(np.float32)
    y = built(LayerNorm(epsilon=1e-6), x).forward(x)
    np.testing.assert_allclose(y.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=-1), 1, atol=1e-5)


def test_scales_and_shifts_do_not_decay():
    for layer in (BatchNorm(), LayerNorm()):
        layer.initialize((3,), rng)
        assert [p.name for p in layer.parameters()] == ["gamma", "beta"]
        assert not any(p.decay for p in layer.parameters())


@pytest.mark.parametrize("kind", [BatchNorm, LayerNorm])
def test_wrong_arguments_and_shapes(kind):
    for epsilon in (0, -1e-3, np.nan, np.inf, "a", None):
        words = f"^{kind.__name__}: epsilon must be a finite number > 0, got {epsilon!r}"
        with pytest.raises(ValueError, match=words):
            kind(epsilon=epsilon)
    with pytest.raises(ValueError, match=r"'norm' needs a known last axis, got \(3, None\)"):
        kind(name="norm").initialize((3, None), rng)
    layer = kind(name="norm")
    layer.initialize((3,), rng)
    with pytest.raises(ValueError, match=r"'norm' expected .* \(N, 3\), got \(2, 4\)"):
        layer.forward(np.zeros((2, 4), np.float32))


@pytest.mark.parametrize("momentum", [1.5, -0.1, np.nan, "a", None])
def test_wrong_momentum(momentum):
    words = rf"^BatchNorm: momentum must lie in \[0, 1\], got {momentum!r}"
    with pytest.raises(ValueError, match=words):
        BatchNorm(momentum=momentum)
