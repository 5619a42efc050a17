"""Batch and layer normalization: their definitions in plain NumPy.

All take x as a matrix (M, C): rows are samples, columns are channels or features. For batch normalization the
rows may be several axes, samples and pixels: x (..., C), M of them in all.
Sources: Ioffe & Szegedy 2015, "Batch Normalization", algorithm 1; Ba, Kiros & Hinton 2016,
"Layer Normalization", section 3.
"""

import numpy as np

from .activations import activation as activate
from .activations import activation_grad


def column_moments(x):
    """Mean and population variance of each column.

    x: (..., C), M >= 1. Returns mean (C,), var (C,) = sum_i (x_ic - mean_c)^2 / M, both summed in
    float64 in two passes, so that a large mean does not swallow a small variance.
    """
    x = x.reshape(-1, x.shape[-1])
    if len(x) == 0:
        raise ValueError("column_moments: x has no rows, so its mean is not defined")
    mean = np.mean(x, axis=0, dtype=np.float64)
    var = np.mean((x - mean) ** 2, axis=0)
    return mean.astype(x.dtype), var.astype(x.dtype)


def running_moments(mean, var, running_mean, running_var, momentum, epsilon):
    """Move the running moments towards those of a batch, in place; all of them (C,).

    running_mean = momentum * running_mean + (1 - momentum) * mean, and running_var likewise.
    Returns inv_std (C,) = 1 / sqrt(var + epsilon), of the batch.
    """
    for running, batch_value in ((running_mean, mean), (running_var, var)):
        running *= momentum
        running += (1 - momentum) * batch_value
    return 1 / np.sqrt(var + epsilon)


def batch_moments(x, running_mean, running_var, momentum, epsilon):
    """`column_moments` of x (..., C) and then `running_moments`: returns mean (C,) and inv_std (C,)."""
    mean, var = column_moments(x)
    return mean, running_moments(mean, var, running_mean, running_var, momentum, epsilon)


def batch_norm(x, gamma, beta, running_mean, running_var, momentum, epsilon, *, activation=None):
    """Batch normalization in training: `batch_moments` of x (..., C), then `batch_norm_apply` with them.

    Returns y (..., C), mean (C,), inv_std (C,).
    """
    mean, inv_std = batch_moments(x, running_mean, running_var, momentum, epsilon)
    return batch_norm_apply(x, mean, inv_std, gamma, beta, activation=activation), mean, inv_std


def batch_norm_grad(
    grad, x, gamma, mean, inv_std, gamma_grad=None, beta_grad=None, *, activation=None, y=None
):
    """dL/dx (..., C) of `batch_norm`: `batch_norm_grad_sums`, then `batch_norm_grad_input` with them.

    grad is dL/dy. With an activation, whose output y (..., C) must tell its slope, `activation_grad` of it is used.
    """
    dz = grad if activation is None else activation_grad(activation, grad, None, y)
    sums = batch_norm_grad_sums(dz, x, mean, inv_std, gamma_grad, beta_grad)
    return batch_norm_grad_input(dz, x, gamma, mean, inv_std, *sums, x.size // x.shape[-1])


def batch_norm_apply(x, mean, inv_std, gamma, beta, out=None, *, activation=None):
    """y = activation(gamma * (x - mean) * inv_std + beta); x (..., C), the others (C,)."""
    z = gamma * ((x - mean) * inv_std) + beta
    return _give(z if activation is None else activate(activation, z), x, out)


def batch_norm_grad_sums(grad, x, mean, inv_std, gamma_grad=None, beta_grad=None):
    """Gradients of gamma and beta: column sums of grad * x_hat and of grad.

    grad, x: (..., C); x_hat = (x - mean) * inv_std. Returns dgamma (C,), dbeta (C,). They are added to
    gamma_grad and beta_grad (C,), which lie in one piece, where these are given.
    """
    x_hat, rows = (x - mean) * inv_std, tuple(range(x.ndim - 1))
    dgamma = np.sum(grad * x_hat, axis=rows, dtype=np.float64)
    dbeta = np.sum(grad, axis=rows, dtype=np.float64)
    dgamma, dbeta = dgamma.astype(x.dtype), dbeta.astype(x.dtype)
    for total, gradient in ((gamma_grad, dgamma), (beta_grad, dbeta)):
        if total is not None:
            total += gradient
    return dgamma, dbeta


def batch_norm_grad_input(grad, x, gamma, mean, inv_std, dgamma, dbeta, count, out=None):
    """dL/dx when mean and variance came from x itself.

    dx = gamma * inv_std * (grad - dbeta / count - x_hat * dgamma / count)

    (Ioffe & Szegedy 2015, the backward equations of section 3, collected.) count is the number of
    rows that the moments and the sums were taken over: more than M if several processes shared
    their sums.
    """
    x_hat = (x - mean) * inv_std
    return _give(gamma * inv_std * (grad - (dbeta + x_hat * dgamma) / count), x, out)


def layer_norm(x, gamma, beta, eps):
    """y = gamma * x_hat + beta with x_hat = (x - mean) / sqrt(var + eps), row by row.

    x: (M, C); gamma, beta: (C,). Returns y (M, C), mean (M,), inv_std (M,) = 1 / sqrt(var + eps).
    """
    mean = np.mean(x, axis=1, dtype=np.float64)
    var = np.mean((x - mean[:, None]) ** 2, axis=1)
    inv_std = 1 / np.sqrt(var + eps)
    y = gamma * ((x - mean[:, None]) * inv_std[:, None]) + beta
    return y.astype(x.dtype), mean.astype(x.dtype), inv_std.astype(x.dtype)


def layer_norm_grad(grad, x, gamma, mean, inv_std):
    """Gradients of y = layer_norm(x, gamma, beta).

    grad, x: (M, C); gamma: (C,); mean, inv_std: (M,) from the forward pass.
    With g = grad * gamma and row means <.>:
        dx = inv_std * (g - <g> - x_hat * <g * x_hat>)
    Returns dx (M, C), dgamma (C,) = sum_i grad * x_hat, dbeta (C,) = sum_i grad.
    """
    x_hat = (x - mean[:, None]) * inv_std[:, None]
    g = grad * gamma
    mean_g = np.mean(g, axis=1, keepdims=True)
    mean_gx = np.mean(g * x_hat, axis=1, keepdims=True)
    dx = inv_std[:, None] * (g - mean_g - x_hat * mean_gx)
    dgamma = np.sum(grad * x_hat, axis=0, dtype=np.float64)
    dbeta = np.sum(grad, axis=0, dtype=np.float64)
    return dx.astype(x.dtype), dgamma.astype(x.dtype), dbeta.astype(x.dtype)


def _give(result, like, out):
    """The result in the dtype of `like`, in `out` if there is one."""
    if out is None:
        return result.astype(like.dtype)
    out[...] = result
    return out
