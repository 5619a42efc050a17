"""Plain convolutional networks: convolutions and pooling, then dense layers."""

from __future__ import annotations

from tinydl.layers import Conv2D, Dense, Dropout, Flatten, MaxPool2D
from tinydl.layers.base import Shape
from tinydl.training.model import Sequential


def cnn(input_shape: Shape, classes: int, *, seed: int = 0) -> Sequential:
    """Three 3 × 3 convolutions, one pooling, two dense layers: for small images such as 8 × 8 digits."""
    return Sequential(
        [
            Conv2D(32, 3, padding="same", activation="relu", kernel_initializer="he_normal"),
            Conv2D(32, 3, padding="same", activation="relu", kernel_initializer="he_normal"),
            MaxPool2D(2),
            Conv2D(64, 3, padding="same", activation="relu", kernel_initializer="he_normal"),
            Flatten(),
            Dropout(0.3),
            Dense(64, activation="relu", kernel_initializer="he_normal"),
            Dense(classes),
        ],
        seed=seed,
        name="cnn",
    )


def lenet(input_shape: Shape, classes: int, *, seed: int = 0) -> Sequential:
    """LeNet-5 as it is used today: ReLU and max pooling in place of scaled tanh and trained subsampling.

    LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition", section II.B.
    """
    return Sequential(
        [
            Conv2D(6, 5, padding="same", activation="relu", kernel_initializer="he_normal"),
            MaxPool2D(2),
            Conv2D(16, 5, activation="relu", kernel_initializer="he_normal"),
            MaxPool2D(2),
            Flatten(),
            Dense(120, activation="relu", kernel_initializer="he_normal"),
            Dense(84, activation="relu", kernel_initializer="he_normal"),
            Dense(classes),
        ],
        seed=seed,
        name="lenet",
    )
