"""Residual networks for 32 × 32 images: He et al. 2015, arXiv 1512.03385, section 4.2."""

from __future__ import annotations

from tinydl.layers import BatchNorm, Conv2D, Dense, GlobalAvgPool2D, Layer, Residual
from tinydl.layers.base import Shape
from tinydl.training.model import Sequential


def convolution(filters: int, kernel_size: int = 3, strides: int = 1) -> Conv2D:
    """Without a bias: the BatchNorm behind it has a shift of its own."""
    return Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
    )


def normalization(activation: str | None = None) -> BatchNorm:
    return BatchNorm(momentum=0.9, epsilon=1e-5, activation=activation)


def basic_block(filters: int, strides: int) -> Residual:
    """relu(F(x) + x), F = conv, norm, relu, conv, norm; a strided 1 × 1 convolution fits x where shapes change."""
    body = [
        convolution(filters, strides=strides),
        normalization("relu"),
        convolution(filters),
        normalization(),
    ]
    shortcut: list[Layer] | None = None
    if strides != 1:
        shortcut = [convolution(filters, 1, strides), normalization()]
    return Residual(body, shortcut=shortcut, activation="relu")


def resnet(input_shape: Shape, classes: int, blocks: int, seed: int, name: str) -> Sequential:
    """Depth 6 · blocks + 2: three stages of ``blocks`` blocks with 16, 32 and 64 filters."""
    layers: list[Layer] = [convolution(16), normalization("relu")]
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(blocks):
            layers.append(basic_block(filters, strides=2 if stage > 0 and block == 0 else 1))
    return Sequential([*layers, GlobalAvgPool2D(), Dense(classes)], seed=seed, name=name)


def resnet8(input_shape: Shape, classes: int, *, seed: int = 0) -> Sequential:
    """One block a stage: eight weighted layers, about 78,000 parameters."""
    return resnet(input_shape, classes, 1, seed, "resnet8")


def resnet20(input_shape: Shape, classes: int, *, seed: int = 0) -> Sequential:
    """Three blocks a stage: twenty weighted layers, about 272,000 parameters."""
    return resnet(input_shape, classes, 3, seed, "resnet20")
