"""Batch and layer normalization for device arrays; `reference.normalization` holds the definitions."""

from __future__ import annotations

import functools
import math
from typing import Any

from . import columns, device
from .arrays import (
    check_floats,
    check_vector,
    check_vectors,
    deliver,
    name_of,
    output,
    packed,
    plain,
)
from .device import cuda, kernel
from .instructions import pointer
from .operands import divisor
from .passes import THREADS, check_alike, check_flat, check_pieces, divide, each
from .rows import launch_rows


def column_moments(x: Any) -> tuple[Any, Any]:
    """See `reference.column_moments`. In one pass: of the distances from the first row."""
    check_floats("column_moments", x=x)
    if len(x) == 0:
        raise ValueError("column_moments: x has no rows, so its mean is not defined")
    x = plain(x)
    mean, var = (device.namespace().empty((x.shape[1],), x.dtype) for _ in range(2))
    columns.column_moments(x, mean, var)
    return mean, var


def batch_moments(
    x: Any, running_mean: Any, running_var: Any, momentum: float, epsilon: float
) -> tuple[Any, Any]:
    """See `reference.batch_moments`. One kernel."""
    name, t = "batch_moments", x.dtype.type
    check_floats(name, x=x)
    if len(x) == 0:
        raise ValueError(f"{name}: x has no rows, so its mean is not defined")
    running = {"running_mean": running_mean, "running_var": running_var}
    _vectors(name, x, **running)
    check_pieces(name, running)
    x = plain(x)
    mean, inv_std = (device.namespace().empty((x.shape[1],), x.dtype) for _ in range(2))
    factors = t(momentum), t(1 - momentum), t(epsilon), t(1)
    columns.batch_moments(x, mean, inv_std, (running_mean, running_var), factors)
    return mean, inv_std


def running_moments(
    mean: Any, var: Any, running_mean: Any, running_var: Any, momentum: float, epsilon: float
) -> Any:
    """See `reference.running_moments`. One kernel, where each of these operations alone would be a launch."""
    name = "running_moments"
    check_flat(name, mean=mean, var=var, running_mean=running_mean, running_var=running_var)
    t = mean.dtype.type
    inv_std = device.namespace().empty(mean.shape, mean.dtype)
    arrays = (mean, var, running_mean, running_var, inv_std)
    scalars = (t(momentum), t(1 - momentum), t(epsilon), t(1))
    each(running_kernel(name_of(mean.dtype)), mean.size, arrays, *scalars)
    return inv_std


@functools.cache
def running_kernel(dtype: str) -> Any:
    @kernel(THREADS)
    def move_moments(
        elements, mean, var, running_mean, running_var, inv_std, momentum, rest, epsilon, one
    ):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        mu, v = pointer(mean, one)[i], pointer(var, one)[i]
        pointer(running_mean, one)[i] = momentum * pointer(running_mean, one)[i] + rest * mu
        pointer(running_var, one)[i] = momentum * pointer(running_var, one)[i] + rest * v
        pointer(inv_std, one)[i] = one / math.sqrt(v + epsilon)

    return move_moments


def batch_norm_apply(
    x: Any, mean: Any, inv_std: Any, gamma: Any, beta: Any, out: Any = None
) -> Any:
    """See `reference.batch_norm_apply`."""
    name, dtype = "batch_norm_apply", x.dtype
    check_floats(name, x=x)
    vectors = _vectors(name, x, mean=mean, inv_std=inv_std, gamma=gamma, beta=beta)
    x = plain(x)
    y = output(name, out, x.shape, dtype, x, *vectors)
    each(apply_kernel(name_of(dtype)), x.size, (x, *vectors, y), divisor(x.shape[1]), dtype.type(0))
    return deliver(y, out)


@functools.cache
def apply_kernel(dtype: str) -> Any:
    @kernel(THREADS)
    def apply_batch_norm(elements, x, mean, inv_std, gamma, beta, y, by, like):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        _, c = divide(i, by)
        normal = (pointer(x, like)[i] - pointer(mean, like)[c]) * pointer(inv_std, like)[c]
        pointer(y, like)[i] = pointer(gamma, like)[c] * normal + pointer(beta, like)[c]

    return apply_batch_norm


def batch_norm_grad_sums(
    grad: Any, x: Any, mean: Any, inv_std: Any, gamma_grad: Any = None, beta_grad: Any = None
) -> tuple[Any, Any]:
    """See `reference.batch_norm_grad_sums`."""
    name = "batch_norm_grad_sums"
    check_floats(name, grad=grad, x=x)
    check_alike(name, grad=grad, x=x)
    moments = _vectors(name, x, mean=mean, inv_std=inv_std)
    totals = {"gamma_grad": gamma_grad, "beta_grad": beta_grad}
    given = {label: total for label, total in totals.items() if total is not None}
    if given:
        check_vectors(name, x, x.shape[1], given)
        check_pieces(name, given)
    return _grad_sums(columns.CHANNEL, grad, x, moments, (gamma_grad, beta_grad))


