"""The fully connected layer: y = f(x W + b)."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.arguments import whole_number
from tinydl.configs import as_config
from tinydl.initializers import get as get_initializer
from tinydl.layers.activations import ActivationFunction
from tinydl.layers.base import Layer, Shape
from tinydl.regularizers import Regularizer
from tinydl.regularizers import get as get_regularizer


class Dense(Layer):
    """y = f(x W + b) on the last axis of x.

    Shapes: x (N, …, D), W (D, U), b (U,), y (N, …, U). With rows x (M, D), where M counts all axes but the last:

        z = x W + b,                        y = f(z)
        dL/dz = dL/dy ⊙ f'(z)               (M, U)
        dL/dW = xᵀ dL/dz                    (D, U)   every row adds an outer product
        dL/db = Σ_rows dL/dz                (U,)
        dL/dx = dL/dz Wᵀ                    (M, D)

    Source: Rumelhart, Hinton, Williams 1986, "Learning representations by back-propagating errors", eqs. 4-7.
    """

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Regularizer | str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.units = whole_number("Dense: units", units)
        self.activation = ActivationFunction(activation)
        self.use_bias = use_bias
        self.kernel_initializer = get_initializer(kernel_initializer)
        self.bias_initializer = get_initializer(bias_initializer)
        self.kernel_regularizer = get_regularizer(kernel_regularizer)

    def build(self, input_shape: Shape, rng) -> None:
        if not input_shape or input_shape[-1] is None:
            raise ValueError(f"layer '{self.name}' needs a known last axis, got {input_shape}")
        self.weight = self.add_parameter(
            "weight",
            (input_shape[-1], self.units),
            self.kernel_initializer,
            rng,
            regularizer=self.kernel_regularizer,
        )
        if self.use_bias:
            self.bias = self.add_parameter(
                "bias", (self.units,), self.bias_initializer, rng, decay=False
            )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        self.check_input(x)
        self.x = as_rows(x)  # (M, D)
        z = kernels.matmul(
            self.x,
            self.weight.value,
            bias=self.bias.value if self.use_bias else None,
            activation=self.activation.fused,
        )
        y = self.activation.forward(z)  # (M, U)
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], self.units)

    def backward(self, grad_output: NDArray) -> NDArray | None:
        dz = self.activation.backward(as_rows(grad_output))  # (M, U)
        kernels.matmul(
            self.x.T,
            dz,
            out=self.weight.grad,
            beta=1.0,
            bias_grad=self.bias.grad if self.use_bias else None,
        )
        if not self.needs_input_grad:
            return None
        dx = kernels.matmul(dz, self.weight.value.T)  # (M, D)
        return dx if grad_output.ndim == 2 else dx.reshape(*grad_output.shape[:-1], dx.shape[-1])

    def config(self) -> dict[str, Any]:
        return {
            "units": self.units,
            "activation": self.activation.name,
            "use_bias": self.use_bias,
            "kernel_initializer": as_config(self.kernel_initializer),
            "bias_initializer": as_config(self.bias_initializer),
            "kernel_regularizer": as_config(self.kernel_regularizer),
        }


def as_rows(x: NDArray) -> NDArray:
    """(N, …, D) as (M, D), where M counts all axes but the last."""
    return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
