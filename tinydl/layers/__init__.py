"""Layers, each with an explicit forward and backward pass."""

from __future__ import annotations

from typing import Any

from tinydl.configs import as_config, from_config
from tinydl.layers.activations import (
    GELU,
    Activation,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from tinydl.layers.attention import MultiHeadAttention
from tinydl.layers.base import Layer
from tinydl.layers.batch_norm import BatchNorm, BatchNormalization
from tinydl.layers.containers import Chain, Concat, Residual
from tinydl.layers.conv2d import Conv2D
from tinydl.layers.dense import Dense
from tinydl.layers.depthwise_conv2d import DepthwiseConv2D
from tinydl.layers.dropout import Dropout
from tinydl.layers.embedding import Embedding
from tinydl.layers.gru import GRU
from tinydl.layers.layer_norm import LayerNorm, LayerNormalization
from tinydl.layers.lstm import LSTM
from tinydl.layers.masking import Masking
from tinydl.layers.merging import Add, Concatenate
from tinydl.layers.pooling import (
    AveragePooling2D,
    AvgPool2D,
    GlobalAveragePooling2D,
    GlobalAvgPool2D,
    MaxPool2D,
    MaxPooling2D,
)
from tinydl.layers.shaping import Flatten, Reshape
from tinydl.layers.simple_rnn import SimpleRNN

# Keras' names for layers that have shorter ones here.
__all__ = [
    "AveragePooling2D",
    "BatchNormalization",
    "GlobalAveragePooling2D",
    "LayerNormalization",
    "MaxPooling2D",
]

# The checked table of layers that a saved model may name.
LAYERS: dict[str, type[Layer]] = {
    cls.__name__: cls
    for cls in (
        Activation,
        Add,
        AvgPool2D,
        BatchNorm,
        Chain,
        Concat,
        Concatenate,
        Conv2D,
        Dense,
        DepthwiseConv2D,
        Dropout,
        Embedding,
        Flatten,
        GELU,
        GRU,
        GlobalAvgPool2D,
        LSTM,
        LayerNorm,
        LeakyReLU,
        Masking,
        MaxPool2D,
        MultiHeadAttention,
        ReLU,
        Reshape,
        Residual,
        SiLU,
        Sigmoid,
        SimpleRNN,
        Softmax,
        Tanh,
    )
}
__all__ += ["LAYERS", "Layer", "layer_config", "layer_from_config", "register", *LAYERS]


def register(cls: type[Layer]) -> type[Layer]:
    """Class decorator: makes a layer of one's own known by name, so that models that use it can be loaded."""
    LAYERS[cls.__name__] = cls
    return cls


def layer_config(layer: Layer) -> dict[str, Any]:
    """The layer as plain data: class, name and constructor arguments."""
    return {**as_config(layer), "name": layer.name}


def layer_from_config(data: dict[str, Any]) -> Layer:
    """A fresh layer, not yet built, from what ``layer_config`` gave."""
    layer = from_config(data, LAYERS, "layer")
    if "name" in data:
        layer.name = data["name"]
    return layer
