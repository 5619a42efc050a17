"""What every layer must do, whatever it computes."""

import json

import numpy as np
from hypothesis import settings

import tinydl as tl
from tinydl.layers import layer_config, layer_from_config

few_examples = settings(max_examples=25, deadline=None)


def same_numbers():
    """Random numbers for a property test: hypothesis must find the same ones when it tries a case again."""
    return np.random.default_rng(0)


def check_layer(layer, x, *, training=True, max_elements=24):
    """The layer (not yet built) keeps the contract on the input ``x`` (float64, or integers)."""
    tl.gradcheck(layer, x, training=training, max_elements=max_elements).assert_ok()
    check_float32(layer, x, training)
    check_first_layer(layer, x, training)
    check_config(layer, x)


def built(layer, x, dtype=np.float32, seed=0):
    """A fresh layer of the same configuration, ready for ``x``."""
    fresh = layer_from_config(layer_config(layer))
    fresh.initialize(x.shape[1:], np.random.default_rng(seed), dtype)
    fresh.rng = np.random.default_rng(seed)
    return fresh


def check_float32(layer, x, training):
    """float32 in, float32 out, shapes as announced, and no argument is written to."""
    layer = built(layer, x)
    x = x.astype(np.float32) if x.dtype.kind == "f" else x
    x_before = x.copy()
    y = layer.forward(x, training)
    assert y.shape == (len(x), *layer.output_shape)
    assert y.dtype == np.float32
    grad = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    grad_before = grad.copy()
    dx = layer.backward(grad)
    if x.dtype.kind == "f":
        assert dx.shape == x.shape
        assert dx.dtype == np.float32
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(grad, grad_before)
    for parameter in layer.parameters():
        assert parameter.value.dtype == parameter.grad.dtype == np.float32


def check_first_layer(layer, x, training):
    """Without a reader for dL/dx: None, and the same gradients of the parameters."""
    grads = []
    for needed in (True, False):
        one = built(layer, x, np.float64)
        one.set_needs_input_grad(needed)
        y = one.forward(x, training)
        dx = one.backward(np.random.default_rng(1).normal(size=y.shape))
        assert needed or dx is None
        grads.append([p.grad for p in one.parameters()])
    for with_dx, without in zip(*grads, strict=True):
        np.testing.assert_array_equal(with_dx, without)


def check_config(layer, x):
    """Through JSON and back: the same class, name and arguments, and the same function."""
    config = layer_config(layer)
    again = layer_from_config(json.loads(json.dumps(config)))
    assert type(again) is type(layer)
    assert layer_config(again) == config
    np.testing.assert_array_equal(
        built(layer, x, np.float64).forward(x), built(again, x, np.float64).forward(x)
    )
