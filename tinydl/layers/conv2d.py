"""Convolution over images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.arguments import whole_number
from tinydl.configs import as_config
from tinydl.initializers import get as get_initializer
from tinydl.layers.activations import ActivationFunction
from tinydl.layers.base import Layer, Shape
from tinydl.regularizers import Regularizer
from tinydl.regularizers import get as get_regularizer
from tinydl_kernels import windows


class Conv2D(Layer):
    """y = f(x ⋆ W + b): each output is a weighted sum over a window of all channels.

    Shapes: x (N, H, W, C), W (R, S, C / G, K), b (K,), y (N, H', W', K), for G groups. With strides
    (u, v), dilation (d, e), padding (top, left), x = 0 outside of its bounds, and for one group:

        z[n,i,j,k] = b[k] + Σ_rsc x[n, iu + rd - top, jv + se - left, c] W[r,s,c,k],      y = f(z)

    Every product of an x and a W that went into a z brings dL/dz times the other one back:

        dL/dz = dL/dy ⊙ f'(z)                                                   (N, H', W', K)
        dL/dW[r,s,c,k] = Σ_nij x[n, iu + rd - top, jv + se - left, c] dL/dz[n,i,j,k]
        dL/db[k] = Σ_nij dL/dz[n,i,j,k]
        dL/dx[n, iu + rd - top, jv + se - left, c] += Σ_k dL/dz[n,i,j,k] W[r,s,c,k],  each i,j,r,s

    With G groups, channels and filters are cut into G equal runs; each run of filters sees its own
    run of channels only. The output has ⌊(H + padding - (R - 1) d - 1) / u⌋ + 1 rows; "same" padding
    makes that ⌈H / u⌉, and an odd row of zeros goes below.

    Source: LeCun et al. 1989, "Backpropagation Applied to Handwritten Zip Code Recognition";
    Goodfellow, Bengio, Courville 2016, "Deep Learning", eqs. 9.6 (forward), 9.11 and 9.13 (backward).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: Any = "valid",
        dilation_rate: int | tuple[int, int] = 1,
        groups: int = 1,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Regularizer | str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        kind = type(self).__name__
        self.filters = whole_number(f"{kind}: filters", filters)
        self.groups = whole_number(f"{kind}: groups", groups)
        if filters % groups:
            raise ValueError(f"{kind}: groups={groups} must divide filters={filters}")
        self.kernel_size = windows.as_pair(f"{kind}: kernel_size", kernel_size)
        self.strides = windows.as_pair(f"{kind}: strides", strides)
        self.dilation_rate = windows.as_pair(f"{kind}: dilation_rate", dilation_rate)
        self.padding = checked_padding(kind, padding)
        self.geometry = {
            "strides": self.strides,
            "padding": self.padding,
            "dilation": self.dilation_rate,
            "groups": groups,
        }
        self.activation = ActivationFunction(activation)
        self.use_bias = use_bias
        self.kernel_initializer = get_initializer(kernel_initializer)
        self.bias_initializer = get_initializer(bias_initializer)
        self.kernel_regularizer = get_regularizer(kernel_regularizer)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        self.compute_output_shape(input_shape)  # refuses what does not fit before anything is made
        *_, channels = image_shape(self, input_shape)
        self.weight = self.add_parameter(
            "weight",
            self.kernel_shape(channels),
            self.kernel_initializer,
            rng,
            regularizer=self.kernel_regularizer,
        )
        if self.use_bias:
            self.bias = self.add_parameter(
                "bias", self.weight.shape[-1:], self.bias_initializer, rng, decay=False
            )

    def kernel_shape(self, channels: int) -> tuple[int, int, int, int]:
        """(R, S, C / G, K)."""
        if channels % self.groups:
            raise ValueError(
                f"layer '{self.name}': groups={self.groups} must divide the {channels} channels "
                "of its input"
            )
        return (*self.kernel_size, channels // self.groups, self.filters)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        height, width, channels = image_shape(self, input_shape)
        kernel_shape = self.kernel_shape(channels)
        try:
            return windows.conv2d_output_shape(
                (height, width, channels),
                kernel_shape,
                self.strides,
                self.padding,
                self.dilation_rate,
            )
        except ValueError as error:
            raise ValueError(f"layer '{self.name}', input {input_shape}: {error}") from None

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        self.check_input(x)
        self.x = x  # (N, H, W, C)
        z = kernels.conv2d(
            x,
            self.weight.value,
            bias=self.bias.value if self.use_bias else None,
            activation=self.activation.fused,
            **self.geometry,
        )
        return self.activation.forward(z)

    def backward(self, grad_output: NDArray, plus: NDArray | None = None) -> NDArray | None:
        """dL/dx; with ``plus`` it is added to that array."""
        dz = self.activation.backward(grad_output)  # (N, H', W', K)
        kernels.conv2d_grad_weight(
            self.x,
            dz,
            self.weight.shape,
            out=self.weight.grad,
            accumulate=True,
            bias_grad=self.bias.grad if self.use_bias else None,
            **self.geometry,
        )
        if not self.needs_input_grad:
            return None
        return kernels.conv2d_grad_input(
            dz,
            self.weight.value,
            self.x.shape,
            out=plus,
            accumulate=plus is not None,
            **self.geometry,
        )

    def compute_mask(self, x: NDArray, mask: NDArray | None) -> None:
        return None  # the mask's axis of time is gone

    def config(self) -> dict[str, Any]:
        return {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
            "groups": self.groups,
            "activation": self.activation.name,
            "use_bias": self.use_bias,
            "kernel_initializer": as_config(self.kernel_initializer),
            "bias_initializer": as_config(self.bias_initializer),
            "kernel_regularizer": as_config(self.kernel_regularizer),
        }


def image_shape(layer: Layer, input_shape: Shape) -> tuple[int, int, int]:
    """(H, W, C), all known and at least 1, which layers over images need."""
    sizes = [n for n in input_shape if n]
    if len(input_shape) != 3 or len(sizes) != 3:
        raise ValueError(
            f"layer '{layer.name}' expected images of shape (height, width, channels), "
            f"got {input_shape}"
        )
    return sizes[0], sizes[1], sizes[2]


def checked_padding(kind: str, padding: Any) -> Any:
    """ "valid", "same", or amounts as int, (height, width), ((top, bottom), (left, right))."""
    try:
        windows.resolve_padding(padding, (1, 1), (1, 1))
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from None
    return _as_tuples(padding)


def _as_tuples(value: Any) -> Any:
    """Lists, as JSON gives them back, to tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value
