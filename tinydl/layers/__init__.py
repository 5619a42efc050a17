"""Layers, each with an explicit forward and backward pass."""

from __future__ import annotations

from typing import Any

from tinydl.configs import as_config, from_config
from tinydl.layers.base import Layer
from tinydl.layers.containers import Chain
from tinydl.layers.dense import Dense

# The checked table of layers that a saved model may name.
LAYERS: dict[str, type[Layer]] = {cls.__name__: cls for cls in (Chain, Dense)}


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
