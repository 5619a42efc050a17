"""Activation functions, as a part of other layers and as layers of their own."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.arguments import finite_number
from tinydl.configs import near
from tinydl.layers.base import Layer

# Their derivative can be written with the output y alone, so a kernel may apply them to its result
# before it is stored, and nothing but y has to be kept for the way back.
FUSED = ("relu", "leaky_relu", "sigmoid", "tanh")
NAMES = ("linear", *FUSED, "gelu", "gelu_tanh", "silu", "softmax")
ALIASES = {"swish": "silu", "identity": "linear", None: "linear"}

LEAKY_SLOPE = 0.2  # of "leaky_relu" by name, which kernels may fuse; Keras' too


class ActivationFunction:
    """y = f(z) after a kernel that produced z, and dL/dz from dL/dy.

    ``fused`` is the name to hand to the kernel (``matmul(…, activation=fused)``): for those f the
    kernel's result is already y. For the others (gelu, silu, softmax) ``forward`` applies f to the z
    that the kernel returned.
    """

    def __init__(self, name: str | None) -> None:
        if isinstance(name, str | None):
            name = ALIASES.get(name, name)
        if name not in NAMES:
            meant = near(name.lower(), NAMES) if isinstance(name, str) else ""
            raise ValueError(
                f"unknown activation {name!r}{meant}: expected one of {', '.join(NAMES)}"
            )
        self.name: str = name
        self.fused = name if name in FUSED else None
        self.z: NDArray | None = None
        self.y: NDArray | None = None

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


class Activation(Layer):
    """y = f(x), f by its name, element by element (softmax: along the last axis).

        name        y = f(x)                                   f'(x)
        relu        max(x, 0)                                  1 where y > 0, else 0
        leaky_relu  x where x > 0, else a x (a = 0.2)          1 where y > 0, else a
        sigmoid     1 / (1 + e⁻ˣ)                              y (1 - y)
        tanh        tanh x                                     1 - y²
        gelu        x Φ(x), Φ the normal distribution          Φ(x) + x e^(-x²/2) / √(2π)
        gelu_tanh   x/2 (1 + tanh u), u = √(2/π)(x + 0.044715 x³)
        silu        x s, s = sigmoid(x)                        s + x s (1 - s)
        softmax     y_k = e^(x_k) / Σ_j e^(x_j)                ∂y_k/∂x_j = y_k (δ_kj - y_j)

    Shapes: x, y (N, …). dL/dx = dL/dy ⊙ f'(x); for softmax dL/dx = y ⊙ (dL/dy - ⟨dL/dy, y⟩).

    Sources: Goodfellow, Bengio, Courville 2016, "Deep Learning", sections 6.2.2 and 6.3; Maas et al.
    2013 (leaky_relu); Hendrycks, Gimpel 2016, arXiv 1606.08415 (gelu, silu).
    """

    def __init__(self, activation: str | None, name: str | None = None) -> None:
        super().__init__(name)
        self.activation = ActivationFunction(activation)

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        self.check_input(x)
        if self.activation.fused:  # no kernel before this one: it is applied here
            x = kernels.activation(self.activation.name, x, alpha=LEAKY_SLOPE)
        return self.activation.forward(x)

    def backward(self, grad_output: NDArray) -> NDArray | None:
        return self.activation.backward(grad_output) if self.needs_input_grad else None

    def config(self) -> dict[str, Any]:
        return {"activation": self.activation.name}


class _Named(Activation):
    """An activation that its class names; the function is fixed in the constructor."""

    function: str

    def __init__(self, name: str | None = None) -> None:
        super().__init__(self.function, name or type(self).__name__.lower())

    def config(self) -> dict[str, Any]:
        return {}


class ReLU(_Named):
    """y = max(x, 0): Nair, Hinton 2010, "Rectified Linear Units Improve RBMs". See Activation."""

    function = "relu"


class Sigmoid(_Named):
    """y = 1 / (1 + e⁻ˣ). See Activation."""

    function = "sigmoid"


class Tanh(_Named):
    """y = tanh x. See Activation."""

    function = "tanh"


class SiLU(_Named):
    """y = x sigmoid(x), also called swish. See Activation."""

    function = "silu"


class Softmax(_Named):
    """y_k = e^(x_k) / Σ_j e^(x_j) along the last axis. See Activation.

    For classification leave it out: the losses take logits, which is exact where a softmax rounds
    to 0 or 1.
    """

    function = "softmax"


class GELU(Activation):
    """y = x Φ(x); with ``approximate`` the form with tanh. See Activation."""

    def __init__(self, approximate: bool = False, name: str | None = None) -> None:
        super().__init__("gelu_tanh" if approximate else "gelu", name)
        self.approximate = bool(approximate)

    def config(self) -> dict[str, Any]:
        return {"approximate": self.approximate}


class LeakyReLU(Layer):
    """y = x where x > 0, else a x, with a = ``negative_slope``; dL/dx = dL/dy ⊙ (1 or a).

    Shapes: x, y (N, …). Source: Maas, Hannun, Ng 2013, "Rectifier Nonlinearities Improve Neural
    Network Acoustic Models", section 2.
    """

    def __init__(self, negative_slope: float = 0.3, name: str | None = None) -> None:
        super().__init__(name or "leaky_relu")
        self.negative_slope = finite_number(
            "LeakyReLU: negative_slope (ReLU's is 0)", negative_slope, low=0, above=True
        )

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        self.check_input(x)
        # a > 0 keeps the sign: y tells on which side x was.
        self.y = kernels.activation("leaky_relu", x, alpha=self.negative_slope)
        return self.y

    def backward(self, grad_output: NDArray) -> NDArray | None:
        if not self.needs_input_grad:
            return None
        return kernels.activation_grad(
            "leaky_relu", grad_output, None, self.y, alpha=self.negative_slope
        )

    def config(self) -> dict[str, Any]:
        return {"negative_slope": self.negative_slope}
