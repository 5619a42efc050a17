"""One update of each optimizer over flat buffers, in one pass, for device arrays; see `reference.optimizers`."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from . import device
from .arrays import check_floats, name_of, plain
from .device import ALIGNED, cuda, kernel
from .instructions import pointer
from .passes import THREADS, add_up, check_flat, each

MOST_PARTS = 1024  # blocks that share a sum


def sgd_step(value: Any, grad: Any, lr: float, weight_decay: float = 0.0) -> None:
    """See `reference.sgd_step`."""
    check_flat("sgd_step", value=value, grad=grad)
    t = value.dtype.type
    each(sgd_kernel(name_of(value.dtype)), value.size, (value, grad), t(lr), t(lr * weight_decay))


@functools.cache
def sgd_kernel(dtype: str) -> Any:
    @kernel(THREADS)
    def sgd(elements, value, grad, lr, decay):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < elements:
            w = pointer(value, lr)[i]
            w -= decay * w
            pointer(value, lr)[i] = w - lr * pointer(grad, lr)[i]

    return sgd


def momentum_step(
    value: Any,
    grad: Any,
    velocity: Any,
    lr: float,
    momentum: float,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """See `reference.momentum_step`."""
    check_flat("momentum_step", value=value, grad=grad, velocity=velocity)
    t = value.dtype.type
    scalars = (t(lr), t(lr * weight_decay), t(momentum))
    function = momentum_kernel(name_of(value.dtype), bool(nesterov))
    each(function, value.size, (value, grad, velocity), *scalars)


@functools.cache
def momentum_kernel(dtype: str, nesterov: bool) -> Any:
    @kernel(THREADS)
    def momentum_pass(elements, value, grad, velocity, lr, decay, momentum):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        w, step = pointer(value, lr)[i], lr * pointer(grad, lr)[i]
        w -= decay * w
        v = momentum * pointer(velocity, lr)[i] - step
        pointer(velocity, lr)[i] = v
        pointer(value, lr)[i] = w + (momentum * v - step if nesterov else v)

    return momentum_pass


def rmsprop_step(
    value: Any,
    grad: Any,
    square: Any,
    lr: float,
    rho: float,
    epsilon: float,
    weight_decay: float = 0.0,
    *,
    momentum: float = 0.0,
    velocity: Any = None,
    average: Any = None,
) -> None:
    """See `reference.rmsprop_step`."""
    given = {
        "value": value,
        "grad": grad,
        "square": square,
        "velocity": velocity,
        "average": average,
    }
    check_flat("rmsprop_step", **{name: x for name, x in given.items() if x is not None})
    t = value.dtype.type
    arrays = [square if x is None else x for x in given.values()]
    scalars = map(t, (lr, lr * weight_decay, rho, 1 - rho, epsilon, momentum))
    function = rmsprop_kernel(name_of(value.dtype), average is not None, velocity is not None)
    each(function, value.size, tuple(arrays), *scalars)


@functools.cache
def rmsprop_kernel(dtype: str, centered: bool, moving: bool) -> Any:
    zero = np.dtype(dtype).type(0)

    @kernel(THREADS)
    def rmsprop(
        elements, value, grad, square, velocity, average, lr, decay, rho, rest, epsilon, momentum
    ):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        w, g = pointer(value, lr)[i], pointer(grad, lr)[i]
        w -= decay * w
        variance = rho * pointer(square, lr)[i] + rest * g * g
        pointer(square, lr)[i] = variance
        if centered:
            a = rho * pointer(average, lr)[i] + rest * g
            pointer(average, lr)[i] = a
            variance -= a * a
            if variance < zero:  # by rounding
                variance = zero
        step = -lr * g / (math.sqrt(variance) + epsilon)
        if moving:
            step += momentum * pointer(velocity, lr)[i]
            pointer(velocity, lr)[i] = step
        pointer(value, lr)[i] = w + step

    return rmsprop


def adam_step(
    value: Any,
    grad: Any,
    m: Any,
    v: Any,
    lr: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
    weight_decay: float = 0.0,
) -> None:
    """See `reference.adam_step`."""
    _adam(
        "adam_step", value, grad, m, v, lr * weight_decay, beta_1, beta_2, epsilon,
        lr / (1 - beta_1**step), 0.0, 1 / (1 - beta_2**step),
    )  # fmt: skip


def nadam_step(
    value: Any,
    grad: Any,
    m: Any,
    v: Any,
    lr: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
    weight_decay: float,
    mu: float,
    mu_next: float,
    mu_product: float,
) -> None:
    """See `reference.nadam_step`."""
    _adam(
        "nadam_step", value, grad, m, v, lr * weight_decay, beta_1, beta_2, epsilon,
        lr * mu_next / (1 - mu_product * mu_next), lr * (1 - mu) / (1 - mu_product),
        1 / (1 - beta_2**step),
    )  # fmt: skip


def _adam(
    name: str, value: Any, grad: Any, m: Any, v: Any, decay: float, beta_1: float, beta_2: float,
    epsilon: float, of_mean: float, of_grad: float, of_square: float,
) -> None:  # fmt: skip
    """value -= (of_mean m + of_grad grad) / (sqrt(of_square v) + epsilon), after m and v are updated."""
    check_flat(name, value=value, grad=grad, m=m, v=v)
    factors = (decay, beta_1, 1 - beta_1, beta_2, 1 - beta_2, epsilon, of_mean, of_grad, of_square)
    scalars = map(value.dtype.type, factors)
    each(adam_kernel(name_of(value.dtype)), value.size, (value, grad, m, v), *scalars)


@functools.cache
def adam_kernel(dtype: str) -> Any:
    @kernel(THREADS)
    def adam(
        elements, value, grad, mean, square, decay, beta_1, rest_1, beta_2, rest_2, epsilon,
        of_mean, of_grad, of_square,
    ):  # fmt: skip
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        w, g = pointer(value, decay)[i], pointer(grad, decay)[i]
        w -= decay * w
        m = beta_1 * pointer(mean, decay)[i] + rest_1 * g
        v = beta_2 * pointer(square, decay)[i] + rest_2 * g * g
        pointer(mean, decay)[i], pointer(square, decay)[i] = m, v
        step = (of_mean * m + of_grad * g) / (math.sqrt(of_square * v) + epsilon)
        pointer(value, decay)[i] = w - step

    return adam


# --- sums over a buffer ---------------------------------------------------------------------------


def squared_norm(x: Any) -> float:
    """See `reference.squared_norm`. Waits for the device."""
    check_floats("squared_norm", x=x)
    device.require()
    x = plain(x)
    blocks = max(1, min(MOST_PARTS, -(-x.size // THREADS)))
    parts = device.namespace().empty((blocks,), np.dtype("float64"))
    given = (device.memory(x), device.memory(parts), x.dtype.type(0))
    device.launch(norm_kernel(name_of(x.dtype)), (blocks,), THREADS, x.size, *given)
    return float((parts.get() if hasattr(parts, "get") else parts).sum())


@functools.cache
def norm_kernel(dtype: str) -> Any:
    zero, wide = np.float64(0), np.dtype("float64")

    @kernel(THREADS)
    def sum_of_squares(elements, x, parts, like):
        shared = cuda.shared.array((1, THREADS), wide, ALIGNED)
        thread = cuda.threadIdx.x
        memory, total = pointer(x, like), zero
        for i in range(cuda.blockIdx.x * THREADS + thread, elements, cuda.gridDim.x * THREADS):
            value = np.float64(memory[i])
            total += value * value
        shared[0, thread] = total
        add_up(shared, thread, 1, cuda.syncthreads)
        if thread == 0:
            pointer(parts, zero)[cuda.blockIdx.x] = shared[0, 0]

    return sum_of_squares


def all_finite(x: Any) -> bool:
    """See `reference.all_finite`. Waits for the device."""
    return bool(device.namespace().isfinite(x).all())


def clip_(x: Any, limit: float) -> Any:
    """See `reference.clip_`."""
    if math.isnan(limit) or limit < 0:
        raise ValueError(f"clip_: limit must not be negative, but is {limit!r}")
    return device.namespace().clip(x, -limit, limit, out=x)


def scale_(x: Any, factor: float) -> Any:
    """See `reference.scale_`."""
    x *= factor
    return x
