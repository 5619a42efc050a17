"""Layer normalization: the features of every sample at mean zero and variance one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.arguments import finite_number
from tinydl.initializers import get as get_initializer
from tinydl.layers.base import Layer, Shape
from tinydl.layers.batch_norm import (
    add_gradients,
    add_scale_and_shift,
    scale_and_shift,
    scale_and_shift_config,
)


class LayerNorm(Layer):
    """y = γ x̂ + β with x̂ = (x - μ) / σ, along the last axis.

    Shapes: x (N, …, C), γ, β (C,). For each row of x (M, C), M counting all axes but the last:

        μ_i = 1/C Σ_c x_ic      v_i = 1/C Σ_c (x_ic - μ_i)²      σ_i = √(v_i + ε)

    With g = dL/dy ⊙ γ and ⟨·⟩ the mean along a row:

        dL/dγ = Σ_i dL/dy_i ⊙ x̂_i           dL/dβ = Σ_i dL/dy_i
        dL/dx_i = 1/σ_i (g_i - ⟨g_i⟩ - x̂_i ⟨g_i ⊙ x̂_i⟩)

    No batch statistics: training and inference are the same.

    Source: Ba, Kiros, Hinton 2016, "Layer Normalization", arXiv 1607.06450, eqs. 3-4.
    """

    def __init__(
        self,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.epsilon = finite_number("LayerNorm: epsilon", epsilon, low=0, above=True)
        self.center = center
        self.scale = scale
        self.beta_initializer = get_initializer(beta_initializer)
        self.gamma_initializer = get_initializer(gamma_initializer)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        add_scale_and_shift(self, input_shape, rng)

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        self.check_input(x)
        self.x = x.reshape(-1, x.shape[-1])  # (M, C)
        gamma, beta = scale_and_shift(self)
        y, self.mean, self.inv_std = kernels.layer_norm(self.x, gamma, beta, self.epsilon)
        return y.reshape(x.shape)

    def backward(self, grad_output: NDArray) -> NDArray | None:
        dy = grad_output.reshape(self.x.shape)  # (M, C)
        gamma, _ = scale_and_shift(self)
        dx, dgamma, dbeta = kernels.layer_norm_grad(dy, self.x, gamma, self.mean, self.inv_std)
        add_gradients(self, dgamma, dbeta)
        return dx.reshape(grad_output.shape) if self.needs_input_grad else None

    def config(self) -> dict[str, Any]:
        return scale_and_shift_config(self)


LayerNormalization = LayerNorm  # Keras' name
