"""Matrix products in plain NumPy: the definition that every other `matmul` must equal."""

from __future__ import annotations

import numpy as np


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    bias: np.ndarray | None = None,
    activation: str | None = None,
    bias_grad: np.ndarray | None = None,
) -> np.ndarray:
    """out = activation(alpha * a @ b + beta * out + bias)

    Args:
        a: (..., M, K), with at most one batch dimension; or (K,), then `out` has no M.
        b: (..., K, N), likewise; or (K,), then `out` has no N.
        out: (..., M, N). With beta = 0 its former content is ignored, even a NaN.
        bias: (N,), added to each row.
        activation: None, "relu", "leaky_relu" (slope 0.2 below zero), "sigmoid" or "tanh".
        bias_grad: (N,), into which the column sums of b are ADDED. When b is the gradient of the loss
            with respect to the output of a dense layer, as in dW = x.T @ b, this is the gradient of
            the bias.
    """
    product = np.asarray(alpha * np.matmul(a, b))
    if out is not None and beta != 0:
        product = product + beta * out
    if bias is not None:
        product = product + bias
    product = _ACTIVATIONS[activation](product).astype(a.dtype, copy=False)
    if bias_grad is not None:
        bias_grad += b.sum(axis=tuple(range(b.ndim - 1)))
    if out is None:
        return product
    out[...] = product
    return out


_ACTIVATIONS = {
    None: lambda z: z,
    "relu": lambda z: np.where(z < 0, 0, z),  # a NaN stays a NaN
    "leaky_relu": lambda z: np.where(z < 0, 0.2 * z, z),
    "sigmoid": lambda z: np.where(z < 0, np.exp(-abs(z)), 1) / (1 + np.exp(-abs(z))),
    "tanh": np.tanh,
}
