"""Batch and layer normalization for device arrays; `reference.normalization` holds the definitions."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ..reference.activations import _check_activation
from . import columns, device
from .activations import LEAKY_SLOPE, slope_of_output, value_of
from .arrays import (
    check_floats,
    check_pieces,
    check_vector,
    deliver,
    name_of,
    output,
    packed,
    packed_vectors,
    plain,
)
from .device import cuda, kernel
from .instructions import pointer
from .operands import divisor
from .passes import THREADS, check_alike, check_flat, divide, each
from .rows import launch_rows


def column_moments(x: Any) -> tuple[Any, Any]:
    """See `reference.column_moments`. In one pass: of the distances from the first row."""
    x, (mean, var) = _rows("column_moments", x), _two_vectors(x)
    columns.column_moments(x, mean, var)
    return mean, var


def batch_moments(
    x: Any, running_mean: Any, running_var: Any, momentum: float, epsilon: float
) -> tuple[Any, Any]:
    """See `reference.batch_moments`. One kernel."""
    x, moments = _rows("batch_moments", x), _two_vectors(x)
    running = {"running_mean": running_mean, "running_var": running_var}
    check_pieces("batch_moments", x, x.shape[-1], running)
    columns.batch_moments(x, *moments, running.values(), _factors(x.dtype, momentum, epsilon))
    return moments


@functools.lru_cache(maxsize=64)
def _factors(dtype: Any, momentum: float, epsilon: float) -> tuple:
    return tuple(map(dtype.type, (momentum, 1 - momentum, epsilon, 1)))


def batch_norm(
    x: Any,
    gamma: Any,
    beta: Any,
    running_mean: Any,
    running_var: Any,
    momentum: float,
    epsilon: float,
    *,
    activation: str | None = None,
) -> tuple[Any, Any, Any]:
    """See `reference.batch_norm`. Two kernels."""
    name, x = "batch_norm", _rows("batch_norm", x)
    vectors = _vectors(name, x, {"gamma": gamma, "beta": beta})
    running = {"running_mean": running_mean, "running_var": running_var}
    check_pieces(name, x, x.shape[-1], running)
    moments, y = _two_vectors(x), device.namespace().empty(x.shape, x.dtype)
    columns.batch_moments(x, *moments, running.values(), _factors(x.dtype, momentum, epsilon))
    _apply(x, (*moments, *vectors), y, activation)
    return y, *moments


def batch_norm_grad(
    grad: Any,
    x: Any,
    gamma: Any,
    mean: Any,
    inv_std: Any,
    gamma_grad: Any = None,
    beta_grad: Any = None,
    *,
    activation: str | None = None,
    y: Any = None,
) -> Any:
    """See `reference.batch_norm_grad`. Two kernels, whatever the activation."""
    name = "batch_norm_grad"
    if activation is None:
        activation, y = "linear", grad
    check_floats(name, grad=grad, x=x, y=y)
    check_alike(name, grad=grad, x=x, y=y)
    x, grads = plain(x), (plain(grad), plain(y))
    vectors = _vectors(name, x, {"gamma": gamma, "mean": mean, "inv_std": inv_std})
    gamma, *moments = vectors
    totals = {"gamma_grad": gamma_grad, "beta_grad": beta_grad}
    check_pieces(name, x, x.shape[-1], totals)
    sums = _grad_sums(columns.CHANNEL, activation, grads, x, moments, totals.values())
    dx = device.namespace().empty(x.shape, x.dtype)
    rows = x.size // max(1, x.shape[-1])
    _grad_input(activation, (*grads, x), (*vectors, *sums), rows, dx)
    return dx


def _rows(where: str, x: Any) -> Any:
    """x, of which there must be rows, in one piece."""
    check_floats(where, x=x)
    if x.ndim < 2:
        raise ValueError(f"{where}: x must have shape (M, ..., C), got {x.shape}")
    if 0 in x.shape[:-1]:
        raise ValueError(f"{where}: x has no rows, so its mean is not defined")
    return plain(x)


def _two_vectors(x: Any) -> tuple[Any, Any]:
    """Fresh memory for a number of each column, twice."""
    empty, shape, dtype = device.namespace().empty, x.shape[-1:], x.dtype
    return empty(shape, dtype), empty(shape, dtype)


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
    x: Any,
    mean: Any,
    inv_std: Any,
    gamma: Any,
    beta: Any,
    out: Any = None,
    *,
    activation: str | None = None,
) -> Any:
    """See `reference.batch_norm_apply`."""
    name = "batch_norm_apply"
    check_floats(name, x=x)
    given = {"mean": mean, "inv_std": inv_std, "gamma": gamma, "beta": beta}
    x, vectors = plain(x), _vectors(name, x, given)
    y = output(name, out, x.shape, x.dtype, x, *vectors)
    _apply(x, vectors, y, activation)
    return deliver(y, out)


def _apply(x: Any, vectors: Any, y: Any, activation: str | None) -> None:
    function = apply_kernel(name_of(x.dtype), activation or "linear")
    slope = x.dtype.type(LEAKY_SLOPE)
    each(function, x.size, (x, *vectors, y), divisor(x.shape[-1]), slope)


@functools.cache
def apply_kernel(dtype: str, activation: str) -> Any:
    _check_activation(activation, LEAKY_SLOPE)
    value = value_of(activation, dtype)

    @kernel(THREADS)
    def apply_batch_norm(elements, x, mean, inv_std, gamma, beta, y, by, slope):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        _, c = divide(i, by)
        normal = (pointer(x, slope)[i] - pointer(mean, slope)[c]) * pointer(inv_std, slope)[c]
        z = pointer(gamma, slope)[c] * normal + pointer(beta, slope)[c]
        pointer(y, slope)[i] = value(z, slope)

    return apply_batch_norm


def batch_norm_grad_sums(
    grad: Any, x: Any, mean: Any, inv_std: Any, gamma_grad: Any = None, beta_grad: Any = None
) -> tuple[Any, Any]:
    """See `reference.batch_norm_grad_sums`. One kernel."""
    name = "batch_norm_grad_sums"
    check_floats(name, grad=grad, x=x)
    check_alike(name, grad=grad, x=x)
    grad, x = plain(grad), plain(x)
    moments = _vectors(name, x, {"mean": mean, "inv_std": inv_std})
    totals = {"gamma_grad": gamma_grad, "beta_grad": beta_grad}
    check_pieces(name, x, x.shape[-1], totals)
    return _grad_sums(columns.CHANNEL, "linear", (grad, grad), x, moments, totals.values())


def _grad_sums(
    kind: str, activation: str, grads: tuple, x: Any, moments: Any, totals: Any = (None, None)
) -> tuple[Any, Any]:
    """See `columns.grad_sums`."""
    sums = _two_vectors(x)
    if x.size:
        columns.grad_sums(kind, activation, x, grads, moments, sums, totals)
    else:
        for total in sums:
            total.fill(0)
    return sums


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
    name = "batch_norm_grad_input"
    check_floats(name, grad=grad, x=x)
    check_alike(name, grad=grad, x=x)
    grad, x = plain(grad), plain(x)
    given = {"gamma": gamma, "mean": mean, "inv_std": inv_std, "dgamma": dgamma, "dbeta": dbeta}
    vectors = _vectors(name, x, given)
    dx = output(name, out, x.shape, x.dtype, x, grad, *vectors)
    _grad_input("linear", (grad, grad, x), vectors, count, dx)
    return deliver(dx, out)


def _grad_input(activation: str, matrices: tuple, vectors: Any, count: float, dx: Any) -> None:
    function = grad_input_kernel(name_of(dx.dtype), activation)
    share = dx.dtype.type(1 / max(count, 1))
    each(function, dx.size, (*matrices, *vectors, dx), divisor(dx.shape[-1]), share)


@functools.cache
def grad_input_kernel(dtype: str, activation: str) -> Any:
    slope_by_output = slope_of_output("batch_norm_grad", activation, dtype)
    alpha, activates = np.dtype(dtype).type(LEAKY_SLOPE), activation != "linear"

    @kernel(THREADS)
    def batch_norm_grad(elements, g, y, x, gamma, mean, inv_std, dgamma, dbeta, dx, by, share):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        _, c = divide(i, by)
        factor, slope = pointer(inv_std, share)[c], pointer(g, share)[i]
        if activates:
            y_value = pointer(y, share)[i]
            slope = slope_by_output(slope, y_value, y_value, alpha)
        normal = (pointer(x, share)[i] - pointer(mean, share)[c]) * factor
        common = (pointer(dbeta, share)[c] + normal * pointer(dgamma, share)[c]) * share
        pointer(dx, share)[i] = pointer(gamma, share)[c] * factor * (slope - common)

    return batch_norm_grad


def layer_norm(x: Any, gamma: Any, beta: Any, eps: float) -> tuple[Any, Any, Any]:
    """See `reference.layer_norm`."""
    check_floats("layer_norm", x=x)
    _check_matrix("layer_norm", x)
    gamma, beta = _vectors("layer_norm", x, {"gamma": gamma, "beta": beta})
    x, xp, dtype = plain(x), device.namespace(), x.dtype
    y, mean, inv_std = (xp.empty(shape, dtype) for shape in (x.shape, (len(x),), (len(x),)))
    arrays, function = (x, gamma, beta, y, mean, inv_std), columns.layer_norm_kernel(name_of(dtype))
    launch_rows(function, *x.shape, arrays, float(eps), dtype.type(0))
    return y, mean, inv_std


def layer_norm_grad(grad: Any, x: Any, gamma: Any, mean: Any, inv_std: Any) -> tuple[Any, Any, Any]:
    """See `reference.layer_norm_grad`."""
    name, dtype = "layer_norm_grad", x.dtype
    check_floats(name, grad=grad, x=x)
    _check_matrix(name, x)
    check_alike(name, grad=grad, x=x)
    (gamma,) = _vectors(name, x, {"gamma": gamma})
    for label, vector in (("mean", mean), ("inv_std", inv_std)):
        check_vector(name, label, vector, len(x), dtype)
    x, grad, mean, inv_std = plain(x), plain(grad), packed(mean), packed(inv_std)
    dx = device.namespace().empty(x.shape, dtype)
    arrays, function = (
        (grad, x, gamma, mean, inv_std, dx),
        columns.layer_norm_grad_kernel(name_of(dtype)),
    )
    launch_rows(function, *x.shape, arrays, dtype.type(0))
    return dx, *_grad_sums(columns.SAMPLE, "linear", (grad, grad), x, (mean, inv_std))


def _check_matrix(where: str, x: Any) -> None:
    if x.ndim != 2:
        raise ValueError(f"{where}: x must have shape (M, C), got {x.shape}")


def _vectors(where: str, x: Any, vectors: dict[str, Any]) -> Any:
    """One element for each column, side by side in memory."""
    if x.ndim < 2:
        raise ValueError(f"{where}: x must have shape (M, ..., C), got {x.shape}")
    return packed_vectors(where, x, x.shape[-1], vectors)
