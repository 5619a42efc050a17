"""Convolution of each channel by itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinydl.arguments import whole_number
from tinydl.configs import as_config
from tinydl.layers.base import Shape
from tinydl.layers.conv2d import Conv2D, image_shape
from tinydl.regularizers import Regularizer


class DepthwiseConv2D(Conv2D):
    """A convolution with as many groups as channels: each channel has M filters of its own.

    Shapes: x (N, H, W, C), W (R, S, 1, C·M), b (C·M,), y (N, H', W', C·M), with

        z[n,i,j, cM + m] = b[cM + m] + Σ_rs x[n, iu + rd - top, jv + se - left, c] W[r,s,0, cM + m]

    The gradients are those of :class:`Conv2D` with G = C. A 1 × 1 ``Conv2D`` behind it mixes the
    channels; both together need about 1/K + 1/(R·S) of a full convolution's products.

    Source: Howard et al. 2017, "MobileNets", arXiv 1704.04861, eqs. 3-5.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: Any = "valid",
        depth_multiplier: int = 1,
        dilation_rate: int | tuple[int, int] = 1,
        activation: str | None = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Regularizer | str | None = None,
        name: str | None = None,
    ) -> None:
        self.depth_multiplier = whole_number("DepthwiseConv2D: depth_multiplier", depth_multiplier)
        super().__init__(
            filters=self.depth_multiplier,  # times the channels, once they are known
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=depthwise_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=depthwise_regularizer,
            name=name,
        )

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        super().build(input_shape, rng)
        *_, self.groups = image_shape(self, input_shape)
        self.geometry["groups"] = self.groups
        self.filters = self.groups * self.depth_multiplier

    def kernel_shape(self, channels: int) -> tuple[int, int, int, int]:
        """(R, S, 1, C·M)."""
        return (*self.kernel_size, 1, channels * self.depth_multiplier)

    def config(self) -> dict[str, Any]:
        return {
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "depth_multiplier": self.depth_multiplier,
            "dilation_rate": self.dilation_rate,
            "activation": self.activation.name,
            "use_bias": self.use_bias,
            "depthwise_initializer": as_config(self.kernel_initializer),
            "bias_initializer": as_config(self.bias_initializer),
            "depthwise_regularizer": as_config(self.kernel_regularizer),
        }
