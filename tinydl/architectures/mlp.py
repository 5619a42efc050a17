"""A multilayer perceptron."""

from __future__ import annotations

from tinydl.layers import Dense, Flatten
from tinydl.layers.base import Shape
from tinydl.training.model import Sequential


def mlp(
    input_shape: Shape, classes: int, *, hidden: tuple[int, ...] = (512, 256), seed: int = 0
) -> Sequential:
    """Flatten, then dense layers with ReLU: 784-512-256-10 for a 28 × 28 image and ten classes."""
    body = [Dense(units, "relu", kernel_initializer="he_normal") for units in hidden]
    return Sequential([Flatten(), *body, Dense(classes)], seed=seed, name="mlp")