def _grad_sums(
    kind: str, grad: Any, x: Any, moments: list, totals: tuple = (None, None)
) -> tuple[Any, Any]:
    x, grad = plain(x), plain(grad)
    xp = device.namespace()
    if len(x) == 0:
        return xp.zeros((x.shape[1],), x.dtype), xp.zeros((x.shape[1],), x.dtype)
    dgamma, dbeta = (xp.empty((x.shape[1],), x.dtype) for _ in range(2))
    columns.grad_sums(kind, x, grad, moments, dgamma, dbeta, totals)
    return dgamma, dbeta


def batch_norm_grad_input(
    grad: Any,
    x: Any,
    gamma: Any,
    mean: Any,
    inv_std: Any,
    dgamma: Any,
    dbeta: Any,
    count: float,
    out: Any = None,
) -> Any:
    """See `reference.batch_norm_grad_input`."""
    name, dtype = "batch_norm_grad_input", x.dtype
    check_floats(name, grad=grad, x=x)
    check_alike(name, grad=grad, x=x)
    given = {"gamma": gamma, "mean": mean, "inv_std": inv_std, "dgamma": dgamma, "dbeta": dbeta}
    vectors = _vectors(name, x, **given)
    x, grad = plain(x), plain(grad)
    dx = output(name, out, x.shape, dtype, x, grad, *vectors)
    arrays, share = (grad, x, *vectors, dx), dtype.type(1 / count)
    each(grad_input_kernel(name_of(dtype)), x.size, arrays, divisor(x.shape[1]), share)
    return deliver(dx, out)


@functools.cache
def grad_input_kernel(dtype: str) -> Any:
    @kernel(THREADS)
    def batch_norm_grad(elements, g, x, gamma, mean, inv_std, dgamma, dbeta, dx, by, share):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        _, c = divide(i, by)
        factor = pointer(inv_std, share)[c]
        normal = (pointer(x, share)[i] - pointer(mean, share)[c]) * factor
        common = (pointer(dbeta, share)[c] + normal * pointer(dgamma, share)[c]) * share
        pointer(dx, share)[i] = pointer(gamma, share)[c] * factor * (pointer(g, share)[i] - common)

    return batch_norm_grad


def layer_norm(x: Any, gamma: Any, beta: Any, eps: float) -> tuple[Any, Any, Any]:
    """See `reference.layer_norm`."""
    check_floats("layer_norm", x=x)
    gamma, beta = _vectors("layer_norm", x, gamma=gamma, beta=beta)
    x, xp, dtype = plain(x), device.namespace(), x.dtype
    y, mean, inv_std = (xp.empty(shape, dtype) for shape in (x.shape, (len(x),), (len(x),)))
    arrays, function = (x, gamma, beta, y, mean, inv_std), columns.layer_norm_kernel(name_of(dtype))
    launch_rows(function, *x.shape, arrays, float(eps), dtype.type(0))
    return y, mean, inv_std


def layer_norm_grad(grad: Any, x: Any, gamma: Any, mean: Any, inv_std: Any) -> tuple[Any, Any, Any]:
    """See `reference.layer_norm_grad`."""
    name, dtype = "layer_norm_grad", x.dtype
    check_floats(name, grad=grad, x=x)
    check_alike(name, grad=grad, x=x)
    (gamma,) = _vectors(name, x, gamma=gamma)
    for label, vector in (("mean", mean), ("inv_std", inv_std)):
        check_vector(name, label, vector, len(x), dtype)
    x, grad, mean, inv_std = plain(x), plain(grad), packed(mean), packed(inv_std)
    dx = device.namespace().empty(x.shape, dtype)
    arrays, function = (
        (grad, x, gamma, mean, inv_std, dx),
        columns.layer_norm_grad_kernel(name_of(dtype)),
    )
    launch_rows(function, *x.shape, arrays, dtype.type(0))
    return dx, *_grad_sums(columns.SAMPLE, grad, x, [mean, inv_std])


def _vectors(where: str, x: Any, **vectors: Any) -> list:
    """One element for each column, side by side in memory."""
    if x.ndim != 2:
        raise ValueError(f"{where}: x must have shape (M, C), got {x.shape}")
    check_vectors(where, x, x.shape[1], vectors)
    return [packed(vector) for vector in vectors.values()]
