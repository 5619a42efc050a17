import numpy as np
import pytest

import tinydl as tl
from tinydl.layers import LAYERS, BatchNorm, Conv2D, Dense, Layer, layer_from_config
from tinydl.layers import base as layers_base

rng = np.random.default_rng(0)


class Scale(Layer):
    """The example at the top of layers/base.py."""

    def build(self, input_shape, rng):
        self.scale = self.add_parameter("scale", input_shape[-1:], "ones", rng)

    def forward(self, x, training=False):
        self.x = x
        return self.scale.value * x

    def backward(self, grad_output):
        self.scale.grad += (grad_output * self.x).reshape(-1, self.x.shape[-1]).sum(axis=0)
        return self.scale.value * grad_output


def test_the_example_of_the_docstring():
    tl.gradcheck(Scale(), rng.normal(size=(4, 3))).assert_ok()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Conv2D", "conv2d"),
        ("DepthwiseConv2D", "depthwise_conv2d"),
        ("GlobalAvgPool2D", "global_avg_pool2d"),
        ("BatchNorm", "batch_norm"),
        ("LSTM", "lstm"),
        ("MultiHeadAttention", "multi_head_attention"),
    ],
)
def test_default_name(name, expected):
    assert layers_base.default_name(type(name, (), {})) == expected


def test_names_of_siblings():
    layers = [Dense(1), Dense(2), Dense(3, name="head"), Dense(4)]
    layers_base.make_names_unique(layers)
    assert [layer.name for layer in layers] == ["dense", "dense_1", "head", "dense_2"]


def test_built_once_for_one_shape():
    layer = Dense(3, name="head")
    layer.initialize((4,), rng)
    weight = layer.weight
    layer.initialize((4,), rng)
    assert layer.weight is weight
    with pytest.raises(ValueError, match=r"'head' was built for inputs of shape \(4,\).* \(5,\)"):
        layer.initialize((5,), rng)


def test_called_on_an_array_it_builds_itself():
    x = rng.normal(size=(2, 4))
    layer = Dense(3)
    assert layer(x).shape == (2, 3)
    assert layer.weight.value.dtype == np.float64


def test_freezing():
    layer = Dense(3)
    layer.trainable = False
    layer.initialize((4,), rng)
    assert not any(p.trainable for p in layer.parameters())
    layer.trainable = True
    assert all(p.trainable for p in layer.parameters())


def test_shared_twin_has_the_same_parameters_and_its_own_inputs():
    layer = Dense(3)
    layer.initialize((4,), rng, np.float64)
    twin = layer.share()
    assert twin.weight is layer.weight and twin.parameters() == layer.parameters()
    x_1, x_2 = rng.normal(size=(2, 5, 4))
    grad_1, grad_2 = rng.normal(size=(2, 5, 3))
    layer.forward(x_1)
    twin.forward(x_2)
    twin.backward(grad_2)
    layer.backward(grad_1)
    np.testing.assert_allclose(layer.weight.grad, x_1.T @ grad_1 + x_2.T @ grad_2, rtol=1e-12)


def test_shared_twin_has_the_same_state():
    layer = BatchNorm(momentum=0.5)
    layer.initialize((2,), rng, np.float64)
    layer.share().forward(np.full((3, 2), 4.0), training=True)
    assert layer.state["running_mean"].tolist() == [2.0, 2.0]


def test_parameters_by_path():
    model = tl.Sequential(
        [Conv2D(2, 3), tl.Sequential([tl.layers.Flatten(), Dense(3)], name="top")]
    )
    model.build_model((4, 4, 1))
    assert [name for name, _ in model.named_parameters()] == [
        "conv2d.weight", "conv2d.bias", "top.dense.weight", "top.dense.bias",
    ]  # fmt: skip


def test_unknown_layer_in_a_file():
    with pytest.raises(ValueError, match=r"unknown layer 'Desne' \(did you mean 'dense'\?\)"):
        layer_from_config({"class": "Desne", "config": {"units": 3}})


def test_unknown_argument_in_a_file():
    with pytest.raises(ValueError, match=r"layer Dense: .*unexpected keyword argument 'unit'"):
        layer_from_config({"class": "Dense", "config": {"unit": 3}})


def test_the_table_knows_layers_by_their_class_names():
    assert all(cls.__name__ == name for name, cls in LAYERS.items())


def test_undefined_passes_say_what_to_write():
    with pytest.raises(NotImplementedError, match="Layer must define forward"):
        Layer().forward(np.zeros(1))
    with pytest.raises(NotImplementedError, match="Layer must define backward"):
        Layer().backward(np.zeros(1))
