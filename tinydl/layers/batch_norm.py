"""Batch normalization: every channel at mean zero and variance one over the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.arguments import finite_number, fraction
from tinydl.configs import as_config
from tinydl.devices import namespace
from tinydl.initializers import get as get_initializer
from tinydl.layers.activations import ActivationFunction
from tinydl.layers.base import Layer, Shape


class BatchNorm(Layer):
    """y = f(z) with z = γ x̂ + β and x̂ = (x - μ) / σ, for each channel (the last axis); f, the ``activation``, is by
    default none.

    Shapes: x (N, …, C), γ, β, μ, σ (C,). M counts all x_i, that is all axes but the last; in training

        μ = 1/M Σ_i x_i        v = 1/M Σ_i (x_i - μ)²        σ = √(v + ε)

    are the batch's own, and with momentum m the running ones move towards them:

        running_mean ← m running_mean + (1 - m) μ            running_var ← m running_var + (1 - m) v

    Since μ and σ depend on every x_i, two sums come back through them:

        dL/dz = dL/dy ⊙ f'(z)
        dL/dγ = Σ_i dL/dz_i ⊙ x̂_i           dL/dβ = Σ_i dL/dz_i
        dL/dx_i = γ/σ (dL/dz_i - 1/M dL/dβ - x̂_i/M dL/dγ)

    In inference, when the layer is frozen (``trainable = False``) and in an empty batch (M = 0), μ and v
    are the running ones, constants, and dL/dx_i = γ/σ dL/dz_i.

    v is the population variance (divided by M), in the running one too, as in Keras.

    Source: Ioffe, Szegedy 2015, "Batch Normalization", arXiv 1502.03167, algorithms 1 and 2; the
    backward equations of section 3, collected.
    """

    def __init__(
        self,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        activation: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.momentum = fraction("BatchNorm: momentum", momentum)
        self.epsilon = finite_number("BatchNorm: epsilon", epsilon, low=0, above=True)
        self.center = center
        self.scale = scale
        self.beta_initializer = get_initializer(beta_initializer)
        self.gamma_initializer = get_initializer(gamma_initializer)
        self.activation = ActivationFunction(activation)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        add_scale_and_shift(self, input_shape, rng)
        channels = self.input_shape[-1]
        self.state["running_mean"] = np.zeros(channels, self.dtype)
        self.state["running_var"] = np.ones(channels, self.dtype)

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        self.check_input(x)
        self.x = x  # (N, …, C)
        gamma, beta = scale_and_shift(self)
        self.uses_batch = training and self.trainable and self.has_rows(x)
        if self.uses_batch:
            y = self.normalize(x, gamma, beta)
        else:
            self.mean, var = self.state["running_mean"].copy(), self.state["running_var"]
            self.inv_std = 1 / np.sqrt(var + self.epsilon)  # 1/σ (C,)
            y = kernels.batch_norm_apply(
                x, self.mean, self.inv_std, gamma, beta, activation=self.activation.fused
            )
        return self.activation.forward(y)

    def backward(self, grad_output: NDArray) -> NDArray | None:
        gamma, _ = scale_and_shift(self)
        if self.uses_batch and self.needs_input_grad:
            return self.differentiate(grad_output, gamma)
        dz = self.activation.backward(grad_output)  # (N, …, C)
        moments = self.mean, self.inv_std
        sums = kernels.batch_norm_grad_sums(dz, self.x, *moments, *gradients(self))
        if not self.needs_input_grad:
            return None
        zeros = map(np.zeros_like, sums)  # μ and σ are constants: nothing comes back through them
        return kernels.batch_norm_grad_input(dz, self.x, gamma, *moments, *zeros, 1)

    def has_rows(self, x: NDArray) -> bool:
        """Whether M > 0; a process may have an empty part of a batch."""
        return x.size > 0

    # One process sees its own rows; a synchronized BatchNorm does these two otherwise.

    def normalize(self, x: NDArray, gamma: NDArray, beta: NDArray) -> NDArray:
        """By the batch's μ and σ, which are kept; the running moments are moved. y, or z if f is not fused."""
        running, f = (self.state["running_mean"], self.state["running_var"]), self.activation
        y, self.mean, self.inv_std = kernels.batch_norm(
            x, gamma, beta, *running, self.momentum, self.epsilon, activation=f.fused
        )
        return y

    def differentiate(self, grad_output: NDArray, gamma: NDArray) -> NDArray:
        """dL/dx, where x went through ``normalize``; dL/dγ and dL/dβ are added to the gradients."""
        f, moments = self.activation, (self.mean, self.inv_std)
        dy = grad_output if f.fused else f.backward(grad_output)
        return kernels.batch_norm_grad(
            dy, self.x, gamma, *moments, *gradients(self), activation=f.fused, y=f.y
        )

    def config(self) -> dict[str, Any]:
        return {
            "momentum": self.momentum,
            **scale_and_shift_config(self),
            "activation": self.activation.name,
        }


# ---- γ and β, which layer normalization has as well ------------------------------------------------


def add_scale_and_shift(layer: Any, input_shape: Shape, rng: np.random.Generator) -> None:
    """The parameters γ (if ``layer.scale``) and β (if ``layer.center``), one for each channel."""
    if not input_shape or not input_shape[-1]:
        raise ValueError(f"layer '{layer.name}' needs a known last axis, got {input_shape}")
    shape = input_shape[-1:]
    layer.gamma = layer.beta = None
    if layer.scale:
        layer.gamma = layer.add_parameter("gamma", shape, layer.gamma_initializer, rng, decay=False)
    if layer.center:
        layer.beta = layer.add_parameter("beta", shape, layer.beta_initializer, rng, decay=False)


def scale_and_shift(layer: Any) -> tuple[NDArray, NDArray]:
    """The values of γ and β, beside ``layer.x``; of those that the layer does without, 1 and 0."""
    if layer.gamma is not None and layer.beta is not None:
        return layer.gamma.value, layer.beta.value
    channels, xp = layer.input_shape[-1], namespace(layer.x)
    gamma = xp.ones(channels, layer.dtype) if layer.gamma is None else layer.gamma.value
    beta = xp.zeros(channels, layer.dtype) if layer.beta is None else layer.beta.value
    return gamma, beta


def gradients(layer: Any) -> tuple[NDArray | None, NDArray | None]:
    """Where dL/dγ and dL/dβ are added up; None for those that the layer does without."""
    gamma, beta = layer.gamma, layer.beta
    return None if gamma is None else gamma.grad, None if beta is None else beta.grad


def add_gradients(layer: Any, dgamma: NDArray, dbeta: NDArray) -> None:
    if layer.gamma is not None:
        layer.gamma.grad += dgamma
    if layer.beta is not None:
        layer.beta.grad += dbeta


def scale_and_shift_config(layer: Any) -> dict[str, Any]:
    return {
        "epsilon": layer.epsilon,
        "center": layer.center,
        "scale": layer.scale,
        "beta_initializer": as_config(layer.beta_initializer),
        "gamma_initializer": as_config(layer.gamma_initializer),
    }


BatchNormalization = BatchNorm  # Keras' name
