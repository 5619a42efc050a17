"""Activation functions, as a part of other layers and as layers of their own."""

from __future__ import annotations

from typing import Any

import tinydl_kernels as kernels
from numpy.typing import NDArray

from tinydl.layers.base import Layer, Shape

# Their derivative can be written with the output y alone, so a kernel may apply them to its result before it is
# stored, and nothing but y has to be kept for the way back.
FUSED = ("relu", "leaky_relu", "sigmoid", "tanh")
NAMES = ("linear", *FUSED, "gelu", "gelu_tanh", "silu", "softmax")
ALIASES = {"swish": "silu", "identity": "linear", None: "linear"}


class ActivationFunction:
    """y = f(z) after a kernel that produced z, and dL/dz from dL/dy.

    ``fused`` is the name to hand to the kernel (``matmul(…, activation=fused)``): for those f the kernel's result
    is already y. For the others (gelu, silu, softmax) ``forward`` applies f to the z that the kernel returned.
    """

    def __init__(self, name: str | None) -> None:
        name = ALIASES.get(name, name)
        if name not in NAMES:
            raise ValueError(f"unknown activation {name!r}: expected one of {', '.join(NAMES)}")
        self.name: str = name
        self.fused = name if name in FUSED else None

    def forward(self, z: NDArray) -> NDArray:
        """``z``: what the kernel that was told ``fused`` returned."""
        if self.name == "linear":
            return z
        if self.fused:
            self.z, self.y = None, z
        elif self.name == "softmax":
            self.z, self.y = None, kernels.softmax(z)
        else:
            self.z, self.y = z, kernels.activation(self.name, z)
        return self.y

    def backward(self, grad_output: NDArray) -> NDArray:
        if self.name == "linear":
            return grad_output
        if self.name == "softmax":
            return kernels.softmax_grad(grad_output, self.y)
        return kernels.activation_grad(self.name, grad_output, self.z, self.y)
